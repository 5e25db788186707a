"""Copies among the samples of an archive: exact, near, and of reports; who shares them with whom.

A copy in another split makes a test easier than it looks, and two patient numbers that share a
picture may be one person. Nothing is moved or left out for it: pairs are listed in the table
`duplicates`, and samples with a copy in another split are flagged. `groups` serves those who want
patients with common images in one split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from medvlp.archive.copied_texts import CopiedText
from medvlp.archive.near_copies import near_copies

FLAG = "duplicate_across_splits"

_SAME_PATIENT = 0.8
"""One patient's images resemble each other, and a copy among them harms no split: fewer are told.
"""


@dataclass(frozen=True)
class Copy:
    """A pair of samples."""

    sample: str
    other: str
    kind: str
    score: float


def image_copies(
    prints: Iterable[Mapping[str, str]], patient: Mapping[str, str], *, workers: int = 1
) -> list[Copy]:
    """Samples with equal pixels, then near copies.

    Args:
        prints: Rows ``sample, digest, fingerprint``; a blank fingerprint has no near copies.
        patient: The patient of each sample.
        workers: Threads.
    """
    first: dict[str, str] = {}
    copies, samples, texts = [], [], []
    for row in prints:
        sample, digest = row["sample"], row["digest"]
        if digest in first:
            copies.append(Copy(first[digest], sample, "exact", 1.0))
            continue
        first[digest] = sample
        if row["fingerprint"]:
            samples.append(sample)
            texts.append(row["fingerprint"])
    for pair in near_copies(texts, workers=workers):
        one, other = samples[pair.one], samples[pair.other]
        if patient[one] != patient[other] or pair.score >= _SAME_PATIENT:
            copies.append(Copy(one, other, "image", pair.score))
    return copies


def text_copies(pairs: Iterable[CopiedText]) -> list[Copy]:
    """Copied reports as pairs of samples."""
    return [Copy(pair.sample, pair.other, "text", pair.score) for pair in pairs]


def groups(copies: Iterable[Copy], patient: Mapping[str, str]) -> dict[str, str]:
    """Patient -> the first by name of all patients that images link with it.

    Args:
        copies: As `image_copies` finds them; copied reports link nobody.
        patient: The patient of each sample.

    Returns:
        Only patients that are linked with another.
    """
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    for copy in copies:
        if copy.kind != "text":
            low, high = sorted((find(patient[copy.sample]), find(patient[copy.other])))
            leader[high] = low
    names = {name: find(name) for name in leader}
    sizes = Counter(names.values())
    return {name: head for name, head in names.items() if sizes[head] > 1}


def rows(copies: Sequence[Copy], samples: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows of the table `duplicates`.

    Args:
        copies: Pairs.
        samples: Columns ``sample, patient, split``.
    """
    place = {name: (patient, split) for name, patient, split in samples.iter_rows()}
    table = []
    for copy in copies:
        (one, here), (other, there) = place[copy.sample], place[copy.other]
        table.append(
            {
                "sample": copy.sample,
                "other": copy.other,
                "kind": copy.kind,
                "score": copy.score,
                "same_patient": one == other,
                "across_splits": here != there,
            }
        )
    return table


def tally(table: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """Counts for the notes of `manifest.json`: ``duplicates_exact``, ..., ``_across_splits``."""
    counts: Counter[str] = Counter()
    for row in table:
        counts[f"duplicates_{row['kind']}"] += 1
        counts["duplicates_across_patients"] += not row["same_patient"]
        counts["duplicates_across_splits"] += row["across_splits"]
    return +counts
