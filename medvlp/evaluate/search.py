"""`medvlp embed` and `medvlp search`: studies, depths in a volume and moments in video, by text.

The search is exact: one matrix product and top-k, which finds all there is to find and takes
milliseconds at 100,000 vectors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from medvlp.archive.verdict import Verdict
from medvlp.archive.view import Picture
from medvlp.data.manifest import Manifest
from medvlp.data.paths import path_from_text, path_to_text
from medvlp.data.preprocess import Span, model_input, windows
from medvlp.domain import get_domain
from medvlp.errors import ConfigError, InputError
from medvlp.evaluate.files import (
    BATCH,
    as_given,
    find_sources,
    open_bundle,
    refused,
)
from medvlp.evaluate.hits import (
    ITEMS,
    SLABS,
    VECTORS,
    Hit,
    find,
    find_moments,
    holds_recordings,
    key_pictures,
)
from medvlp.models.bundle import Bundle
from medvlp.models.inputs import Source, chunks, read_each
from medvlp.outputs import whole_file, whole_folder
from medvlp.plain_files import read_json
from medvlp.progress import track

FORMAT = 1
INFO = "index.json"
REJECTS = "rejects.parquet"
WINDOW_S = 4.0
STRIDE_S = 2.0
"""A recording becomes windows this long, starting this far apart, in seconds."""

Floats = NDArray[np.float32]
Look = Callable[[Sequence[Hit], Sequence[Picture | None]], None]
"""What shows hits with their pictures, such as `medvlp.report.hits.write_hits`."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One thing to embed, and what the index says of it."""

    sample: str
    """Pseudonymous sample id; empty for files outside a manifest."""

    place: str
    """A manifest's opaque source id, or the sample's file or folder, as `path_to_text` gives it."""

    source: Source

    @property
    def told(self) -> dict[str, Any]:
        """The columns that an index has of it."""
        start_s, end_s = self.source.span or (None, None)
        return {"sample": self.sample, "source": self.place, "start_s": start_s, "end_s": end_s}


def embed_inputs(
    bundle: Path,
    inputs: Sequence[Path],
    out: Path,
    *,
    window_s: float = WINDOW_S,
    stride_s: float = STRIDE_S,
) -> str:
    """Embed manifests, files and folders into an index folder, whole or not at all.

    The folder holds ``items.parquet`` (item, sample, source, start_s, end_s), ``embeddings.npy``
    (unit vectors, float32), for volumes ``slabs.npy`` (item, slab, width: the unit mean of each
    plane of patches along the first axis, float16; NaN behind the last one of volumes of less
    depth), ``rejects.parquet`` (sample, source, start_s, end_s, code: what could not be read) and
    ``index.json``. Row i of the arrays belongs to item i.

    Args:
        bundle: The bundle's folder.
        inputs: Manifest folders, or files and folders of the bundle's domain.
        out: The index folder, which must not exist.
        window_s: Length of the windows of a recording, in seconds.
        stride_s: Seconds between the starts of neighbouring windows.

    Returns:
        What was embedded and what was refused, in a sentence.

    Raises:
        InputError: `out` exists, an input cannot be found, or nothing could be read.
    """
    model = open_bundle(bundle)
    with whole_folder(out) as folder:
        units = list(_units(model.info.domain, inputs, window_s, stride_s))
        kept, bad = _embed(model, units, folder)
        codes = [code for _, code in bad]
        if not kept:
            raise InputError(
                f"none of {len(units)} inputs can be read: {refused(codes)}",
                remedy="check the inputs and that the bundle is of their domain",
            )
        items = [{"item": i, **unit.told} for i, unit in enumerate(kept)]
        pl.DataFrame(items, schema=_ITEMS).write_parquet(folder / ITEMS)
        rejects = [{**unit.told, "code": code} for unit, code in bad]
        pl.DataFrame(rejects, schema=_REJECTS).write_parquet(folder / REJECTS)
        info = {
            "format": FORMAT,
            "bundle": path_to_text(bundle),
            "digest": model.digest,
            "domain": model.info.domain,
            "items": len(kept),
            "refused": len(codes),
        }
        (folder / INFO).write_text(json.dumps(info, indent=1), encoding="utf-8")
    tail = f"; refused {len(codes)}: {refused(codes)}" if codes else ""
    return f"Index: {out} ({len(kept)} items{tail})"


