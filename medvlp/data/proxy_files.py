"""What is common to the proxies of all domains, and what a domain brings that makes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.domain import Ref

SUFFIX = ".proxy"
"""The ending of every domain's proxies."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ProxyConfig:
    """Where proxies lie, and how they were made; `medvlp.data.proxies` says what they are."""

    folder: Path
    settings: tuple[str, ...] = ()
    """Of the domain's proxies, such as ``short_side=480``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
    """What came of making one proxy."""

    size_bytes: int
    frames: int
    bad_frames: int
    """Those of the original that do not decode, of which the proxy has none."""
    psnr_db: float
    """The least agreement of the frames that were compared with what went into the encoder."""


class ProxyMaker(Protocol):
    """What a domain brings as its `proxies`."""

    config: type[Any]
    """The settings: a strict dataclass of numbers."""

    version: int
    """Raised whenever the same settings would make other proxies."""

    make: Ref
    """``(paths, *, target, alive, **settings) -> Made``: writes the proxy of a sample's files to
    `target`, whose name begins with the digest that they must have; a reading that `makes`
    (`medvlp.archive.stage.reading`)."""

    def check(self) -> None:
        """See that this machine can make proxies; raises `ConfigError`."""

    def takes(self, paths: Sequence[Path]) -> bool:
        """Whether there is anything to gain from a proxy of a sample's files."""

    def holds(self, path: Path, sha256: str) -> bool:
        """Whether a file is a whole proxy of that content, as far as a glance tells."""


def content_of(path: Path) -> str:
    """The digest of the content that a proxy's name says it was made of."""
    return path.name[:64]
