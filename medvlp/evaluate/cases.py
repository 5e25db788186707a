"""What is scored: items with their truth, and what is known of the patients they belong to."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from medvlp.data.items import Item, relabel, window_items
from medvlp.data.manifest import Manifest
from medvlp.data.preprocess import windows
from medvlp.data.tables import TEXT_ONLY
from medvlp.errors import ConfigError
from medvlp.evaluate.predictions import SUBGROUPS


def sample_items(
    manifests: Sequence[Manifest], split: str, names: Sequence[str], *, domain: str
) -> list[Item]:
    """One item an image of the split and domain, with or without text, labelled as `names`."""
    wanted = (pl.col("split") == split) & (pl.col("domain") == domain)
    wanted &= pl.col("kind").ne_missing(TEXT_ONLY)
    unlabelled = np.empty(0, dtype=np.float32)
    items = [
        Item(
            sample=row["sample"],
            patient=row["patient"],
            sha256=row["sha256"],
            source_paths=manifest.paths(row["source"]),
            span=None,
            texts=(),
            labels_L=unlabelled,
            split=split,
            flags=tuple(row["flags"] or ()),
        )
        for manifest in manifests
        for row in manifest.samples.filter(wanted).sort("sample").iter_rows(named=True)
    ]
    return relabel(items, manifests, names)


def timed_items(
    manifests: Sequence[Manifest],
    split: str,
    names: Sequence[str],
    *,
    window_s: float,
    stride_s: float,
) -> list[Item]:
    """Windows of every recording of the split; a window outside all of `names` has no truth."""
    items = [
        item
        for manifest in manifests
        for item in window_items(manifest, split, window_s, stride_s, names)
    ]
    return [item for item in items if (item.labels_L == 1).sum() == 1]


def annotated_items(
    manifests: Sequence[Manifest],
    split: str,
    names: Sequence[str],
    *,
    window_s: float,
    stride_s: float,
    within: str,
) -> list[Item]:
    """Windows of every recording of the split, of which any number of `names` may be true.

    A label that no interval claims is absent only where somebody looked: windows whose middle
    lies in no interval called `within...` are left out.

    Raises:
        ConfigError: The manifests have no such interval.
    """
    marks = [name for name in known_intervals(manifests) if name.startswith(within)]
    if not marks:
        raise ConfigError(
            f"task.within: no timed region of the manifests begins with {within!r}",
            remedy="name what marks the annotated time, such as within: 'phase:'",
        )
    items = [
        item
        for manifest in manifests
        for item in window_items(manifest, split, window_s, stride_s, [*names, *marks])
    ]
    count = len(names)
    return [
        dataclasses.replace(item, labels_L=item.labels_L[:count])
        for item in items
        if (item.labels_L[count:] == 1).any()
    ]


def left_out(
    items: Sequence[Item],
    manifests: Sequence[Manifest],
    split: str,
    *,
    window_s: float,
    stride_s: float,
) -> dict[str, int]:
    """How many windows of the split are not among `items`, for the data card."""
    durations = [
        duration
        for manifest in manifests
        for duration in manifest.samples.filter(pl.col("split") == split)["duration_s"]
    ]
    total = sum(len(list(windows(d or 0.0, window_s, stride_s))) for d in durations)
    return {"windows_left_out": total - len(items)}


def check_labels(names: Sequence[str], known: Sequence[str], what: str, where: str) -> None:
    """Refuse a label that is not there, and say which ones there are that are like it.

    Raises:
        ConfigError: Names the unknown labels and the nearest known ones.
    """
    missing = [name for name in names if name not in known]
    if not missing:
        return
    folded = {word.lower(): word for word in known}
    near = [
        folded[match]
        for name in missing
        for match in difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.5)
    ]
    offer = ", ".join(dict.fromkeys(near)) or ", ".join(sorted(known)[:10]) or "none at all"
    raise ConfigError(
        f"{what}: no label {', '.join(repr(m) for m in missing)} in {where}",
        remedy=f"the nearest names there are: {offer}",
    )


def known_labels(manifests: Sequence[Manifest]) -> list[str]:
    """Names in the label tables."""
    return sorted({name for m in manifests for name in m.labels["name"].unique()})


def known_intervals(manifests: Sequence[Manifest]) -> list[str]:
    """Names of the timed regions."""
    return sorted(
        {
            name
            for m in manifests
            for name in m.regions.filter(pl.col("kind") == "interval")["name"].unique()
        }
    )


def subgroups(manifests: Sequence[Manifest]) -> dict[str, Mapping[str, str | None]]:
    """Sample -> its `SUBGROUPS` columns."""
    return {
        row.pop("sample"): row
        for manifest in manifests
        for row in manifest.samples.select("sample", *SUBGROUPS).iter_rows(named=True)
    }


def middle_s(item: Item) -> float | None:
    """The middle of an item's span in seconds; None for an item without a span."""
    return None if item.span is None else (item.span[0] + item.span[1]) / 2
