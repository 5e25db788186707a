"""Numbers that others published, as data: never run here, and never mixed with what was."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic.dataclasses import dataclass

from medvlp.config import STRICT, load_config


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PublishedColumn:
    """One number of each model."""

    protocol: str
    """The protocol here that asks the same question."""

    title: str
    metric: str


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Caveat:
    """What a reader must know before comparing."""

    protocols: tuple[str, ...]
    """Names or patterns such as ``benchx-*``."""

    text: str


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Published:
    """The numbers of one source, in per cent."""

    source: str
    domain: str
    columns: tuple[PublishedColumn, ...]
    models: dict[str, tuple[float | None, ...]]
    """Model -> a value a column; null where none was published."""

    caveats: tuple[Caveat, ...] = ()

    def __post_init__(self) -> None:
        for model, values in self.models.items():
            if len(values) != len(self.columns):
                raise ValueError(f"{model} has {len(values)} values, not {len(self.columns)}")

    def of(self, protocols: Sequence[str]) -> Published | None:
        """The part that is about `protocols`; None if there is none."""
        chosen = [i for i, column in enumerate(self.columns) if column.protocol in protocols]
        if not chosen:
            return None
        models = {m: tuple(values[i] for i in chosen) for m, values in self.models.items()}
        told = {m: values for m, values in models.items() if set(values) != {None}}
        return Published(
            source=self.source,
            domain=self.domain,
            columns=tuple(self.columns[i] for i in chosen),
            models=told,
            caveats=tuple(
                caveat
                for caveat in self.caveats
                if any(fnmatchcase(p, name) for p in protocols for name in caveat.protocols)
            ),
        )


def published(protocols: Sequence[str]) -> list[Published]:
    """What was published about `protocols`, source by source."""
    files = sorted(Path(__file__).parent.glob("*.yaml"))
    found: list[Published] = []
    for file in files:
        whole: Published = load_config(Published, file)
        part = whole.of(protocols)
        found += [part] if part is not None else []
    return found
