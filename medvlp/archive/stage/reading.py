"""How one kind's items are read: what crosses into a reading process and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from medvlp.archive.spool import Item as Item
from medvlp.archive.stage import answer
from medvlp.archive.stage.child import Limits
from medvlp.archive.verdict import Verdict
from medvlp.digest import digest_plain
from medvlp.domain import Ref

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Reading(Generic[R]):
    """How one kind's items are read."""

    read: Ref
    """``(paths, **settings) -> result``; raises `Verdict`. It runs in a process of its own."""

    result: type[R]
    """The dataclass that `read` returns; its fields cross as JSON."""

    version: int
    """Raised whenever the same bytes would be read otherwise."""

    limits: Limits = field(default_factory=Limits)
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `read`, plain values."""

    tells: bool = False
    """Whether `read` takes ``alive``, a function that it calls whenever it has got on: what is
    limited then is its silence, `Limits.time_s` whatever the size, and not its whole time."""

    makes: bool = False
    """Whether the last path of an item is a file that `read` writes, and takes as ``target``;
    others may write nothing."""

    @property
    def key(self) -> str:
        """Under which results are stored: reader, version, settings and form of the result."""
        result: Any = self.result
        form = answer.form_of(result)
        return digest_plain([self.read.target, self.version, dict(self.settings), form])

    def parse(self, text: str) -> R | Verdict:
        """A stored answer as what it means."""
        return answer.parse(text, self.result)
