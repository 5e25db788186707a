"""Where a text names what its header names: persons, numbers, dates and places."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from medvlp.archive.privacy.dates import spellings
from medvlp.archive.privacy.fold import Folded, fold
from medvlp.archive.privacy.pseudonyms import parse_date
from medvlp.config import read_yaml

Span = tuple[int, int, str]
"""Start, end, category."""

_WORDS: Mapping[str, frozenset[str]] = {
    name: frozenset(words.split())
    for name, words in read_yaml(Path(__file__).with_name("name_words.yaml")).items()
}
_PARTICLES, _TITLES, _ALSO_WORDS = (_WORDS[k] for k in ("particles", "titles", "also_words"))
_CAPITALISED, _GENERIC_PLACES = (_WORDS[k] for k in ("capitalised", "generic_places"))
NAME_COLUMNS = _WORDS["columns"]
"""What columns of names are called in hospitals' tables, without case and marks."""

NOBODY = _WORDS["nobody"] | _GENERIC_PLACES
"""Words in such columns that name nobody."""

_OPENERS = _WORDS["openers"] | _CAPITALISED

_SHORT = "short number"
_BESIDE = re.compile(
    r"(?:\b(?:mr|mrs|ms|miss|dr|prof|herrn?|frau|mme|madame|monsieur|sr|sra|senora?|sig|signora?|"
    r"name|nom|nombre|nome|patient|patientin|paziente|paciente|by|von)\b[.:]?\s*|,\s*)$"
)
_CUE = re.compile(
    r"(?:\b(?:id|nr|no|num|mrn|mr|pat|patient|acc|accession|fall|case)\b[.:#\s-]*|#\s*)$"
)
_UNIT = re.compile(r"\s?(?:mm|cm|ml|cc|hu|mg|mgy|kv|mas|ma|%|x\s?\d)|[.,]\d")
_COUNTED = re.compile(
    r"(?:\b(?:series|serie|se|image|img|im|bild|slices?|schicht|schnitt|level|frame|in|since|seit|depuis|"
    r"dal?|desde|b|te|tr|kv|iopromid|iomeprol|iohexol)\s?=?\s?|[\d.,/x×=<>~-]\s?)$"
)
_NO_BOUNDARY = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u1100-\u11ff]")


@dataclass(frozen=True)
class _Sought:
    """What is looked for, made into a pattern only where a text may hold it."""

    needles: frozenset[str]
    """A folded text without any of these does not hold it."""

    expression: str
    category: str
    initials: frozenset[str] = frozenset()

    def matches(self, text: str) -> Iterator[re.Match[str]]:
        """Where a folded text holds it."""
        if any(needle in text for needle in self.needles):
            yield from _compiled(self.expression).finditer(text)


@lru_cache(maxsize=4096)
def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(expression)


@dataclass(frozen=True)
class Identifiers:
    """Identifiers, made ready to be looked for in texts."""

    persons: tuple[_Sought, ...]
    exact: tuple[_Sought, ...]

    @classmethod
    def of(cls, raw: frozenset[str]) -> Identifiers:
        """Make ready what a header says, each by its form.

        With ``^``: a person's name in DICOM's writing. A date as YYYYMMDD or ISO. With another
        digit: a number. Anything else: a word or a phrase.
        """
        return _prepared(raw)

    def find(self, text: str) -> list[Span]:
        """The spans of `text` that name one of them."""
        folded = fold(text)
        spans = [span for person in self.persons for span in _of_person(person, folded, text)]
        for sought in self.exact:
            short = sought.category == _SHORT
            for match in sought.matches(folded.text):
                if not short or _meant(folded.text, match):
                    kind = "number" if short else sought.category
                    spans.append((*folded.span(*match.span()), kind))
        return spans


