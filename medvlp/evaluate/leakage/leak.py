"""What a leak is, and how a protocol overrules one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass as checked_dataclass

from medvlp.config import STRICT

Kind = Literal[
    "patient", "study", "file", "pixels", "image", "recording", "text", "prompt", "training"
]
"""What is shared: the patient; the study; the bytes of a file; its decoded pixels, whatever the
file's format; the picture, cropped, windowed, compressed, mirrored, resized or inverted; a
published recording; a long report, word for word or nearly; a prompt's own words with a report.
``training``: a model was trained on what is evaluated here in whole, by its own account."""

FOR_WORDS = frozenset({"text"})
"""Kinds that spoil only tasks whose answers are words: a report that two patients share says
nothing about an image's label."""

WORD_TASKS = frozenset({"retrieval", "temporal-retrieval", "order", "generation", "vqa"})


@checked_dataclass(frozen=True, kw_only=True, config=STRICT)
class LeakageConfig:
    """What the gate looks at, and which leaks are let through."""

    allow: tuple[Kind, ...] = ()
    """Kinds that do not refuse the evaluation; they are printed beside the numbers. Part of the
    protocol's digest."""

    trained_on: tuple[Path, ...] = ()
    """Manifests that the bundles were trained on, where they are not found by themselves: a
    bundle in its run folder tells where they were."""


@dataclass(frozen=True, kw_only=True)
class Leak:
    """Samples that stand on both sides; counts only, no names."""

    kind: Kind
    between: tuple[str, str]
    """What is evaluated, and where it is known from: ``split train``, ``training of NAME``."""

    count: int
    of: int
    """How many samples (or prompts) were looked at."""

    model: str | None = None
    """Whose numbers it spoils; None: everybody's."""

    detail: str = ""
    """One line for people."""

    refuses: bool = True
    """Whether the evaluation stops for it unless it is allowed."""


Leaks = Sequence[Mapping[str, Any]]
"""Leaks as `metrics.json` lists them."""


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """What the gate found, and what it could not look at."""

    leaks: tuple[Leak, ...] = ()
    unchecked: tuple[str, ...] = ()
    allowed: tuple[Kind, ...] = field(default=())

    def plain(self) -> dict[str, Any]:
        """``leaks`` and ``leaks_unchecked`` of `metrics.json`."""
        return {
            "leaks": [
                {**dataclasses.asdict(leak), "allowed": leak.kind in self.allowed}
                for leak in self.leaks
            ],
            "leaks_unchecked": list(self.unchecked),
        }

    @property
    def refusing(self) -> Sequence[Leak]:
        """Leaks that stop the evaluation."""
        return [leak for leak in self.leaks if leak.refuses and leak.kind not in self.allowed]


def mark(leaks: Leaks, model: str) -> str:
    """What stands beside a model's number; blank where nothing leaks."""
    kinds = {leak["kind"]: None for leak in leaks if leak["model"] in (None, model)}
    return f"  LEAK: {', '.join(kinds)}" if kinds else ""
