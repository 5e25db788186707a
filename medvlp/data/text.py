"""Reports to the text tree: report > section > sentence.

The splitter knows radiology's full stops: 3.5 cm, 1.2 x 0.8 cm, "Dr.", "T1.", numbered lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from medvlp.config import read_yaml, validate
from medvlp.errors import ConfigError

BODY = "body"
"""Canonical name of text under no heading."""

_DEFAULT_HEADINGS = Path(__file__).with_name("headings.yaml")
_WRAPPED_FROM = 60
"""A text with lines longer than this was wrapped by a machine: its line ends mean nothing."""

# fmt: off
_ABBREVIATIONS = frozenset({
    "approx", "ca", "cf", "dept", "dr", "drs", "e.g", "est", "ext", "fig", "figs", "i.e", "incl",
    "int", "max", "min", "mr", "mrs", "ms", "prof", "resp", "s.p", "st", "vs",
})
"""Words whose full stop never ends a sentence."""

_MEASURES = frozenset({
    "a.p", "ant", "cm", "hr", "hrs", "in", "inf", "l", "lat", "ml", "mm", "no", "nr", "p", "post",
    "r", "sec", "sup",
})
# fmt: on
"""Words whose full stop ends a sentence only before a capital letter."""

_ENUMERATOR = re.compile(r"(?:\(?\d{1,2}[.)]|[-*•‣–])\s+(?=\S)")
_ITEM_LINE = re.compile(rf"\s*{_ENUMERATOR.pattern}")
_BOUNDARY = re.compile(r"(?P<word>\S*?)(?P<stop>[.!?]+[\"')\]]*)\s+(?=(?P<next>\S))")
_NUMBER_ONLY = re.compile(r"\(?\d{1,2}[.)]")

Row = dict[str, Any]


class Headings:
    """Which headings open which section.

    Args:
        names: Canonical section name -> headings, in any case.
    """

    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        self.canonical = {
            " ".join(heading.lower().split()): name
            for name, headings in names.items()
            for heading in (name, *headings)
        }
        longest_first = sorted(self.canonical, key=len, reverse=True)
        words = "|".join(r"\s+".join(map(re.escape, h.split())) for h in longest_first)
        # At a line's start or after a full stop, with a colon; or alone on its line.
        self.pattern = re.compile(
            rf"(?:(?:^|(?<=[.!?])\s)[ \t]*({words})[ \t]*:|^[ \t]*({words})[ \t]*$)",
            re.IGNORECASE | re.MULTILINE,
        )

    def name(self, match: re.Match[str]) -> str:
        """The canonical name of a heading found by `pattern`."""
        words = match.group(1) or match.group(2)
        return self.canonical[" ".join(words.lower().split())]


@dataclass(frozen=True)
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

    >>> [(s.name, s.text) for s in sections("FINDINGS: Clear lungs.\nIMPRESSION: Normal.")]
    [('findings', 'Clear lungs.'), ('impression', 'Normal.')]
    """
    known = headings or load_headings()
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    found, name, start = [], BODY, 0
    for match in known.pattern.finditer(text):
        found.append(Section(name, text[start : match.start()]))
        name, start = known.name(match), match.end()
    found.append(Section(name, text[start:]))
    return [Section(s.name, s.text.strip()) for s in found if s.text.strip()]


def sentences(text: str) -> list[str]:
    """The sentences of a section, without list numbers and bullets.

    >>> sentences("1. Nodule of 3.5 cm in the left lobe. 2. Dr. XXXX was told.")
    ['Nodule of 3.5 cm in the left lobe.', 'Dr. XXXX was told.']
    """
    found = [s for block in _blocks(text) for s in _split(block)]
    return [s for s in found if any(c.isalnum() for c in s)]


def report_nodes(
    sample: str,
    text: str,
    source: str = "report",
    *,
    headings: Headings | None = None,
    first: int = 0,
) -> list[Row]:
    """A report as rows of `tables.TEXTS`: report > section > sentence.

    Args:
        sample: Pseudonymous sample id; the nodes' ids begin with it.
        text: The whole report.
        source: Where the words come from. Sections carry their canonical heading instead,
            except in text that is ``synthetic:...``, which says so in every node.
        headings: Section headings; English ones by default.
        first: Number of the first node, if the sample has nodes already.
    """
    rows: list[Row] = []

    def add(level: str, words: str, origin: str, parent: str | None, order: int) -> str:
        node = f"{sample}-{first + len(rows)}"
        rows.append(text_row(sample, node, level, words, source=origin, parent=parent, order=order))
        return node

    parts = sections(text, headings)
    if not parts:
        return rows
    root = add("report", text.strip(), source, None, 0)
    for i, part in enumerate(parts):
        origin = source if source.startswith("synthetic:") else part.name
        section = add("section", " ".join(part.text.split()), origin, root, i)
        for j, sentence in enumerate(sentences(part.text)):
            add("sentence", sentence, source, section, j)
    return rows


def text_row(
    sample: str,
    node: str,
    level: str,
    text: str,
    *,
    source: str,
    parent: str | None = None,
    order: int = 0,
    start_s: float | None = None,
    end_s: float | None = None,
    confidence: float | None = None,
) -> Row:
    """One row of `tables.TEXTS`."""
    return {
        "sample": sample,
        "node": node,
        "parent": parent,
        "level": level,
        "source": source,
        "start_s": start_s,
        "end_s": end_s,
        "order": order,
        "text": text,
        "confidence": confidence,
    }


def _blocks(text: str) -> Iterator[str]:
    """Runs of lines that belong together, each joined into one line."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    wrapped = max(map(len, lines)) > _WRAPPED_FROM
    block: list[str] = []
    for line in lines:
        if block and (not line.strip() or _opens(line, block[-1], wrapped)):
            yield " ".join(" ".join(block).split())
            block = []
        if line.strip():
            block.append(line)
    if block:
        yield " ".join(" ".join(block).split())


def _opens(line: str, before: str, wrapped: bool) -> bool:
    """Whether a line begins a new block: a list item, or a new sentence in unwrapped text."""
    if _ITEM_LINE.match(line):
        return not before.rstrip().endswith(",")
    return not wrapped and line.lstrip()[0].isupper() and not before.rstrip().endswith(",")


def _split(block: str) -> Iterator[str]:
    start = 0
    for match in _BOUNDARY.finditer(block):
        if _ends(match, at_start=match.start("word") == start):
            yield _bare(block[start : match.end("stop")])
            start = match.end()
    if start < len(block):
        yield _bare(block[start:])


def _ends(match: re.Match[str], *, at_start: bool) -> bool:
    word = match["word"].lstrip("(\"'[").lower()
    after = match["next"]
    if at_start and _NUMBER_ONLY.fullmatch(match["word"] + match["stop"]):
        return False
    if word in _ABBREVIATIONS:
        return False
    if word in _MEASURES:
        # "No. 3 tube", "3 cm. in length"; but "No." alone before a capital answers a question.
        return after.isupper()
    return after.isalnum() or after in "(\"'[-*•‣–"


def _bare(sentence: str) -> str:
    words = sentence.strip()
    item = _ENUMERATOR.match(words)
    return words[item.end() :] if item else words
