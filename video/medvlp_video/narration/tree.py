"""Rows of the table of texts that `medvlp index --kind video` reads, and of those beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import polars as pl

from medvlp_video.narration.narrative import Narrative, Step
from medvlp_video.narration.speech import mean_confidence

Row = dict[str, Any]
Caption = Callable[[Sequence[str]], str | None]

_WORDS, _NUMBER = pl.String(), pl.Float64()
_SPAN: Mapping[str, pl.DataType] = {"start_s": _NUMBER, "end_s": _NUMBER}

TEXTS: Mapping[str, pl.DataType] = {
    "video": _WORDS, "node": _WORDS, "parent": _WORDS, "level": _WORDS, "source": _WORDS, **_SPAN,
    "text": _WORDS, "confidence": _NUMBER,
}  # fmt: skip
"""The text tree."""

UNITS: Mapping[str, pl.DataType] = {
    "video": _WORDS, "node": _WORDS, "sentences": _WORDS, "surgical": _NUMBER, "beaten": _NUMBER,
}  # fmt: skip
"""Of each caption: the nodes of its sentences, their mean score, and the share of mismatched pairs
that a step beats."""

LEFT_OUT: Mapping[str, pl.DataType] = {
    "video": _WORDS, "source": _WORDS, **_SPAN, "reason": _WORDS, "score": _NUMBER, "text": _WORDS,
}  # fmt: skip
"""What was said and is no node."""

REFUSED: Mapping[str, pl.DataType] = {
    "source": _WORDS, "file": _WORDS, "row": pl.Int64(), "code": _WORDS, "message": _WORDS,
}  # fmt: skip
"""Files, and rows of the table of titles, that could not be used."""

ROOT = "procedure"


@dataclass(frozen=True, kw_only=True)
class Titles:
    """What is written about a recording as a whole."""

    title: str = ""
    abstract: str = ""

    def rows(self, video: str) -> Iterator[Row]:
        """Its nodes, the abstract first, for it says more."""
        for source, text in (("abstract", self.abstract), ("title", self.title)):
            if text:
                yield _row(video, f"{ROOT}:{source}", ROOT, source, text)


class Tree:
    """Collects the nodes of one recording.

    Args:
        video: Its name.
        titles: What is written about it.
        caption: Writes captions of sentences; None leaves them out.
    """

    def __init__(self, video: str, titles: Titles | None, caption: Caption | None) -> None:
        self.video = video
        self.texts: list[Row] = list(titles.rows(video)) if titles is not None else []
        self.units: list[Row] = []
        self.refused_captions = 0
        self.caption = caption

    def add(self, name: str, told: Narrative, beaten: Mapping[Step, float]) -> None:
        """Add what one speech recogniser heard.

        Args:
            name: The recogniser's; empty where there is one alone.
            told: What was heard.
            beaten: Share of mismatched pairs that a step beats, where that was looked at.
        """
        if told.phases:
            _Branch(self, name, told).grow(beaten)


class _Branch:
    """What one speech recogniser heard, on its way into the tree."""

    def __init__(self, tree: Tree, name: str, told: Narrative) -> None:
        self._tree = tree
        self._prefix = f"{name}:" if name else ""
        self._suffix = f":{name}" if name else ""
        self._told = told
        places = (i for phase in told.phases for i in phase.sentences)
        self._clips = {place: f"{self._prefix}clip{n}" for n, place in enumerate(places)}

    def grow(self, beaten: Mapping[Step, float]) -> None:
        """Add all nodes, each after the one above it."""
        above = self._tree.texts[0]["node"] if self._tree.texts else None
        whole = self._central(ROOT, ROOT, tuple(self._clips), None, None)
        root = above or whole
        steps = count()
        for n, phase in enumerate(self._told.phases):
            node, written = self._unit("phase", f"phase{n}", phase.sentences, (root, root))
            for step in phase.steps:
                name = f"step{next(steps)}"
                under, _ = self._unit("step", name, step, (node, written), beaten.get(step))
                for place in step:
                    said = self._told.sentences[place]
                    span = (said.start_s, said.end_s)
                    self._add("clip", self._clips[place], under, "asr", said.text, span,
                              said.confidence)  # fmt: skip

    def _unit(
        self,
        level: str,
        name: str,
        places: Step,
        parents: tuple[str, str],
        beaten: float | None = None,
    ) -> tuple[str, str]:
        """Add a unit's central sentence and the model's caption, below a node each.

        Returns:
            The nodes of the two; where the model wrote nothing of use, the first one twice.
        """
        node = self._central(level, name, places, parents[0], beaten)
        if self._tree.caption is None:
            return node, node
        said = [self._told.sentences[i] for i in places]
        caption = self._tree.caption([sentence.text for sentence in said])
        if caption is None:
            self._tree.refused_captions += 1
            return node, node
        written = f"{node}:llm"
        sure = mean_confidence(sentence.confidence for sentence in said)
        self._add(level, written, parents[1], "llm", caption, self._told.span(places), sure)
        self._tell_of(written, places, beaten)
        return node, written

    def _central(
        self, level: str, name: str, places: Step, parent: str | None, beaten: float | None
    ) -> str:
        node = f"{self._prefix}{name}"
        best = self._told.sentences[self._told.central(places)]
        span = (None, None) if level == ROOT else self._told.span(places)
        self._add(level, node, parent, "central", best.text, span, best.confidence)
        self._tell_of(node, places, beaten)
        return node

    def _add(
        self,
        level: str,
        node: str,
        parent: str | None,
        source: str,
        text: str,
        span: tuple[float | None, float | None],
        confidence: float | None,
    ) -> None:
        row = _row(self._tree.video, node, level, f"{source}{self._suffix}", text)
        start_s, end_s = map(_rounded, span)
        self._tree.texts.append(
            {**row, "parent": parent, "start_s": start_s, "end_s": end_s,
             "confidence": _rounded(confidence)}
        )  # fmt: skip

    def _tell_of(self, node: str, places: Step, beaten: float | None) -> None:
        self._tree.units.append(
            {
                "video": self._tree.video,
                "node": node,
                "sentences": " ".join(self._clips[i] for i in places),
                "surgical": _rounded(sum(self._told.scores[i] for i in places) / len(places)),
                "beaten": _rounded(beaten),
            }
        )


def _row(video: str, node: str, level: str, source: str, text: str) -> Row:
    """A node without parent, span and confidence."""
    return {
        "video": video, "node": node, "parent": None, "level": level, "source": source,
        "start_s": None, "end_s": None, "text": text, "confidence": None,
    }  # fmt: skip


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
