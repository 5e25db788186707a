"""Items that an axis asks about: whole samples, or windows of recordings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.data.items import Item
from medvlp.data.manifest import Manifest
from medvlp.data.randomness import generator
from medvlp.evaluate.cases import known_intervals, sample_items, timed_items

Seconds = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Windows:
    """Windows of recordings, each labelled by the one timed region that covers its middle."""

    window_s: Seconds
    stride_s: Seconds
    prefix: str = ""
    """Only timed regions whose names begin so, such as ``phase:``."""

    def names(self, manifests: Sequence[Manifest]) -> list[str]:
        """The timed regions that count, in order."""
        return [name for name in known_intervals(manifests) if name.startswith(self.prefix)]


def windowed_items(
    manifests: Sequence[Manifest],
    split: str,
    windows: Windows,
    names: Sequence[str] | None = None,
) -> list[Item]:
    """The windows of a split, labelled in the order of `names`, by default all that count."""
    chosen = windows.names(manifests) if names is None else names
    return timed_items(
        manifests, split, chosen, window_s=windows.window_s, stride_s=windows.stride_s
    )


def drawn_items(
    manifests: Sequence[Manifest],
    split: str,
    names: Sequence[str],
    *,
    domain: str,
    windows: Windows | None,
    most: int,
    seed: int,
) -> list[Item]:
    """Up to `most` items of a split with at least one known label, drawn by seed.

    Args:
        manifests: Where they come from.
        split: Their split.
        names: Labels, in the order of `labels_L`.
        domain: Of the samples.
        windows: Windows of recordings instead of whole samples.
        most: How many at most; 0 takes all.
        seed: Of the draw.
    """
    if windows is None:
        items = sample_items(manifests, split, names, domain=domain)
    else:
        items = windowed_items(manifests, split, windows, names)
    known = [item for item in items if ((item.labels_L == 0) | (item.labels_L == 1)).any()]
    order = generator(seed, 0, split, "axis items").permutation(len(known))
    chosen = order[: most or len(known)]
    return [known[i] for i in sorted(chosen)]