_TOLD = {"sample": pl.String, "source": pl.String, "start_s": pl.Float64, "end_s": pl.Float64}
_ITEMS = {"item": pl.Int64, **_TOLD}
_REJECTS = {**_TOLD, "code": pl.String}


def search_index(
    query: str,
    index_dir: Path,
    *,
    k: int,
    json_file: Path | None,
    bundle: Path | None,
    console: Console,
    windows_only: bool = False,
    look: Look | None = None,
    manifest: Path | None = None,
) -> list[Hit]:
    """The `k` items most like `query`, printed and, if asked for, written as JSON.

    Of recordings these are moments: neighbouring windows that answer together, by the rule of
    `medvlp.evaluate.metrics.moments`.

    Args:
        query: What to look for.
        index_dir: A folder that `embed_inputs` wrote.
        k: Hits to show.
        json_file: Takes ``{"query", "hits": [{rank, score, sample, source, start_s, ...}]}``.
        bundle: The bundle's folder, where it is no longer where the index was made.
        console: Takes the table.
        windows_only: Single windows of recordings, by score alone.
        look: Takes the hits and a picture of each, where its file is at hand.
        manifest: The manifest that was embedded, by which its samples' files are found.

    Raises:
        InputError: A blank query, no index, or a bundle other than the index's.
    """
    if not query.strip():
        raise InputError("the query is blank", remedy="say in words what to look for")
    info = _read_info(index_dir)
    model = _same_bundle(info, bundle or path_from_text(info["bundle"]))
    whole = holds_recordings(index_dir) and not windows_only
    hits = (find_moments if whole else find)(model.embed_text(query)[0], index_dir, k)
    table = Table("rank", "score", Column("sample or source", overflow="fold"), "where")
    for hit in hits:
        place = hit.sample or hit.source
        table.add_row(str(hit.rank), f"{hit.score:.3f}", escape(place), hit.where)
    console.print(table)
    if json_file is not None:
        with whole_file(json_file) as file:
            json.dump({"query": query, "hits": [hit.__dict__ for hit in hits]}, file, indent=1)
    if look is not None:
        opened = None if manifest is None else Manifest.open(manifest)
        look(hits, key_pictures(model, hits, opened))
    return hits


def _units(domain: str, inputs: Sequence[Path], window_s: float, stride_s: float) -> Iterator[Unit]:
    files = [path for path in inputs if not _is_manifest(path)]
    for path in inputs:
        if _is_manifest(path):
            yield from _manifest_units(Manifest.open(path), domain, window_s, stride_s)
    if files:
        yield from _file_units(files, domain, window_s, stride_s)


def _is_manifest(path: Path) -> bool:
    return (path / "manifest.json").is_file()


def _manifest_units(
    manifest: Manifest, domain: str, window_s: float, stride_s: float
) -> Iterator[Unit]:
    rows = manifest.samples.filter(pl.col("domain") == domain).sort("sample")
    if rows.is_empty():
        raise InputError(
            f"the manifest holds no sample of the bundle's domain {domain}",
            remedy="use a bundle of the manifest's domain",
        )
    for row in rows.iter_rows(named=True):
        paths, flags = manifest.paths(row["source"]), tuple(row["flags"] or ())
        for span in _spans(row["duration_s"], window_s, stride_s):
            source = Source(position=0, paths=paths, span=span, flags=flags)
            yield Unit(sample=row["sample"], place=row["source"], source=source)


def _file_units(
    files: Sequence[Path], domain: str, window_s: float, stride_s: float
) -> Iterator[Unit]:
    sources = find_sources(files, domain)
    for source, place in zip(sources, as_given(sources, files), strict=True):
        duration_s = _duration_s(source, domain)
        for span in _spans(duration_s, window_s, stride_s):
            spanned = Source(position=source.position, paths=source.paths, span=span)
            yield Unit(sample="", place=path_to_text(place), source=spanned)


