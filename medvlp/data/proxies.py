"""Proxies: smaller copies of recordings, made once, that are read in their place.

A proxy is one file of a folder, named by the content that it was made of and by how it was made;
what lies in it is its domain's affair. It stands in for a sample's files wherever it is there and
is of that content: same moments, other pixels, so that stored arrays of proxies are cached apart
from those of originals.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from medvlp.config import override, plain, validate
from medvlp.data.flags import flag_with
from medvlp.data.items import Item
from medvlp.data.proxy_files import SUFFIX, ProxyConfig, ProxyMaker
from medvlp.digest import digest_plain
from medvlp.domain import get_domain
from medvlp.errors import ConfigError


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
        self.flag = flag_with("proxy", (self.maker.version, *self.settings.values()))
        """What a sample that is read from its proxy is flagged with."""
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
        if path is None or self.flag in item.flags:
            return item
        flags = (*item.flags, self.flag)
        return dataclasses.replace(item, source_paths=(path,), flags=flags)

    def stand_in_all(self, items: Iterable[Item]) -> list[Item]:
        """`stand_in` of each."""
        return [self.stand_in(item) for item in items]


def open_proxies(domain: str, config: ProxyConfig | None) -> Proxies | None:
    """The proxies that a run or an evaluation reads; None where it names none."""
    return None if config is None else Proxies(domain, config)
