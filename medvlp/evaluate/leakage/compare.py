"""Which samples of one set are known from another: by traits, by pictures, by words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from medvlp.archive.duplicates.across import prints
from medvlp.archive.duplicates.copied_texts import copied_texts
from medvlp.archive.duplicates.find import image_copies
from medvlp.archive.duplicates.footprint import TRAITS, Footprint, of, reports, traits
from medvlp.data.manifest import Manifest
from medvlp.data.tables import TEXT_ONLY
from medvlp.evaluate.leakage.leak import Kind, Leak

EXACT: tuple[Kind, ...] = ("patient", "study", "file", "pixels", "recording")
"""Kinds of which two samples have one or have not."""

Pairs = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Part:
    """Some samples of some manifests."""

    name: str
    manifests: tuple[Manifest, ...]
    splits: tuple[str, ...]
    domain: str
    words: bool = field(default=True)
    """Whether samples that are reports without an image belong to it."""

    @cached_property
    def samples(self) -> pl.DataFrame:
        """Columns ``sample, patient, place``: the digest of the manifest that holds it."""
        wanted = pl.col("split").is_in(self.splits) & (pl.col("domain") == self.domain)
        if not self.words:
            wanted &= pl.col("kind").ne_missing(TEXT_ONLY)
        parts = [
            manifest.samples.filter(wanted).select(
                "sample",
                patient=pl.lit(f"{manifest.key_id} ") + pl.col("patient"),
                place=pl.lit(manifest.digest),
            )
            for manifest in self.manifests
        ]
        return pl.concat(parts)

    @cached_property
    def traits(self) -> pl.DataFrame:
        """Rows of `TRAITS`."""
        chosen = self.samples.select("sample")
        return pl.concat(
            [pl.DataFrame(schema=TRAITS), *(traits(m, chosen) for m in self.manifests)]
        )

    @cached_property
    def prints(self) -> list[Mapping[str, str]]:
        """Rows ``sample, digest, fingerprint`` of pictures that have a fingerprint."""
        mine = set(self.samples["sample"])
        rows = (row for manifest in self.manifests for row in prints(manifest))
        return [row for row in rows if row["sample"] in mine and row["fingerprint"]]


def shared(evaluated: Part, other: Part, model: str | None = None) -> Iterator[Leak]:
    """Everything by which samples of `evaluated` are known from `other`, one leak a kind."""
    yield from leaks(known_samples(evaluated, other), evaluated, other.name, model)


def known_samples(evaluated: Part, other: Part) -> dict[Kind, set[str]]:
    """Kind of leak -> the samples of `evaluated` that are known from `other`."""
    known = other.traits.select("kind", "digest").unique()
    found = evaluated.traits.join(known, on=["kind", "digest"], how="semi")
    hits: dict[Kind, set[str]] = {kind: set(of(found, kind)["sample"]) for kind in EXACT}
    tabled = list(_tabled(evaluated, other))
    equal = [(a, b) for kind, a, b in tabled if kind == "exact"]
    hits["pixels"] |= _linked(equal, evaluated, other)
    pictures = [(a, b) for kind, a, b in tabled if kind == "image"] + _near(evaluated, other)
    hits["image"] = _linked(pictures, evaluated, other)
    texts = [(a, b) for kind, a, b in tabled if kind == "text"] + _copied(evaluated, other)
    hits["text"] = _linked(texts, evaluated, other)
    return hits


def in_footprint(evaluated: Part, footprint: Footprint, name: str, model: str) -> Iterator[Leak]:
    """The same against a bundle's footprint, which knows no pictures and no wording."""
    hits = {}
    for kind in (*EXACT, "text"):
        own = of(evaluated.traits, kind)
        known = np.isin(own["digest"].to_numpy(), footprint.digests.get(kind, np.empty(0)))
        hits[kind] = set(own["sample"].to_numpy()[known])
    yield from leaks(hits, evaluated, name, model)


_SAID = {
    "patient": "are of a patient of",
    "study": "are of a study of",
    "file": "are the same file as in",
    "pixels": "show the same pixels as in",
    "image": "are near copies of images of",
    "recording": "are a recording that is also in",
    "text": "have a report that is also in",
}


