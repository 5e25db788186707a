"""The text tree of a recording: procedure, phases, steps and clips, and what is odd about it.

Texts of several sources may tell of one span (two speech recognisers, key steps, sentences made
from labels); each is a node of its own. A text's parent is the one that it names, else the nearest
level above at the same time.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvlp.archive.intake import Intake
from medvlp.data.tables import LEVELS
from medvlp_video.spans import SLACK_S, Span, overlapping

Place = tuple[Path, int]
"""A table and the number of a row, from 1."""

_EXCLUSIVE = ("phase", "step")
"""Kinds of timed regions of which one holds at a time; names begin with the kind and a colon."""

_BELOW_PHASES = ("step", "clip")


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """One text of a recording."""

    level: str
    text: str
    source: str
    span: Span | None = None
    """None where it is about the whole recording."""

    node: str | None = None
    """What others call it that name it as their parent."""

    parent: str | None = None
    confidence: float | None = None
    place: Place | None = None
    """Where it stands, if it is to be listed."""


@dataclass(frozen=True, slots=True)
class _Placed:
    rank: int
    span: Span | None
    node: str


def write_texts(intake: Intake, sample: str, passages: Sequence[Passage]) -> None:
    """Give a sample its text tree.

    A phase or step that leaves its parent's span by less than `SLACK_S` is cut there. A text whose
    named parent is missing or of no higher level, and a phase or step that lies elsewhere than its
    named parent, becomes a root: it is listed (``orphan_text``, ``span_outside_parent``), counted
    in the note ``orphan_texts`` and flagged. A clip stays with the parent that it names; where that
    lies elsewhere, it is counted and flagged (``outside_parent``).
    """
    ordered = sorted(passages, key=lambda p: (_rank(p.level), p.span or (0.0, 0.0)))
    placed: list[_Placed] = []
    named: dict[str, _Placed] = {}
    siblings: Counter[str | None] = Counter()
    odd: Counter[str] = Counter()
    for passage in ordered:
        parent, fault = _parent(passage, placed, named)
        odd["orphan_texts"] += bool(fault)
        odd["outside_parent"] += parent is not None and not _holds(parent, passage)
        if fault and passage.place:
            intake.reject_row(*passage.place, fault)
        span = _cut(passage, parent)
        start_s, end_s = span or (None, None)
        above = parent.node if parent else None
        node = intake.node(
            sample, level=passage.level, text=passage.text, source=passage.source, parent=above,
            start_s=start_s, end_s=end_s, order=siblings[above], confidence=passage.confidence,
        )  # fmt: skip
        siblings[above] += 1
        placed.append(_Placed(_rank(passage.level), span, node))
        if passage.node:
            named[passage.node] = placed[-1]
    _remark(intake, sample, odd)


def remark_hierarchy(
    intake: Intake,
    sample: str,
    passages: Iterable[Passage],
    regions: Iterable[tuple[str, Span]],
) -> None:
    """Flag and count what contradicts itself: nothing is taken away.

    - ``overlapping_spans``: texts of one level and one source, or two phases or two steps among
      the timed regions, hold at one time. Texts of different sources may.
    - ``outside_phases``: steps and clips that lie in no phase of a recording that has phases.
    """
    texts = list(passages)
    groups: defaultdict[tuple[str, str], list[Span]] = defaultdict(list)
    for text in texts:
        if text.span:
            groups[text.level, text.source].append(text.span)
    for name, span in regions:
        if (kind := name.partition(":")[0]) in _EXCLUSIVE:
            groups[kind, ":regions"].append(span)
    phases = [span for (level, _), spans in groups.items() if level == "phase" for span in spans]
    lower = [text.span for text in texts if text.level in _BELOW_PHASES and text.span]
    outside = sum(not any(_middle_in(outer, span) for outer in phases) for span in lower)
    counts = {
        "overlapping_spans": sum(map(overlapping, groups.values())),
        "outside_phases": outside if phases else 0,
    }
    _remark(intake, sample, counts)


def _remark(intake: Intake, sample: str, counts: Mapping[str, int]) -> None:
    for name, count in counts.items():
        if count:
            intake.notes[name] += count
            intake.flag(sample, name)


def _parent(
    passage: Passage, placed: Sequence[_Placed], named: Mapping[str, _Placed]
) -> tuple[_Placed | None, str]:
    """What stands above a text, and the code of what is wrong with the parent that it names."""
    if not passage.parent:
        return _above(passage, placed), ""
    found = named.get(passage.parent)
    if found is None or found.rank >= _rank(passage.level):
        return None, "orphan_text"
    if passage.level != "clip" and not _holds(found, passage):
        return None, "span_outside_parent"
    return found, ""


def _above(passage: Passage, placed: Sequence[_Placed]) -> _Placed | None:
    """The first node of the nearest higher level that holds a text."""
    best: _Placed | None = None
    for one in placed:
        higher = one.rank < _rank(passage.level) and (best is None or one.rank > best.rank)
        if higher and _holds(one, passage):
            best = one
    return best


def _holds(above: _Placed, passage: Passage) -> bool:
    """Whether a text lies in the span of a node above.

    What was said (a clip) may drift over the edge of its phase; for phases and steps a rounding
    error is all that is forgiven.
    """
    if above.span is None:
        return True
    if passage.span is None or not _middle_in(above.span, passage.span):
        return False
    (start_s, end_s), (from_s, to_s) = passage.span, above.span
    close = start_s >= from_s - SLACK_S and end_s <= to_s + SLACK_S
    return passage.level == "clip" or close


def _cut(passage: Passage, parent: _Placed | None) -> Span | None:
    if passage.level == "clip" or passage.span is None or parent is None or parent.span is None:
        return passage.span
    return max(passage.span[0], parent.span[0]), min(passage.span[1], parent.span[1])


def _middle_in(outer: Span, inner: Span) -> bool:
    return outer[0] <= (inner[0] + inner[1]) / 2 < outer[1]


def _rank(level: str) -> int:
    return LEVELS.index(level)
