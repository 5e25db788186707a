"""What the axes of altered images have in common: prompts, and items drawn by seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.data.items import Item
from medvlp.data.prompts import PromptSet
from medvlp.errors import ConfigError
from medvlp.evaluate.cases import check_labels, known_intervals, known_labels
from medvlp.evaluate.predict import Study
from medvlp.evaluate.robustness.sentences import SCORE
from medvlp.evaluate.robustness.windows import Windows, drawn_items
from medvlp.evaluate.tasks.zero_shot import inline, resolved


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImagedConfig:
    """Findings asked for in words, of images that are altered."""

    kind: str
    prompts: Path | PromptSet
    """The prompt set, or its file relative to the protocol's."""

    labels: tuple[str, ...] | None = None
    """Which of the prompts' labels are asked for; all if not given."""

    windows: Windows | None = None
    """For recordings: the windows that are asked about."""

    most: Annotated[int, Field(ge=0)] = 200
    """Items at most, drawn by seed; 0 takes all."""

    seed: int = 0

    headlines: ClassVar[tuple[str, ...]] = (SCORE,)

    def __post_init__(self) -> None:
        if self.labels is not None and isinstance(self.prompts, PromptSet):
            check_labels(self.labels, self.prompts.names, "task.labels", "the prompt set")

    def resolve(self, base: Path) -> Self:
        """The task with its prompt file taken in.

        Raises:
            ConfigError: The file cannot be used, or lacks a label.
        """
        return dataclasses.replace(self, prompts=inline(self.prompts, base))

    @property
    def names(self) -> tuple[str, ...]:
        """The labels that are asked for."""
        return self.labels or resolved(self.prompts).names

    def drawn(self, study: Study) -> list[Item]:
        """The items that are asked about.

        Raises:
            ConfigError: A label is unknown to the manifests, or there is no item.
        """
        timed = self.windows is not None
        known = known_intervals(study.manifests) if timed else known_labels(study.manifests)
        check_labels(self.names, known, "task.prompts", "the manifests")
        items = drawn_items(
            study.manifests,
            study.split,
            self.names,
            domain=study.domain,
            windows=self.windows,
            most=self.most,
            seed=self.seed,
        )
        if not items:
            raise ConfigError(
                f"{study.protocol}: split {study.split!r} holds nothing to ask about",
                remedy="name another data.split, or windows for recordings",
            )
        return items


def wanted(listed: Sequence[str] | None, known: Sequence[str], what: str) -> tuple[str, ...]:
    """Names that a protocol lists, or all there are.

    Raises:
        ConfigError: One of them is unknown.
    """
    check_labels(listed or (), known, what, "this form of image")
    return tuple(listed or known)
