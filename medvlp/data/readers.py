"""What read the samples of a run or an evaluation: a fact that is recorded with every result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import polars as pl

from medvlp.data.manifest import Manifest
from medvlp.data.proxies import Proxies

PROXY, UNKNOWN = "proxy", "unknown"


@runtime_checkable
class TellsReader(Protocol):
    """A preprocessing contract that does not read by what the manifest's `reader` says alone."""

    moments: str
    """Which frame it takes for a moment of a recording."""

    def reader(self, indexed: str) -> str:
        """What reads files that were indexed with the reader `indexed`."""


def how_read(
    manifests: Sequence[Manifest],
    samples: Iterable[str],
    preprocess: Any = None,
    proxies: Proxies | None = None,
) -> dict[str, Any]:
    """What read which number of the samples, as plain values.

    Args:
        manifests: Whose samples they are.
        samples: The samples' ids.
        preprocess: The preprocessing that reads them, where there is one.
        proxies: What stands in for some of them.

    Returns:
        ``readers``: samples by reader, `PROXY` and `UNKNOWN` among them; where a contract tells,
        ``moments``; where proxies may stand in, ``proxies``: how they were made.
    """
    tells = preprocess if isinstance(preprocess, TellsReader) else None
    wanted = pl.Series(sorted(set(samples)), dtype=pl.String)
    count: Counter[str] = Counter()
    for manifest in manifests:
        rows = manifest.samples.filter(pl.col("sample").is_in(wanted.implode()))
        for reader, sha256 in rows.select("reader", "sha256").iter_rows():
            if proxies is not None and proxies.find(sha256) is not None:
                count[PROXY] += 1
            else:
                name = reader or UNKNOWN
                count[name if tells is None else tells.reader(name)] += 1
    told: dict[str, Any] = {"readers": dict(sorted(count.items()))}
    if tells is not None:
        told["moments"] = tells.moments
    if proxies is not None:
        told["proxies"] = proxies.settings
    return told
