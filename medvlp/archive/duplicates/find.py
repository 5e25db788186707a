"""Copies among the samples of an archive: exact, near, and of reports; who shares them with whom.

A copy in another split makes a test easier than it looks, and two patient numbers that share a
picture may be one person. Nothing is moved or left out for it: pairs are listed in the table
`duplicates`, and samples with a copy in another split are flagged. `groups` serves those who want
patients with common images in one split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from medvlp.archive.books import Books
from medvlp.archive.duplicates.copied_texts import copied_texts
from medvlp.archive.duplicates.near_copies import near_copies

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


class Copies(list[Copy]):
    """Pairs, and counts of what is not listed."""

    def __init__(self, pairs: Iterable[Copy], notes: Counter[str]) -> None:
        super().__init__(pairs)
        self.notes = notes


def found_copies(
    books: Books, people: pl.DataFrame, *, near: bool = True, workers: int = 1
) -> Copies:
    """Every copy among the samples in the books.

    Args:
        books: The run's books.
        people: Columns ``sample, patient``.
        near: Whether near copies of images are looked for, not only equal pixels.
        workers: Threads.
    """
    patient = dict(people.select("sample", "patient").iter_rows())
    images = image_copies(books.prints(), patient, near=near, workers=workers)
    reports = (
        (row["sample"], patient[row["sample"]], row["text"])
        for row in books.texts()
        if row["parent"] is None and not str(row["source"]).startswith("synthetic:")
    )
    texts = copied_texts(reports)
    told = [Copy(pair.sample, pair.other, "text", pair.score) for pair in texts.pairs]
    return Copies([*images, *told], texts.notes)


def write_copies(books: Books, copies: Copies) -> Counter[str]:
    """Enter pairs and flags in the books, once splits are set; returns counts for the notes."""
    place = {
        sample: (patient, split)
        for sample, patient, split in books.patients()
        .select("sample", "patient", "split")
        .iter_rows()
    }
    counts = Counter(copies.notes)
    for copy in copies:
        row = _row(copy, place[copy.sample], place[copy.other])
        books.add("duplicates", [row])
        counts[f"duplicates_{copy.kind}"] += 1
        counts["duplicates_across_patients"] += not row["same_patient"]
        counts["duplicates_across_splits"] += row["across_splits"]
        if row["across_splits"]:
            books.add_flag(copy.sample, FLAG)
            books.add_flag(copy.other, FLAG)
    return +counts


def _row(copy: Copy, one: tuple[str, str], other: tuple[str, str]) -> dict[str, Any]:
    return {
        "sample": copy.sample,
        "other": copy.other,
        "kind": copy.kind,
        "score": copy.score,
        "same_patient": one[0] == other[0],
        "across_splits": one[1] != other[1],
    }


def image_copies(
    prints: Iterable[Mapping[str, str]],
    patient: Mapping[str, str],
    *,
    near: bool = True,
    workers: int = 1,
) -> list[Copy]:
    """Samples with equal pixels, then near copies.

    Args:
        prints: Rows ``sample, digest, fingerprint``; a blank fingerprint has no near copies.
        patient: The patient of each sample.
        near: Whether near copies are looked for.
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
        if near and row["fingerprint"]:
            samples.append(sample)
            texts.append(row["fingerprint"])
    for pair in near_copies(texts, workers=workers):
        one, other = samples[pair.one], samples[pair.other]
        if patient[one] != patient[other] or pair.score >= _SAME_PATIENT:
            copies.append(Copy(one, other, "image", pair.score))
    return copies


def groups(copies: Iterable[Copy], people: pl.DataFrame) -> dict[str, str]:
    """Patient -> the first by name of all patients that images link with it.

    Args:
        copies: As `image_copies` finds them; copied reports link nobody.
        people: Columns ``sample, patient``.

    Returns:
        Only patients that are linked with another.
    """
    patient = dict(people.select("sample", "patient").iter_rows())
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
