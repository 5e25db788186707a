"""Splits by patient that stay stable as an archive grows, and nested few-shot subsets.

A patient's place is a hash of the pseudonym, so manifests that share a key share splits, and a
patient who comes again next year stays where he is.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import model_validator
from pydantic.dataclasses import dataclass as checked_dataclass

from medvlp.config import STRICT
from medvlp.data.tables import SPLITS
from medvlp.errors import ConfigError

SHARES = (("1%", 0.01), ("5%", 0.05), ("10%", 0.1), ("100%", 1.0))
SHOTS = (1, 4, 16)
DRAWS = 5

_OFFICIAL = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validate": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
    "train_val": "train_val",
    "trainval": "train_val",
}

Row = dict[str, str]


@checked_dataclass(frozen=True, kw_only=True, config=STRICT)
class Fractions:
    """Shares of the patients in each split; they add up to 1."""

    train: float = 0.7
    valid: float = 0.1
    test: float = 0.2

    @model_validator(mode="after")
    def _whole(self) -> Self:
        parts = (self.train, self.valid, self.test)
        if min(parts) < 0 or not math.isclose(sum(parts), 1.0, abs_tol=1e-9):
            raise ValueError("train, valid and test must be at least 0 and add up to 1")
        return self


def uniform(patient: str, purpose: str = "split") -> float:
    """The patient's fixed place in [0, 1): 53 bits of SHA-256, so exact in a float."""
    digest = hashlib.sha256(f"medvlp {purpose}|{patient}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def split_of(patient: str, fractions: Fractions) -> str:
    """The split of a pseudonymous patient.

    >>> split_of("p1", Fractions(train=1, valid=0, test=0))
    'train'
    """
    place = uniform(patient)
    if place < fractions.test:
        return "test"
    return "valid" if place < fractions.test + fractions.valid else "train"


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Which split each patient is in, and by which rule."""

    split: pl.DataFrame
    """Columns ``patient`` and ``split``, one row a patient."""

    policy: str
    conflicts: int
    """Patients whom the source itself puts into two splits; if any, all are split by hash."""


def assign_splits(
    samples: pl.DataFrame,
    policy: str,
    fractions: Fractions,
    linked: Mapping[str, str] | None = None,
) -> Assignment:
    """Put every patient into one split.

    Args:
        samples: Columns ``patient`` and ``source_split``.
        policy: ``source`` keeps the source's own split where it names one (``train_val`` is
            divided by hash) and hashes other patients; ``hash`` hashes all.
        fractions: Shares for hashed patients.
        linked: Patients who go where another one goes, and who that is.

    Raises:
        ConfigError: Policy ``source``, and the source's words for its splits are unknown, or
            linked patients cannot be kept together because the source says where they belong.
    """
    word = pl.col("source_split").fill_null("").str.strip_chars().str.to_lowercase()
    named = samples.select("patient", word=word, name=word.replace_strict(_OFFICIAL, default=None))
    unknown = named.filter((pl.col("word") != "") & pl.col("name").is_null()).height
    if unknown and policy == "source":
        raise ConfigError(
            f"{unknown} samples carry a split that is none of {', '.join(_OFFICIAL)}",
            remedy="rename the splits in the source, or add --set split.policy=hash",
        )
    names = pl.col("name").drop_nulls()
    patients = named.group_by("patient", maintain_order=True).agg(
        sides=names.n_unique(), name=names.first()
    )
    conflicts = patients.filter(pl.col("sides") > 1).height
    official = policy == "source" and not conflicts and bool(patients["sides"].sum())
    if official and linked:
        raise ConfigError(
            f"{len(linked)} patients share images with others, and the source says where each goes",
            remedy="add --set split.policy=hash, or leave out duplicates=group",
        )
    leader = linked or {}
    places = (
        _place(leader.get(patient, patient), name if official else None, fractions)
        for patient, name in patients.select("patient", "name").iter_rows()
    )
    split = patients.select("patient").with_columns(split=pl.Series(places, dtype=pl.String()))
    return Assignment(split=split, policy="source" if official else "hash", conflicts=conflicts)


def _place(patient: str, name: str | None, fractions: Fractions) -> str:
    if name is None:
        return split_of(patient, fractions)
    if name in SPLITS:
        return name
    seen = fractions.train + fractions.valid
    share = fractions.valid / seen if seen else 0.0
    return split_of(patient, Fractions(train=1 - share, valid=share, test=0))


def subsets(samples: pl.DataFrame, labels: pl.DataFrame) -> Iterator[Row]:
    """Few-shot subsets of the training split, as rows of `tables.SUBSETS`.

    ``1%`` within ``5%`` within ``10%`` within ``100%`` by patient, never empty; for each label
    ``<label>/<k>-shot/<draw>`` with 1 within 4 within 16 for five draws: k samples of k different
    patients with the label, and as many without it where some are known to be; left out where
    either are fewer than k.

    Args:
        samples: Columns ``sample``, ``patient`` and ``split``.
        labels: Columns ``sample``, ``name`` and ``value``.
    """
    train = samples.filter(pl.col("split") == "train").select("sample", "patient")
    patients = train.select(pl.col("patient").unique())
    places = (uniform(patient, "subset") for patient in patients["patient"])
    ranked = patients.with_columns(place=pl.Series(places, dtype=pl.Float64())).sort("place")
    rank = ranked.select("patient").with_row_index("rank")
    members = train.join(rank, on="patient", maintain_order="left")
    for name, share in SHARES:
        count = math.ceil(share * rank.height - 1e-9)
        for sample in members.filter(pl.col("rank") < count)["sample"]:
            yield _row(name, sample)
    yield from _shots(train, labels)


def _row(subset: str, sample: str) -> Row:
    return {"subset": subset, "sample": sample}


def _shots(train: pl.DataFrame, labels: pl.DataFrame) -> Iterator[Row]:
    # One sample a patient, whichever order the rows came in.
    told = (
        labels.filter(pl.col("value").is_in([0.0, 1.0]))
        .join(train, on="sample")
        .group_by("name", "value", "patient")
        .agg(pl.col("sample").min())
        .sort("name", "value", "patient", descending=[False, True, False])
    )
    for (name,), group in told.group_by("name", maintain_order=True):
        sides = {float(v): part for (v,), part in group.group_by("value", maintain_order=True)}
        if 1.0 in sides:
            most = min(part.height for part in sides.values())
            for value, part in sides.items():
                yield from _draw(str(name), value, part, most)


def _draw(name: str, value: float, group: pl.DataFrame, most: int) -> Iterator[Row]:
    keys = np.array([_word(patient) for patient in group["patient"]], dtype=np.uint64)
    for draw in range(DRAWS):
        order = np.argsort(_mix(keys ^ np.uint64(_word(f"{name}|{value}|{draw}"))), kind="stable")
        for shots in SHOTS:
            if shots <= most:
                for sample in group["sample"].gather(order[:shots]):
                    yield _row(f"{name}/{shots}-shot/{draw}", sample)


def _word(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection that scatters 64-bit words (the finaliser of SplitMix64, Steele 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