@lru_cache(maxsize=512)
def _prepared(raw: frozenset[str]) -> Identifiers:
    persons: list[_Sought] = []
    exact: list[_Sought] = []
    words: set[str] = set()
    for identifier in sorted({r.strip() for r in raw} - {""}):
        date = parse_date(identifier) if re.match(r"\d{4}-?\d\d-?\d\d", identifier) else None
        if date is not None and date.year >= 1850:
            # Month names aside, any way to write a date has its day and its month or year.
            exact.append(_Sought(frozenset({str(date.day)}), spellings(date), "date"))
        elif "^" in identifier:
            persons += [p for group in identifier.split("=") if (p := _person(group))]
        elif any(c.isdigit() for c in identifier):
            exact += _number(identifier)
        elif re.search(r"[\s,]", identifier):
            exact += _phrase(identifier)
        elif fold(identifier).text not in _GENERIC_PLACES:
            words.add(identifier)
    if words and (person := _person("^".join(sorted(words)))):
        persons.append(person)
    return Identifiers(tuple(persons), tuple(exact))


def _person(name: str) -> _Sought | None:
    parts = [part for part in re.split(r"[\^\s,;]+", name.strip()) if part]
    folded = [fold(part).text.strip("-'.") for part in parts]
    kept = {word for word in folded if word and word not in _TITLES | _PARTICLES}
    pieces = {piece for word in kept for piece in word.split("-") if len(piece) > 2}
    whole = {word for word in kept | pieces if len(word) > 1 or _NO_BOUNDARY.match(word)}
    variants = sorted({v for word in whole for v in _variants(word)}, key=len, reverse=True)
    if not variants:
        return None
    body = "|".join(map(_flexible, variants))
    free = "|".join(_flexible(v) for v in variants if len(v) > 1 and _NO_BOUNDARY.search(v))
    before = "".join(rf"(?:{word}\s)?" for word in folded if word in _PARTICLES)
    pattern = rf"(?<![^\W_]){before}(?:{body})(?:'?s)?(?![^\W_])" + (f"|{free}" if free else "")
    return _Sought(
        frozenset(filter(None, (re.split(r"\W", v)[0] for v in variants))),
        pattern,
        "name",
        frozenset(word[0] for word in kept if word[0].isalpha()),
    )


def _flexible(word: str) -> str:
    return re.escape(word).replace(r"\-", r"[-\s]?").replace("'", "['\\s]?")


def _variants(word: str) -> Iterator[str]:
    """The word, and as it is written where a keyboard lacks its letters, or has them."""
    yield word
    for long, short in (("ae", "a"), ("oe", "o"), ("ue", "u"), ("aa", "a")):
        if long in word:
            yield word.replace(long, short)
    for short, long in (("a", "ae"), ("o", "oe"), ("u", "ue")):
        if short in word and long not in word and len(word) > 3:
            yield word.replace(short, long)
    umlauts = re.sub("[aou]", lambda m: m[0] + "e", word)
    yield umlauts


def _of_person(person: _Sought, folded: Folded, text: str) -> Iterator[Span]:
    found = [match.span() for match in person.matches(folded.text)]
    for start, end in _joined(folded.text, found):
        span = folded.span(start, end)
        whole = _with_initials(text, *span, person.initials)
        several = (start, end) not in found or whole != span
        if several or _is_name(folded, text, start, end):
            yield (*whole, "name")
    for match in re.finditer(r"(?<!\w)(?:[^\W\d_]\.[ -]?){2,4}(?!\w)", text):
        letters = [fold(c).text[:1] for c in match[0] if c.isalpha()]
        if set(letters) <= person.initials and len(set(letters)) == len(letters):
            yield (match.start(), match.start() + len(match[0].rstrip()), "name")


