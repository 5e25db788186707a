"""From what a table calls its samples to the manifest's pseudonymous ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import polars as pl

from medvlp.data.manifest import Manifest

AMBIGUOUS = "?"
"""Stands for a file name that several samples have; no sample id holds this sign."""


def split_samples(manifests: Sequence[Manifest], domain: str, split: str) -> pl.DataFrame:
    """`sample`, `source` and the number of its manifest, of a domain's split."""
    wanted = (pl.col("split") == split) & (pl.col("domain") == domain)
    return pl.concat(
        m.samples.filter(wanted).select("sample", "source", manifest=pl.lit(i))
        for i, m in enumerate(manifests)
    )


def find_samples(
    keys: Iterable[str], samples: pl.DataFrame, manifests: Sequence[Manifest]
) -> dict[str, str]:
    """Key -> sample id, or `AMBIGUOUS`; an unknown key has no entry.

    A key is a sample's id or the name of one of its files, with or without folders and ending.
    The private folders are opened only if a key is no id.

    Args:
        keys: What the table calls its samples.
        samples: See `split_samples`.
        manifests: Where they come from.
    """
    known = set(samples["sample"])
    distinct = set(keys)
    found = {key: key for key in distinct & known}
    if rest := distinct - known:
        names = _by_file_name(samples, manifests)
        for key in rest:
            if matches := _matching(key, names):
                found[key] = matches.pop() if len(matches) == 1 else AMBIGUOUS
    return found


def _by_file_name(
    samples: pl.DataFrame, manifests: Sequence[Manifest]
) -> dict[str, list[tuple[Path, str]]]:
    names: dict[str, list[tuple[Path, str]]] = {}
    for sample, source, number in samples.iter_rows():
        for path in manifests[number].paths(source):
            for name in {path.name, path.stem}:
                names.setdefault(name, []).append((path, sample))
    return names


def _matching(key: str, names: dict[str, list[tuple[Path, str]]]) -> set[str]:
    parts = PurePosixPath(key.replace("\\", "/")).parts
    placed = names.get(parts[-1], []) if parts else []
    every = {sample for _, sample in placed}
    if len(every) < 2 or len(parts) == 1:
        return every
    ending = parts[1:] if parts[0] == "/" else parts
    nearer = {s for path, s in placed if (*path.parent.parts, parts[-1])[-len(ending) :] == ending}
    return nearer or every
