"""A section's sentences, by rules that know radiology's full stops.

A stop ends no sentence in 3.5 cm, 1.2 x 0.8 cm, "Dr.", "Fig. 3", "No. 3", "e.g." or a date, and
ends one without a space behind it ("effusion.No pneumothorax"). List items and table rows are
sentences of their own; lines that a machine wrapped are joined. Runs in linear time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_WRAPPED = range(60, 131)
"""Lengths of the longest line at which a text was wrapped by a machine: line ends mean nothing."""

# fmt: off
_ABBREVIATIONS = frozenset({
    "approx", "bzw", "cf", "dept", "dr", "drs", "e.g", "est", "evtl", "fig", "figs",
    "ggf", "i.e", "incl", "inkl", "mr", "mrs", "ms", "prof", "st", "vgl", "vs", "z.b",
})
"""Words whose full stop never ends a sentence."""

_MEASURES = frozenset({
    "a.m", "a.p", "abd", "ant", "bil", "bilat", "ca", "cm", "dl", "etc", "ext", "g", "hr", "hrs",
    "hx", "im", "img", "in", "inf", "inj", "int", "kg", "l", "lat", "lt", "m.d", "max", "mg",
    "min", "ml", "mm", "p", "p.a", "p.m", "post", "pt", "pts", "r", "resp", "rt", "sec", "ser",
    "sup", "u.s",
})
"""Words whose full stop ends a sentence only before a capital letter."""

_NUMBERED = frozenset({"fig", "figs", "im", "img", "no", "nos", "nr", "p", "pg", "ref", "ser"})
"""Words whose full stop ends no sentence before a number: ``No. 3``."""

_TITLES = frozenset({"dr", "drs", "prof", "mr", "mrs", "ms", "by"})
_BEFORE_ORDINALS = frozenset({
    "der", "die", "das", "den", "dem", "des", "am", "im", "zum", "vom", "ab", "bis", "und",
})
_TOP_DOMAINS = frozenset({"com", "edu", "gov", "net", "org"})
# fmt: on

_LINE_ENDS = re.compile(r"\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_BULLETS = '•●▪◦‣–*"“”'
_ENUMERATOR = re.compile(rf"(?:\(?\d{{1,2}}[.)](?:\s+|(?=[^\W\d_]))|[-{_BULLETS}]+\s+)(?=\S)")
_NUMBER = re.compile(r"\(?(\d{1,2})")
_INITIALS = re.compile(r"[A-ZÀ-Þ](?:\.[A-ZÀ-Þ])*")
_TABLE_GAP = re.compile(r"[^\s.!?](?:[ ]*\t[ \t]*|[ ]*\|[ ]*|[ ]{4,})\S")
_RUN_ON = re.compile(
    r"(?:,|\b(?:and|or|of|the|a|an|with|in|to|for|by|at|from|is|are))\Z", re.IGNORECASE
)
_WORD = re.compile(r"[^\W\d_]+")
# A run of stops is looked at once, from its beginning, so that no text takes quadratic time.
_BOUNDARY = re.compile(
    r"(?P<stop>(?<![.!?])[.!?]++)(?P<close>[\"')\]”’»]{0,4})(?P<gap>\s*)(?=\S)"
    r"|(?P<bullet>(?<=\s)(?:[•●▪◦‣](?=\s)|[\"“”](?=\s[A-ZÀ-Þ])))"
    r"|(?:(?<=\s)|\A)\(?(?P<item>\d{1,2})\)\s+(?=\S)"
)
_NOT_FIRST = ",;:)]}/=%"
_LONGEST_WORD = 40
_LONGEST_PARENTHESIS = 150


def sentences(text: str) -> list[str]:
    """The sentences of a section, without list numbers and bullets.

    >>> sentences("1. Nodule of 3.5 cm in the left lobe. 2. Dr. XXXX was told.")
    ['Nodule of 3.5 cm in the left lobe.', 'Dr. XXXX was told.']
    """
    found = [s for block in _blocks(text) for s in _split(block)]
    return [s for s in found if any(map(str.isalnum, s))]


def _blocks(text: str) -> Iterator[str]:
    """Runs of lines that belong together, each joined into one line."""
    lines = _LINE_ENDS.sub("\n", text).split("\n")
    width = max(map(len, map(str.rstrip, lines)))
    block: list[str] = []
    for line in lines:
        if block and (not line.strip() or _opens(line, block[-1], width)):
            yield " ".join(" ".join(block).split())
            block = []
        if line.strip():
            block.append(line)
    if block:
        yield " ".join(" ".join(block).split())


def _opens(line: str, before: str, width: int) -> bool:
    """Whether a line begins a new block: a list item, a table's row, or a line of its own."""
    before = before.rstrip()
    if _RUN_ON.search(before, len(before) - 8):
        return False
    if _ENUMERATOR.match(line.lstrip()) or _TABLE_GAP.search(line) or _TABLE_GAP.search(before):
        return True
    if not line.lstrip()[0].isupper():
        return False
    # A machine breaks a line only where the next word had no room.
    word = len(line.split(maxsplit=1)[0])
    return width not in _WRAPPED or len(before) + 1 + word <= width


