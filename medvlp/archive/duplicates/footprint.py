"""What can be known again of the samples that a model learnt from, without naming anybody.

A *trait* of a sample is a short digest of something by which the sample, or its patient, can be
recognised elsewhere: the file's bytes, its decoded pixels, the patient, the study, the words of a
long report, the recording. A `Footprint` is the set of traits of a training set. It travels inside
the bundle, so that an evaluation finds overlap with the training data when these are not at hand.

What a footprint tells, and to whom:

- *Images* (file, pixels) are digested without a key. Nobody can list the images that there may be,
  so a digest gives nothing away but this: whoever holds the very same image can tell that the model
  saw it. That is what the digest is for, and whoever holds the image needs no model to know it.
- *Patients and studies* are digested from pseudonyms, which are keyed already (HMAC-SHA-256), with
  the key's public id. They match only manifests made with the same key.
- *Reports* can be guessed word by word, so they are digested with the manifest's own key, only long
  ones, and no templates. Without the key (the private folder) there is no digest.
- *Recordings* of published data sets carry public names.

Digests are cut to 64 bits: a chance match among a million training samples and a hundred thousand
evaluated ones has a probability of 5e-9.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medvlp.archive.duplicates.across import prints, recordings
from medvlp.archive.duplicates.copied_texts import LEAST_WORDS, TEMPLATE_PATIENTS, words_of
from medvlp.data.keys import KEY, mac, read_key
from medvlp.data.manifest import Manifest
from medvlp.data.tables import NO_INFORMATION, TEXT_ONLY
from medvlp.errors import ArchiveError

KINDS = ("patient", "study", "file", "pixels", "recording", "text")
"""What a trait may be of."""

TRAITS = pl.Schema({"sample": pl.String(), "kind": pl.String(), "digest": pl.UInt64()})

Digests = NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """The traits of a set of samples, each once, without the samples' names."""

    key_ids: tuple[str, ...]
    """Public ids of the keys of the manifests; others' patients cannot be compared."""

    samples: int
    """How many samples left it."""

    known: Mapping[str, int] = field(default_factory=dict)
    """Kind -> how many of the samples have such a trait."""

    digests: Mapping[str, Digests] = field(default_factory=dict)
    """Kind -> digests, sorted, each once."""


def footprint_of(manifests: Sequence[Manifest], samples: Collection[str]) -> Footprint:
    """The footprint of some samples of manifests."""
    chosen = pl.DataFrame({"sample": sorted(samples)}, schema={"sample": pl.String()})
    table = pl.concat([pl.DataFrame(schema=TRAITS), *(traits(m, chosen) for m in manifests)])
    return Footprint(
        key_ids=tuple(sorted({manifest.key_id for manifest in manifests})),
        samples=chosen.height,
        known={kind: of(table, kind)["sample"].n_unique() for kind in KINDS},
        digests={kind: of(table, kind)["digest"].unique().sort().to_numpy() for kind in KINDS},
    )


def joined(one: Footprint, other: Footprint) -> Footprint:
    """The footprint of two sets of samples; a sample that is in both counts twice."""
    return Footprint(
        key_ids=tuple(sorted({*one.key_ids, *other.key_ids})),
        samples=one.samples + other.samples,
        known={kind: one.known.get(kind, 0) + other.known.get(kind, 0) for kind in KINDS},
        digests={kind: np.union1d(one.digests[kind], other.digests[kind]) for kind in KINDS},
    )


def of(table: pl.DataFrame, kind: str) -> pl.DataFrame:
    """The traits of one kind."""
    return table.filter(pl.col("kind") == kind)


def traits(manifest: Manifest, chosen: pl.DataFrame) -> pl.DataFrame:
    """The traits of some samples of a manifest, as `TRAITS`; none of samples it does not hold.

    Pixels are known where the ledger is at hand, and not of images that show nothing.

    Args:
        manifest: The manifest.
        chosen: A column ``sample``.
    """
    rows = manifest.samples.join(chosen, on="sample", how="semi")
    pictures = rows.filter(pl.col("kind").ne_missing(TEXT_ONLY))
    key = manifest.key_id
    parts = [
        _table(rows.select("sample", "patient"), "patient", key),
        _table(rows.select("sample", "study"), "study", key),
        _table(pictures.select("sample", "sha256"), "file"),
        _table(_pixels(manifest, pictures), "pixels"),
        _table(_pairs(recordings(manifest, pictures)), "recording"),
        _table(_texts(manifest, rows), "text"),
    ]
    return pl.concat(parts)


def _table(pairs: pl.DataFrame, kind: str, context: str = "") -> pl.DataFrame:
    named = pairs.rename({pairs.columns[1]: "value"}).drop_nulls()
    digests = [short(kind, context, value) for value in named["value"]]
    return pl.DataFrame(
        {"sample": named["sample"], "kind": [kind] * named.height, "digest": digests},
        schema=TRAITS,
    )


def short(kind: str, context: str, value: str) -> int:
    """64 bits of the SHA-256 of a value, apart for each kind and context."""
    data = f"medvlp {kind}|{context}|{value}".encode()
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def _pairs(rows: list[tuple[str, str]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"sample": pl.String(), "value": pl.String()}, orient="row")


def _pixels(manifest: Manifest, rows: pl.DataFrame) -> pl.DataFrame:
    blank = pl.col("flags").list.contains(NO_INFORMATION).fill_null(False)
    wanted = set(rows.filter(~blank)["sample"])
    found = (row for row in prints(manifest) if row["sample"] in wanted)
    return _pairs([(row["sample"], row["digest"]) for row in found])


def _texts(manifest: Manifest, rows: pl.DataFrame) -> pl.DataFrame:
    """Long reports as keyed digests; none of templates, which stand with many patients."""
    key = _key(manifest)
    if key is None:
        return _pairs([])
    patient = dict(rows.select("sample", "patient").iter_rows())
    found = [
        (sample, mac(key, "footprint of a report", " ".join(words).encode()))
        for sample, text in reports(manifest)
        if sample in patient and len(words := words_of(text)) >= LEAST_WORDS
    ]
    holders: dict[str, set[Any]] = {}
    for sample, digest in found:
        holders.setdefault(digest, set()).add(patient[sample])
    own = [pair for pair in found if len(holders[pair[1]]) < TEMPLATE_PATIENTS]
    return _pairs(own)


def _key(manifest: Manifest) -> bytes | None:
    try:
        return read_key(manifest.private / KEY)
    except ArchiveError:
        return None


def reports(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Sample and text of each whole report that somebody wrote."""
    written = ~pl.col("source").str.starts_with("synthetic:").fill_null(False)
    rows = manifest.texts.filter(pl.col("parent").is_null() & written)
    yield from rows.select("sample", "text").iter_rows()
