"""What a search finds in an index: items by cosine, and moments of recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from medvlp.archive.view import Picture, fit, picture
from medvlp.data.manifest import Manifest
from medvlp.data.paths import path_from_text
from medvlp.domain import get_domain
from medvlp.errors import InputError
from medvlp.evaluate.metrics.moments import Moment, propose, spans_of
from medvlp.models.bundle import Bundle
from medvlp.models.inputs import Source, read_each

ITEMS = "items.parquet"
VECTORS = "embeddings.npy"
SLABS = "slabs.npy"

_SIDE = 260
"""Longer edge of a hit's picture, in pixels."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One result of a search."""

    rank: int
    score: float
    """Cosine of query and item."""

    sample: str
    source: str
    start_s: float | None
    end_s: float | None
    depth: tuple[float, float] | None
    """Of a volume: the slab most like the query, as fractions of the model input's first axis."""

    value: float | None = None
    """Of a moment: how far its windows stand out together; moments are ranked by it. `score` is
    that of its best window."""

    best: tuple[float, float] | None = None
    """Of a moment: start and end of that window, in seconds."""

    @property
    def where(self) -> str:
        """The moment or the depth, for people."""
        if self.start_s is not None:
            return f"{self.start_s:.1f}-{self.end_s:.1f} s"
        return "" if self.depth is None else f"depth {self.depth[0]:.0%}-{self.depth[1]:.0%}"


def find(query_E: Floats, index_dir: Path, k: int) -> list[Hit]:
    """The `k` items of highest cosine with a unit vector, best first; equal scores by item.

    Raises:
        InputError: The index is damaged.
    """
    items, vectors_NE, slabs_NDE = _read_index(index_dir)
    scores_N = _scores(vectors_NE, query_E)
    best = np.argsort(-scores_N, kind="stable")[:k].tolist()
    hits = []
    for rank, item in enumerate(best, start=1):
        depth = None
        if slabs_NDE is not None:
            slab_DE = slabs_NDE[item].astype(np.float32)
            likeness_D = slab_DE[~np.isnan(slab_DE[:, 0])] @ query_E
            slab, count = int(likeness_D.argmax()), len(likeness_D)
            depth = (slab / count, (slab + 1) / count)
        row = items.row(item, named=True)
        hits.append(
            Hit(
                rank=rank,
                score=scores_N[item].item(),
                sample=row["sample"],
                source=row["source"],
                start_s=row["start_s"],
                end_s=row["end_s"],
                depth=depth,
            )
        )
    return hits


def holds_recordings(index_dir: Path) -> bool:
    """Whether every item of an index is a window of a recording.

    Raises:
        InputError: The index is damaged.
    """
    items, _, _ = _read_index(index_dir)
    return items["start_s"].null_count() == 0 and len(items) > 0


def find_moments(query_E: Floats, index_dir: Path, k: int) -> list[Hit]:
    """The `k` best moments for a unit vector: `spans_of` each recording, then `propose`.

    No two of them overlap, for people look at each.

    Raises:
        InputError: The index is damaged.
    """
    items, vectors_NE, _ = _read_index(index_dir)
    scores_N = _scores(vectors_NE, query_E)
    items = items.with_columns(score=scores_N, row=pl.int_range(pl.len()))
    recordings = [
        rows.sort("start_s") for _, rows in items.group_by("sample", "source", maintain_order=True)
    ]
    mean, sd = float(scores_N.mean()), float(scores_N.std())
    spans = []
    for number, rows in enumerate(recordings):
        score_W, start_W, end_W = (rows[c].to_numpy() for c in ("score", "start_s", "end_s"))
        # Of equal moments, that of the recording which came first.
        spans += spans_of(f"{number:09d}", score_W, start_W, end_W, mean, sd)
    return [
        _moment_hit(rank, moment, recordings[int(moment.recording)])
        for rank, moment in enumerate(propose(spans, k, 0.0), start=1)
    ]


def _moment_hit(rank: int, moment: Moment, rows: pl.DataFrame) -> Hit:
    inside = (pl.col("start_s") >= moment.start_s) & (pl.col("end_s") <= moment.end_s)
    own = rows.filter(inside)
    best = own.row(int(own["score"].arg_max() or 0), named=True)
    return Hit(
        rank=rank,
        score=best["score"],
        sample=best["sample"],
        source=best["source"],
        start_s=moment.start_s,
        end_s=moment.end_s,
        depth=None,
        value=moment.value,
        best=(best["start_s"], best["end_s"]),
    )


def key_pictures(
    bundle: Bundle, hits: Sequence[Hit], manifest: Manifest | None
) -> list[Picture | None]:
    """A picture of each hit as the model sees it; None where its files are not at hand.

    Args:
        bundle: The index's.
        hits: What was found.
        manifest: Says where the files of its samples are.
    """
    sources = [_source(bundle, hit, manifest) for hit in hits]
    read = read_each([source for source in sources if source is not None], bundle.preprocess)
    arrays = iter([array for _, array in read])
    return [
        None if source is None else _shown(bundle, hit, next(arrays))
        for hit, source in zip(hits, sources, strict=True)
    ]


def _source(bundle: Bundle, hit: Hit, manifest: Manifest | None) -> Source | None:
    span = hit.best or (
        None if hit.start_s is None or hit.end_s is None else (hit.start_s, hit.end_s)
    )
    flags: tuple[str, ...] = ()
    try:
        if hit.sample:
            paths = None if manifest is None else manifest.paths(hit.source)
            flags = () if manifest is None else _flags(manifest, hit.sample)
        else:
            (paths,) = get_domain(bundle.info.domain).resolve.load()(path_from_text(hit.source))
    except (InputError, ValueError, KeyError):
        return None
    if paths is None or not all(path.exists() for path in paths):
        return None
    return Source(position=0, paths=tuple(paths), span=span, flags=flags)


def _flags(manifest: Manifest, sample: str) -> tuple[str, ...]:
    (row,) = manifest.samples.filter(pl.col("sample") == sample).iter_rows(named=True)
    return tuple(row["flags"] or ())


def _shown(bundle: Bundle, hit: Hit, array: NDArray[Any] | str) -> Picture | None:
    if isinstance(array, str):
        return None
    at = 0.5 if hit.depth is None else sum(hit.depth) / 2
    return picture(fit(bundle.preprocess.picture(array, at), _SIDE), f"hit {hit.rank}")


def _scores(vectors_NE: Floats, query_E: Floats) -> Floats:
    scores_N: Floats = (torch.from_numpy(vectors_NE) @ torch.from_numpy(query_E)).numpy()
    return scores_N


def _read_index(index_dir: Path) -> tuple[pl.DataFrame, Floats, NDArray[np.float16] | None]:
    try:
        items = pl.read_parquet(index_dir / ITEMS)
        vectors_NE = np.load(index_dir / VECTORS, mmap_mode="c", allow_pickle=False)
        slabs = index_dir / SLABS
        slabs_NDE = np.load(slabs, mmap_mode="r", allow_pickle=False) if slabs.exists() else None
        whole = len(items) == len(vectors_NE) and (
            slabs_NDE is None or len(slabs_NDE) == len(items)
        )
    except (OSError, ValueError, pl.exceptions.PolarsError):
        whole = False
    if not whole:
        raise InputError(f"{index_dir.name} is damaged", remedy="embed again")
    return items, vectors_NE, slabs_NDE