def _split(block: str) -> Iterator[str]:
    sentence = _Sentence(block)
    for boundary in _BOUNDARY.finditer(block):
        end = sentence.end(boundary)
        if end is not None:
            yield _bare(block[sentence.start : end])
            sentence.begin(max(end, boundary.end()) if boundary["bullet"] else end)
    yield _bare(block[sentence.start :])


class _Sentence:
    """The sentence that begins at `start` of a block; boundaries are shown to it in order."""

    def __init__(self, block: str) -> None:
        self.block = block
        self.start = 0
        self._number = 0
        """Of the list item that the sentence belongs to; 0 outside lists."""
        self._open = 0
        """Parentheses open at `_counted`."""
        self._counted = 0

    def begin(self, start: int) -> None:
        """Begin the next sentence at the first word from `start` on."""
        while start < len(self.block) and self.block[start].isspace():
            start += 1
        self.start = self._counted = start
        self._open = 0

    def end(self, boundary: re.Match[str]) -> int | None:
        """Where the sentence ends, if it does at this boundary."""
        if boundary["bullet"]:
            return boundary.start()
        if boundary["item"]:
            return self._before_item(boundary.start(), int(boundary["item"]))
        word_at = self._word_at(boundary.start("stop"))
        number = _NUMBER.fullmatch(self.block, word_at, boundary.start("stop"))
        if number and boundary["stop"] == "." and self._lists(word_at, int(number[1])):
            return self._before_item(word_at, int(number[1]))
        if boundary.end("close") <= self.start or self._in_parenthesis(boundary.end("close")):
            return None
        stop = _Stop(self.block, self.start, word_at, boundary)
        return boundary.end("close") if stop.ends() else None

    def _lists(self, at: int, number: int) -> bool:
        """Whether a number with a full stop counts a list's items."""
        return at == self.start or (self._number > 0 and number == self._number + 1)

    def _before_item(self, at: int, number: int) -> int | None:
        follows = self._number > 0 and number == self._number + 1
        if at == self.start or follows:
            self._number = number
        return at if follows and at > self.start else None

    def _word_at(self, stop: int) -> int:
        lowest = max(self.start, stop - _LONGEST_WORD)
        return max(lowest, self.block.rfind(" ", lowest, stop) + 1)

    def _in_parenthesis(self, end: int) -> bool:
        self._open += self.block.count("(", self._counted, end)
        self._open -= self.block.count(")", self._counted, end)
        self._counted = end
        return self._open > 0 and ")" in self.block[end : end + _LONGEST_PARENTHESIS]


class _Stop:
    """A full stop, question or exclamation mark with the words around it."""

    def __init__(self, block: str, start: int, word_at: int, boundary: re.Match[str]) -> None:
        at = boundary.end()
        self.raw = block[word_at : boundary.start("stop")].lstrip("(\"'[")
        self.word = self.raw.lower()
        self.stop = boundary["stop"]
        self.closed = boundary["close"]
        self.gap = boundary["gap"]
        self.after = block[at : at + _LONGEST_WORD]
        self.next = self.after[0]
        before = block[max(start, word_at - _LONGEST_WORD) : word_at].split()
        self.before = before[-1].rstrip(".").lower() if before else ""

    def ends(self) -> bool:
        """Whether the sentence ends here."""
        if self.word in _ABBREVIATIONS or (not self.raw and self.closed):
            return False
        if not self.gap:
            return not self.closed and self.raw != "" and self._glued()
        if len(self.stop) > 1 and self.stop.strip(".") == "":
            return self.next.isupper()
        if self.word in _NUMBERED and self.next.isdigit():
            return False
        if self.word in _MEASURES:
            # "No. 3 tube", "3 cm. in length"; but before a capital the sentence is over.
            return self.next.isupper() or (self.next.isdigit() and self.before[-1:].isdigit())
        inside = ")" in self.closed and self.next.islower()
        if self.next in _NOT_FIRST or inside or self._names():
            return False
        return not (self.before in _BEFORE_ORDINALS and re.fullmatch(r"\d{1,2}", self.word))

    def _names(self) -> bool:
        """Whether the word is a person's initials: ``Dr. J. Smith``, ``J.R. Smith``."""
        if not _INITIALS.fullmatch(self.raw):
            return False
        initial = len(self.before) == 1 and self.before.isalpha()
        return len(self.raw) > 1 or self.before in _TITLES or initial

    def _glued(self) -> bool:
        """Whether a sentence ends without a space behind it."""
        word = _WORD.match(self.after)
        if self.word in _MEASURES | _NUMBERED and not self.next.isupper():
            return False
        plain = len(self.raw) > 3 and self.raw.isalpha()
        if word is None:
            return plain and self.next.isdigit()
        following = word.group()
        if self.next.isupper():
            return len(self.raw) > 1 and "." not in self.raw[-3:] and self.after[1:2] != "."
        spaced = self.after[len(following) :][:1] in ("", " ", ",")
        return plain and spaced and len(following) > 1 and following not in _TOP_DOMAINS


def _bare(sentence: str) -> str:
    words = sentence.strip()
    item = _ENUMERATOR.match(words)
    return words[item.end() :] if item else words