def _joined(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Words of one name that stand side by side, also with an initial or ``von`` between."""
    between = re.compile(
        rf"[\s,.^-]*(?:(?:[a-z]\.?|{'|'.join(sorted(_PARTICLES))})[\s,.^-]+){{0,3}}"
    )
    merged: list[tuple[int, int]] = []
    for start, end in spans:
        if merged and between.fullmatch(text[merged[-1][1] : start]):
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def _is_name(folded: Folded, text: str, start: int, end: int) -> bool:
    """Whether a single word of a name is one here, where it might be a word of the language."""
    word = folded.text[start:end]
    if not word.isascii() or (len(word) > 2 and word not in _ALSO_WORDS):
        return True
    first, last = folded.span(start, end)
    if not text[first].isupper():
        return False
    if word not in _ALSO_WORDS:
        return True
    if _BESIDE.search(folded.text[:start]) or re.match(r",\s[A-Z]", text[last:]):
        return True
    # A capital counts, unless all are capitals, every noun has one, or a sentence begins so.
    before = text[:first].rstrip(" ")
    begins = not before or before[-1] in ".:;!?-\n"
    return not text.isupper() and word not in (_OPENERS if begins else _CAPITALISED)


def _with_initials(text: str, start: int, end: int, initials: frozenset[str]) -> tuple[int, int]:
    def known(letters: str) -> bool:
        return all(fold(c).text[:1] in initials for c in letters if c.isupper())

    before = re.search(r"(?<!\w)(?:[^\W\d_a-z]e?\.[ -]?|[^\W\d_a-z]e? )+$", text[:start])
    if before and known(before[0]):
        start = before.start()
    after = re.match(r",?[ ](?:[^\W\d_a-z]e?\.-?[ ]?)+|,?[ ][^\W\d_a-z](?![\w'.])", text[end:])
    if after and known(after[0]):
        end += len(after[0].rstrip())
    return start, end


def _number(raw: str) -> Iterator[_Sought]:
    value = fold(raw).text
    letters = re.sub(r"[^0-9a-z]", "", value)
    edges = r"(?<![0-9a-z]){}(?![0-9a-z])"
    if len(letters) < 4 and letters == value:
        yield _Sought(frozenset({value}), edges.format(re.escape(value)), _SHORT)
        return
    if len(letters) < 5:
        category = _SHORT if value.isdigit() else "number"
        yield _Sought(frozenset({value}), edges.format(re.escape(value)), category)
        return
    digits = re.fullmatch(r"[a-z]+(\d{5,})", letters)
    for form in {letters.lstrip("0"), *((digits[1].lstrip("0"),) if digits else ())}:
        # Points are separators only in numbers too long to be a measurement.
        gaps = " -/_." if len(form) > 6 else " -/_"
        if len(form) > 3:
            needles = {form[:3]} | {
                form[:k] + gap + form[k : k + 1] for gap in gaps for k in (1, 2)
            }
            expression = edges.format("0*" + f"[{re.escape(gaps)}\\s]?".join(form))
            yield _Sought(frozenset(needles | _broken(form)), expression, "number")


def _broken(form: str) -> set[str]:
    """How a number may begin that is broken off early by another blank."""
    return {form[:k] + blank for k in (1, 2) for blank in "\t\n\u00a0"}


def _phrase(raw: str) -> Iterator[_Sought]:
    words = re.findall(r"\w+", fold(raw).text)
    if sum(map(len, words)) > 3 and not set(words) <= _GENERIC_PLACES:
        body = r"[\W_]+".join(map(re.escape, words))
        yield _Sought(frozenset({words[0]}), rf"(?<![^\W_]){body}(?![^\W_])", "place")


def _meant(text: str, match: re.Match[str]) -> bool:
    """Whether a short number is an identifier here: after a cue, or no measurement or count."""
    before = text[: match.start()]
    if _CUE.search(before):
        return True
    return len(match[0]) > 2 and not (_UNIT.match(text[match.end() :]) or _COUNTED.search(before))


def merged(spans: list[Span]) -> list[Span]:
    """Spans in order, overlapping ones made one."""
    whole: list[Span] = []
    for start, end, category in sorted(spans):
        if whole and start < whole[-1][1]:
            first, last, kept = whole[-1]
            whole[-1] = (first, max(last, end), kept)
        else:
            whole.append((start, end, category))
    assert all(a[1] <= b[0] for a, b in pairwise(whole))
    return whole
