"""A report's sections: where a heading stands, whoever typed it and however.

Headings are data (`headings.yaml`, or a file of the user's). The rules are about layout alone: a
heading stands at a line's start, after a full stop or apart by its capitals, and ends with a
colon, a dash, its line, or where sentence case begins. A heading's word inside a sentence
("Comparison is made with ...") is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from medvlp.config import read_yaml, validate
from medvlp.errors import ConfigError

BODY = "body"
"""Canonical name of text under no heading."""

ADDENDUM = "addendum"
"""Canonical name of what was added to a report later, and a heading in every language."""

COMBINED = "findings_impression"
"""Canonical name of text that is findings and impression at once."""

NOT_SEEN = frozenset(
    {"indication", "technique", "comparison", "examination", "limitations", "recommendation",
     "notification", "signature"}
)  # fmt: skip
"""Canonical names of sections that do not say what this examination shows."""

_DEFAULT_HEADINGS = Path(__file__).with_name("headings.yaml")
_SECTIONS_OF_COMBINED = frozenset({"findings", "impression"})

_LINE_ENDS = re.compile(r"\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_DECORATION = re.compile(
    r"[ \t\xa0*_#>|\[({•●▪◦~=+-]*"
    r"(?:\(?\d{1,2}[.)][ \t]*|(?:I{1,3}|IV|VI{0,3}|IX)[.)][ \t]+)?[*_\[]*"
    r"(?:<\w{1,6}>)*"
)
_MOST_DECORATION = 24
_BLANKS = " \t\xa0"
_OPENERS = f"{_BLANKS}*_[("
_STOPS = ".!?"
_CLOSED = re.compile(r"[ \t]*(?:[*_]{1,4}|\]|</\w{1,6}>)")
_QUALIFIER = re.compile(r"[ \t\xa0]*\([^()\n]{0,60}\)")
_COLON = re.compile(r"[ \t\xa0]*[:：](?:[*_]{1,4}|</\w{1,6}>)?")
_DASH = re.compile(r"[ \t\xa0]+(?:--?|[–—]|=+>)[ \t\xa0]+(?=\S)")
_STOP = re.compile(r"[.;](?=\s)")
_LINE_END = re.compile(r"[ \t\xa0=~-]*(?:\n[ \t]*[-=_~*]{3,200}[ \t]*)?(?=\n|\Z)")
_RULES = re.compile(r"\A(?:[-=_~*]{3,200}\s+)+|(?:\n[ \t]*[-=_~*]{3,200})+\Z")
_JOIN = re.compile(r"[ \t]*[/&+][ \t]*")
_NEXT_WORD = re.compile(r"[ \t\xa0]+[\"'(\[*_]{0,3}(?:,(?=\d))?([^\s\"'()\[\]*_,.;:]{1,40})")
_FIELD = re.compile(r"((?:[ \t\xa0]+[^\s:]{1,40}){1,3})[ \t]*:(?!\d)")
_SHOUTED = 0.1
"""A text with a smaller share of small letters is written in capitals throughout."""
_SHORTEST_INSIDE = 6
_BROKEN = range(51, 131)
"""Lengths of lines that a machine may have broken off."""

# fmt: off
_CONTINUE = frozenset({
    "about", "above", "according", "also", "and", "appear", "appears", "are", "as",
    "at", "be", "been", "being", "below", "but", "by", "can", "cannot", "certainly",
    "compatible", "concerning", "consist", "consistent", "consists", "could", "demonstrate",
    "demonstrated", "demonstrates", "described", "did", "discussed", "do", "does", "due", "for",
    "from", "further", "given", "had", "has", "have", "however", "if", "in", "include",
    "included", "includes", "including", "indicate", "indicates", "indicative", "into", "is",
    "likely", "made", "may", "might", "most", "must", "not", "noted", "obtained", "of", "on",
    "or", "otherwise", "over", "possibly", "probably", "reflect", "reflecting", "reflects",
    "regarding", "relate", "related", "remain", "remains", "represent", "representing",
    "represents", "reveal", "reveals", "seem", "seems", "seen", "should", "show", "showing",
    "shown", "shows", "similar", "such", "suggest", "suggested", "suggesting", "suggestive",
    "suggests", "support", "supports", "than", "that", "these", "this", "those", "to", "under",
    "unless", "upon", "versus", "via", "vs", "was", "were", "when", "where", "which", "will",
    "with", "within", "without", "worrisome", "would",
})
# fmt: on
"""Words after which a heading's word was the beginning of a sentence: ``FINDINGS SUGGEST ...``."""

Place = Literal["line", "stop", "glued", "inside"]
"""At a line's start, after a full stop, directly behind a word or stop, or within a line."""