def _duration_s(source: Source, domain: str) -> float | None:
    """How long a recording lasts; None of what does not, or cannot be read."""
    reads = get_domain(domain)
    if not reads.recordings:
        return None
    try:
        found: float | None = reads.probe.load()(source.paths).duration_s
    except Verdict:
        return None  # reading it gives the reason code
    return found


def _spans(duration_s: float | None, window_s: float, stride_s: float) -> list[Span | None]:
    """The windows of a recording; for what has no duration, the whole of it."""
    if duration_s is None:
        return [None]
    return list(windows(duration_s, window_s, stride_s))


def _embed(
    model: Bundle, units: Sequence[Unit], folder: Path
) -> tuple[list[Unit], list[tuple[Unit, str]]]:
    """Write the vectors of all readable units; returns those units, and the others with codes."""
    # What has a duration is cut into windows, and needs no slabs to say where.
    volumes = all(unit.source.span is None for unit in units)
    kept: list[Unit] = []
    bad: list[tuple[Unit, str]] = []
    vectors: list[Floats] = []
    slabs: list[NDArray[np.float16]] = []
    read = read_each([unit.source for unit in units], model.preprocess)
    found = zip(units, (array for _, array in read), strict=True)
    for chunk in chunks(track(found, "embedding", total=len(units)), BATCH):
        bad += [(unit, array) for unit, array in chunk if isinstance(array, str)]
        good = [array for _, array in chunk if not isinstance(array, str)]
        kept += [unit for unit, array in chunk if not isinstance(array, str)]
        if good:
            image_BE, slab_BDE = _encode(model, good)
            vectors.append(image_BE)
            slabs += [slab_BDE] if volumes and slab_BDE is not None else []
    if vectors:
        np.save(folder / VECTORS, np.concatenate(vectors))
    if slabs:
        np.save(folder / SLABS, _joined(slabs))
    return kept, bad


@torch.inference_mode()
def _encode(
    model: Bundle, arrays: Sequence[NDArray[Any]]
) -> tuple[Floats, NDArray[np.float16] | None]:
    """Unit vectors, and where patches have three axes those of their planes along the first."""
    image = model_input(model.preprocess, arrays, model.device)
    features, image_BE, patch_BPE = model.model.encode_image(image)
    slab_BDE = None
    if len(features.grid) == 3:
        plane = patch_BPE.reshape(len(patch_BPE), features.grid[0], -1, patch_BPE.shape[-1]).mean(2)
        slab = F.normalize(plane, dim=-1)
        if features.mask_BP is not None:
            real_BD = features.mask_BP.reshape(*plane.shape[:2], -1).any(2)
            slab = slab.masked_fill(~real_BD[..., None], torch.nan)
        slab_BDE = slab.cpu().numpy().astype(np.float16)
    return image_BE.cpu().numpy(), slab_BDE


def _joined(slabs: Sequence[NDArray[np.float16]]) -> NDArray[np.float16]:
    """Batches of slabs as one array, as deep as the deepest volume."""
    depth = max(slab_BDE.shape[1] for slab_BDE in slabs)
    fill = [((0, 0), (0, depth - slab_BDE.shape[1]), (0, 0)) for slab_BDE in slabs]
    return np.concatenate(
        [np.pad(s, pad, constant_values=np.nan) for s, pad in zip(slabs, fill, strict=True)]
    )


def _read_info(index_dir: Path) -> dict[str, Any]:
    try:
        info: dict[str, Any] = read_json(index_dir / INFO)
        known = info["format"] == FORMAT and isinstance(info["bundle"], str) and info["digest"]
    except (ConfigError, KeyError, TypeError):
        known = False
    if not known:
        raise InputError(
            f"{index_dir.name} is no index of this version",
            remedy="name a folder that medvlp embed wrote",
        )
    return info


def _same_bundle(info: dict[str, Any], path: Path) -> Bundle:
    if not path.is_dir():
        raise InputError(
            "the bundle that made the index is not where it was", remedy="name it with --bundle"
        )
    model = open_bundle(path)
    if model.digest != info["digest"]:
        raise InputError(
            "the bundle is not the one that made the index, so their vectors cannot be compared",
            remedy="name the right one with --bundle, or embed again",
        )
    return model