def leaks(
    hits: Mapping[Any, set[str]], evaluated: Part, where: str, model: str | None
) -> Iterator[Leak]:
    """One leak a kind that has hits."""
    total = evaluated.samples.height
    for kind, samples in hits.items():
        if samples:
            yield Leak(
                kind=kind,
                between=(evaluated.name, where),
                count=len(samples),
                of=total,
                model=model,
                detail=f"{len(samples)} of {total} samples of {evaluated.name} "
                f"{_SAID[kind]} {where}",
            )


def _linked(pairs: Pairs, evaluated: Part, other: Part) -> set[str]:
    """Samples of `evaluated` that pairs link with one of `other`, also by way of third ones.

    Many equal copies are each paired with the first alone, which may be on either side.
    """
    listed = list(pairs)
    if not listed:
        return set()
    names = sorted({name for pair in listed for name in pair})
    place = {name: i for i, name in enumerate(names)}
    row, column = zip(*((place[a], place[b]) for a, b in listed), strict=True)
    graph = coo_matrix((np.ones(len(row)), (row, column)), shape=(len(names), len(names)))
    group = connected_components(graph, directed=False)[1]
    theirs, mine = set(other.samples["sample"]), set(evaluated.samples["sample"])
    reached = {int(group[place[name]]) for name in names if name in theirs}
    return {name for name in names if name in mine and int(group[place[name]]) in reached}


def searched(manifest: Manifest) -> bool:
    """Whether indexing looked for near copies, so that the table `duplicates` tells them."""
    options = manifest.info.get("options") or {}
    return options.get("duplicates") in ("report", "group")


def _common(one: Part, other: Part) -> list[Manifest]:
    digests = {manifest.digest for manifest in other.manifests}
    return [manifest for manifest in one.manifests if manifest.digest in digests]


def _tabled(evaluated: Part, other: Part) -> Iterator[tuple[str, str, str]]:
    """Kind and pair from the tables of manifests that both parts lie in."""
    for manifest in _common(evaluated, other):
        yield from manifest.duplicates.select("kind", "sample", "other").iter_rows()


def _covered(evaluated: Part, other: Part) -> bool:
    """Whether both parts lie in one manifest whose copies were all looked for."""
    manifests = {m.digest: m for m in (*evaluated.manifests, *other.manifests)}
    return len(manifests) == 1 and searched(next(iter(manifests.values())))


def _near(evaluated: Part, other: Part) -> list[tuple[str, str]]:
    if _covered(evaluated, other) or not (evaluated.prints and other.prints):
        return []
    rows = {row["sample"]: row for row in (*other.prints, *evaluated.prints)}
    copies = image_copies(rows.values(), _patients(evaluated, other))
    # Equal pixels tie a copy's copies to their original; alone they are leaks of kind `pixels`.
    near = [(copy.sample, copy.other) for copy in copies if copy.kind == "image"]
    ends = {name for pair in near for name in pair}
    equal = [(copy.sample, copy.other) for copy in copies if copy.kind == "exact"]
    return near + [pair for pair in equal if not ends.isdisjoint(pair)]


def _patients(*parts: Part) -> dict[str, str]:
    return dict(pl.concat([p.samples.select("sample", "patient") for p in parts]).iter_rows())


def _copied(evaluated: Part, other: Part) -> list[tuple[str, str]]:
    if _covered(evaluated, other):
        return []
    patient = _patients(evaluated, other)
    manifests = {m.digest: m for m in (*other.manifests, *evaluated.manifests)}.values()
    told = (
        (sample, patient[sample], text)
        for manifest in manifests
        for sample, text in reports(manifest)
        if sample in patient
    )
    return [(pair.sample, pair.other) for pair in copied_texts(told).pairs]


def unread(part: Part) -> int:
    """How many samples of a part have no digest of decoded pixels."""
    return part.samples.height - int(of(part.traits, "pixels")["sample"].n_unique())


def pictured(part: Part, other: Part) -> bool:
    """Whether near copies between two parts can be told at all."""
    return _covered(part, other) or bool(part.prints and other.prints)