class Headings:
    """Which headings open which section.

    Args:
        names: Canonical section name -> headings, in any case.

    Raises:
        ConfigError: A heading without a letter.
    """

    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        self._canonical = {
            _normal(heading): name
            for name, headings in {ADDENDUM: (), **names}.items()
            for heading in (name, *headings)
        }
        by_first: dict[str, list[str]] = {}
        for heading in sorted(self._canonical, key=len, reverse=True):
            by_first.setdefault(_first_word(heading), []).append(heading)
        self._starts = {first: _pattern(headings) for first, headings in by_first.items()}
        firsts = "|".join(map(re.escape, sorted(by_first, key=len, reverse=True)))
        # At a word's beginning, or in capitals behind small letters ("clearIMPRESSION:").
        self._candidate = re.compile(
            rf"(?:(?<![^\W_])|(?-i:(?<=[a-zß-ÿ])(?=[A-ZÀ-Þ]{{4}})))(?:{firsts})(?![^\W_])",
            re.IGNORECASE,
        )

    def canonical(self, heading: str) -> str | None:
        """The section that these words open, if they are a heading."""
        return self._canonical.get(_normal(heading))

    def candidates(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Start, end and section of all heading words in a text, whether they head or not."""
        for word in self._candidate.finditer(text):
            found = self._at(text, word)
            if found is None:
                continue
            end, name = found
            join = _JOIN.match(text, end)
            following = self._candidate.match(text, join.end()) if join else None
            second = self._at(text, following) if following else None
            if second is not None:
                both = {name, second[1]} >= _SECTIONS_OF_COMBINED
                end, name = second[0], COMBINED if both else name
            yield word.start(), end, name

    def _at(self, text: str, word: re.Match[str]) -> tuple[int, str] | None:
        """End and section of the longest heading that begins with this word."""
        # A few letters are equal when case is ignored and yet have no such small letter.
        pattern = self._starts.get(word.group().lower())
        match = pattern.match(text, word.start()) if pattern else None
        name = self.canonical(match.group()) if match else None
        return (match.end(), name) if match and name else None


@dataclass(frozen=True, slots=True)
class Section:
    """A report's part under one heading."""

    name: str
    text: str


def load_headings(path: Path | None = None) -> Headings:
    """The headings in a YAML file (canonical name -> list of headings), by default English ones.

    Raises:
        ConfigError: The file is unreadable or of another form.
    """
    return _load_headings(path or _DEFAULT_HEADINGS)


@cache
def _load_headings(path: Path) -> Headings:
    names: dict[str, list[str]] = validate(dict[str, list[str]], read_yaml(path), path.name)
    if not names:
        raise ConfigError(f"{path.name} holds no headings", remedy="write findings: [Befund]")
    return Headings(names)


def sections(text: str, headings: Headings | None = None) -> list[Section]:
    r"""The sections of a report in order; text before the first heading is `BODY`.

    A heading that comes again (in an addendum, say) opens a section of its own. Empty sections
    are left out.

    >>> [(s.name, s.text) for s in sections("FINDINGS: Clear lungs.\nIMPRESSION: Normal.")]
    [('findings', 'Clear lungs.'), ('impression', 'Normal.')]
    """
    text = _LINE_ENDS.sub("\n", text)
    shouted = _is_shouted(text)
    found, name, start = [], BODY, 0
    for first, end, opened in (headings or load_headings()).candidates(text):
        if first < start:
            continue
        heading = _Words(text, first, end, start, shouted)
        content = heading.content()
        if content is not None:
            found.append(Section(name, text[start : heading.start]))
            name, start = opened, content
    found.append(Section(name, text[start:]))
    bare = ((s.name, _RULES.sub("", s.text.strip())) for s in found)
    return [Section(name, words) for name, words in bare if any(map(str.isalnum, words))]


class _Words:
    """Heading words at a place in a text; they head a section where the layout says so.

    Args:
        text: The report.
        first: Where the words begin.
        end: Where they end.
        section: Where the section before them begins.
        shouted: Whether the whole text is written in capitals.
    """

    def __init__(self, text: str, first: int, end: int, section: int, shouted: bool) -> None:
        self.text = text
        self.first = first
        self.end = end
        self.shouted = shouted
        words = text[first:end]
        self.upper = words.isupper()
        self.capital = words[0].isupper()
        self.start, self.place = self._locate(section)
        self.section = section

    def content(self) -> int | None:
        """Where the section's text begins, or None if the words are no heading."""
        text = self.text
        closed = _CLOSED.match(text, self.end)
        end = closed.end() if closed else self.end
        qualifier = _QUALIFIER.match(text, end)
        after = qualifier.end() if qualifier else end
        colon = _COLON.match(text, after)
        if colon:
            return colon.end() if self._with_colon() else None
        line_end = _LINE_END.match(text, after)
        if line_end:
            return line_end.end() if self._alone() else None
        if closed and text[self.first - 1 : self.first] in tuple("*_[>"):
            return closed.end() if self.place != "inside" else None
        return self._apart()

    def _locate(self, section: int) -> tuple[int, Place]:
        """Where the heading with its decoration begins, and what stands before it."""
        text, first = self.text, self.first
        line = max(text.rfind("\n", max(0, first - 200), first) + 1, section)
        near = first - line <= _MOST_DECORATION
        if near and _DECORATION.fullmatch(text, line, first):
            return line, "line"
        if text[first - 1] not in _OPENERS:
            return first, "glued"
        start = first
        while start > section and text[start - 1] in _OPENERS:
            start -= 1
        before = text[max(section, start - 3) : start].rstrip("\"')]")
        return start, "stop" if before.endswith(tuple(_STOPS)) else "inside"

    def _with_colon(self) -> bool:
        """``FINDINGS:``, in small letters only at the beginning of a line or sentence."""
        if self.place == "glued":
            return self.capital and self._glued_well()
        return self.capital or self.place != "inside"

    def _alone(self) -> bool:
        """At the end of its line."""
        if self.place == "line":
            return (self.capital and not self.shouted) or self._fresh()
        return self.upper and not self.shouted and self.place != "inside"

    def _apart(self) -> int | None:
        """Set apart by a dash, a full stop or capitals."""
        text = self.text
        at_line = self.place == "line"
        dash = _DASH.match(text, self.end)
        if dash:
            return dash.end() if self._stands_out() or (self.capital and at_line) else None
        stop = _STOP.match(text, self.end)
        if stop:
            apart = self._stands_out() and self.place != "inside"
            return stop.end() if apart or (self.upper and at_line and self._fresh()) else None
        word = _NEXT_WORD.match(text, self.end)
        return self.end if word and self._runs_in(word.group(1)) else None

    def _stands_out(self) -> bool:
        return self.upper and not self.shouted and (self.place != "glued" or self._glued_well())

    def _runs_in(self, word: str) -> bool:
        """``IMPRESSION No acute ...``: the next word does not go on with a sentence."""
        goes_on = word.lower() in _CONTINUE and (self.shouted or not word.istitle())
        if goes_on or self._is_field():
            return False
        if self.place == "line":
            titled = self.capital and word[:1].isupper() and word[1:2].islower()
            return self._stands_out() or ((self.upper or titled) and self._fresh())
        if self.place == "inside":
            long = self.end - self.first >= _SHORTEST_INSIDE
            return self._stands_out() and long and not word[0].islower() and not self._in_capitals()
        return self._stands_out()

    def _is_field(self) -> bool:
        """``EXAM DATE:`` or ``Study Number:``: the beginning of another field's name."""
        field = _FIELD.match(self.text, self.end)
        if not field:
            return False
        return field.group(1).isupper() if self.upper else field.group(1).istitle()

    def _in_capitals(self) -> bool:
        """Whether the word before is in capitals as well (``CHEST EXAMINATION``)."""
        before = self.text[max(self.section, self.start - 40) : self.start].split()
        return bool(before) and len(before[-1]) > 1 and before[-1].isupper()

    def _glued_well(self) -> bool:
        """Behind a stop (``effusion.IMPRESSION``), or in capitals behind small letters."""
        before = self.text[self.first - 1]
        return before in _STOPS + ")" or (self.upper and before.islower())

    def _fresh(self) -> bool:
        """Whether what stands before the line is complete, and not a line broken by a machine."""
        before = self.text[max(self.section, self.start - 200) : self.start]
        bare = before.rstrip()
        broken = len(bare) - bare.rfind("\n") in _BROKEN
        return not broken or before.count("\n", len(bare)) > 1 or bare[-1] in _STOPS + ":)]-=*_"


def _is_shouted(text: str) -> bool:
    small = sum(map(str.islower, text))
    return small < _SHOUTED * (small + sum(map(str.isupper, text)))


def _normal(heading: str) -> str:
    return " ".join(heading.lower().split())


def _first_word(heading: str) -> str:
    word = re.match(r"[^\W_]+", heading)
    if word is None:
        raise ConfigError("a heading begins with no letter", remedy="write findings: [Befund]")
    return word.group()


def _pattern(headings: Sequence[str]) -> re.Pattern[str]:
    words = "|".join(r"[ \t\xa0]+".join(map(re.escape, h.split())) for h in headings)
    return re.compile(rf"(?:{words})(?![^\W_])", re.IGNORECASE)
