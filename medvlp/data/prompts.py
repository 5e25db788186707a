"""Prompt sets: the words with which a label is asked for without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT, plain, read_yaml, validate
from medvlp.digest import digest_plain
from medvlp.errors import ConfigError


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Prompts:
    """The sentences for one label; several are averaged."""

    positive: tuple[str, ...]
    """Sentences that say the label is there."""

    negative: tuple[str, ...] = ()
    """Sentences that say it is not; needed where labels are independent of each other."""

    @model_validator(mode="after")
    def _words(self) -> Self:
        if not self.positive:
            raise ValueError("positive needs at least one prompt")
        if not all(text.strip() for text in (*self.positive, *self.negative)):
            raise ValueError("a prompt is blank")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PromptSet:
    """Prompts for several labels, in order."""

    mode: Literal["independent", "exclusive"]
    """Independent: each label is present or not (findings). Exclusive: one of them holds
    (surgical phases)."""

    labels: dict[str, Prompts]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.labels:
            raise ValueError("labels is empty")
        bare = [name for name, prompts in self.labels.items() if not prompts.negative]
        if self.mode == "independent" and bare:
            raise ValueError(f"independent labels need negative prompts: {', '.join(bare)}")
        if self.mode == "exclusive" and len(self.labels) < 2:
            raise ValueError("exclusive labels are at least two")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The labels, in the order of the scores."""
        return tuple(self.labels)

    @property
    def digest(self) -> str:
        """SHA-256 of mode, labels in order, and prompts."""
        return digest_plain({"mode": self.mode, "labels": list(plain(self)["labels"].items())})


def load_prompts(path: Path) -> PromptSet:
    """The prompt set in a YAML file with ``mode`` and ``labels``.

    Raises:
        ConfigError: The file is unreadable or empty, has unknown keys, or a label lacks prompts.
    """
    values = read_yaml(path)
    if values is None:
        raise ConfigError(
            f"prompt file {path.name} is empty",
            remedy="give mode: and labels: with positive and negative prompts for each label",
        )
    checked: PromptSet = validate(PromptSet, values, path.name)
    return checked


def prompts_from_labels(labels: Sequence[str]) -> PromptSet:
    """Independent prompts from label names alone, such as "Edema." against "No edema.".

    Raises:
        ConfigError: No label is given, or one is blank or given twice.
    """
    names = [label.strip() for label in labels]
    if not names or not all(names) or len(set(names)) < len(names):
        raise ConfigError(
            "labels must be given, each once and not blank",
            remedy="write for example --labels cardiomegaly,edema",
        )
    return PromptSet(mode="independent", labels={name: _pair(name) for name in names})


def _pair(name: str) -> Prompts:
    words = " ".join(name.replace("_", " ").split())
    lowered = words if words.isupper() else words.lower()
    if lowered.startswith("no "):
        return Prompts(positive=(_sentence(lowered),), negative=(_sentence(lowered[3:]),))
    return Prompts(positive=(_sentence(lowered),), negative=(_sentence(f"no {lowered}"),))


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."
