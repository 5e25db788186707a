"""Proxies: smaller copies of recordings, made once, that are read in their place.

A proxy is one file of a folder, named by the content that it was made of and by how it was made;
what lies in it is its domain's affair. It stands in for a sample's files wherever it is there and
is of that content: same moments, other pixels, so that stored arrays of proxies are cached apart
from those of originals.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from medvlp.config import override, plain, validate
from medvlp.data.flags import flag_with
from medvlp.data.items import Item
from medvlp.data.proxy_config import ProxyConfig
from medvlp.digest import digest_plain
from medvlp.domain import Ref, get_domain
from medvlp.errors import ConfigError

SUFFIX = ".proxy"
"""The ending of every domain's proxies."""


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


class Proxies:
    """The proxies of one folder that were made in one way.

    Args:
        domain: The domain's name.
        config: Where they lie, and how they were made.

    Raises:
        ConfigError: The domain has no proxies, or not such ones.
    """

    def __init__(self, domain: str, config: ProxyConfig) -> None:
        ref = get_domain(domain).proxies
        if ref is None:
            raise ConfigError(
                f"data.proxies: domain {domain} reads its files as they are",
                remedy="leave out data.proxies",
            )
        self.maker: ProxyMaker = ref.load()
        where = "data.proxies.settings"
        self.settings = plain(validate(self.maker.config, override({}, config.settings), where))
        self.folder = config.folder
        how = {"domain": domain, "version": self.maker.version, **self.settings}
        self._how = digest_plain(how)[:32]
        self._flag = flag_with("proxy", (self.maker.version, *self.settings.values()))
        self._found: dict[str, Path | None] = {}

    def path(self, sha256: str) -> Path:
        """Where the proxy of a content lies, or would."""
        key = f"{sha256}-{self._how}"
        return self.folder / key[:2] / f"{key}{SUFFIX}"

    def find(self, sha256: str) -> Path | None:
        """The proxy of a content; None where there is none. It is looked for once."""
        if sha256 not in self._found:
            path = self.path(sha256)
            self._found[sha256] = path if self.maker.holds(path, sha256) else None
        return self._found[sha256]

    def stand_in(self, item: Item) -> Item:
        """The item as it is read: from its proxy, where there is one."""
        path = self.find(item.sha256)
        if path is None or self._flag in item.flags:
            return item
        flags = (*item.flags, self._flag)
        return dataclasses.replace(item, source_paths=(path,), flags=flags)

    def stand_in_all(self, items: Iterable[Item]) -> list[Item]:
        """`stand_in` of each."""
        return [self.stand_in(item) for item in items]


def content_of(path: Path) -> str:
    """The digest of the content that a proxy's name says it was made of."""
    return path.name[:64]


def open_proxies(domain: str, config: ProxyConfig | None) -> Proxies | None:
    """The proxies that a run or an evaluation reads; None where it names none."""
    return None if config is None else Proxies(domain, config)
