"""Splits by patient that stay stable as an archive grows, and nested few-shot subsets.

A patient's place is a hash of the pseudonym, so manifests that share a key share splits, and a
patient who comes again next year stays where he is.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator
from pydantic.dataclasses import dataclass as checked_dataclass

from medvlp.config import STRICT
from medvlp.data.tables import SPLITS
from medvlp.errors import ConfigError

SHARES = (("1%", 0.01), ("10%", 0.1), ("100%", 1.0))
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

Row = Mapping[str, Any]


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

    split: Mapping[str, str]
    policy: str
    conflicts: int
    """Patients whom the source itself puts into two splits; if any, all are split by hash."""


def assign_splits(samples: Iterable[Row], policy: str, fractions: Fractions) -> Assignment:
    """Put every patient into one split.

    Args:
        samples: Rows with ``patient`` and ``source_split``.
        policy: ``source`` keeps the source's own split where it names one (``train_val`` is
            divided by hash) and hashes other patients; ``hash`` hashes all.
        fractions: Shares for hashed patients.

    Raises:
        ConfigError: Policy ``source``, and the source's words for its splits are unknown.
    """
    named: dict[str, set[str]] = {}
    unknown = 0
    for row in samples:
        word = str(row["source_split"] or "").strip().lower()
        name = _OFFICIAL.get(word)
        unknown += bool(word) and name is None
        named.setdefault(row["patient"], set()).update({name} if name else ())
    if unknown and policy == "source":
        raise ConfigError(
            f"{unknown} samples carry a split that is none of {', '.join(_OFFICIAL)}",
            remedy="rename the splits in the source, or add --set split.policy=hash",
        )
    conflicts = sum(len(names) > 1 for names in named.values())
    official = policy == "source" and not conflicts and any(named.values())
    split = {
        patient: _place(patient, names if official else set(), fractions)
        for patient, names in named.items()
    }
    return Assignment(split=split, policy="source" if official else "hash", conflicts=conflicts)


def _place(patient: str, names: set[str], fractions: Fractions) -> str:
    if not names:
        return split_of(patient, fractions)
    (name,) = names
    if name in SPLITS:
        return name
    seen = fractions.train + fractions.valid
    share = fractions.valid / seen if seen else 0.0
    return split_of(patient, Fractions(train=1 - share, valid=share, test=0))


def subsets(samples: Sequence[Row], labels: Iterable[Row]) -> list[dict[str, str]]:
    """Few-shot subsets of the training split, as rows of `tables.SUBSETS`.

    ``1%`` within ``10%`` within ``100%`` by patient, never empty; for each label
    ``<label>/<k>-shot/<draw>`` with 1 within 4 within 16 for five draws: k samples of k different
    patients with the label, and as many without it where some are known to be; left out where
    either are fewer than k.
    """
    train = [row for row in samples if row["split"] == "train"]
    patients = sorted({row["patient"] for row in train}, key=lambda p: uniform(p, "subset"))
    rank = {patient: i for i, patient in enumerate(patients)}
    rows = []
    for name, share in SHARES:
        count = math.ceil(share * len(patients) - 1e-9)
        rows += [_row(name, r["sample"]) for r in train if rank[r["patient"]] < count]
    return rows + _shots(train, labels)


def _row(subset: str, sample: str) -> dict[str, str]:
    return {"subset": subset, "sample": sample}


def _shots(train: Sequence[Row], labels: Iterable[Row]) -> list[dict[str, str]]:
    place = {row["sample"]: row["patient"] for row in train}
    groups: dict[tuple[str, float], dict[str, str]] = {}
    for row in labels:
        sample, value = row["sample"], row["value"]
        if sample in place and value in (0, 1):
            # One sample a patient, whichever order the rows came in.
            group = groups.setdefault((row["name"], float(value)), {})
            patient = place[sample]
            group[patient] = min(group.get(patient, sample), sample)
    rows: list[dict[str, str]] = []
    for name in sorted({name for name, value in groups if value == 1}):
        sides = {value: groups[name, value] for value in (1.0, 0.0) if (name, value) in groups}
        most = min(len(group) for group in sides.values())
        for value, group in sides.items():
            rows += _draw(name, value, group, most)
    return rows


def _draw(name: str, value: float, group: Mapping[str, str], most: int) -> list[dict[str, str]]:
    patients = sorted(group)
    keys = np.array([_word(patient) for patient in patients], dtype=np.uint64)
    rows = []
    for draw in range(DRAWS):
        order = np.argsort(_mix(keys ^ np.uint64(_word(f"{name}|{value}|{draw}"))), kind="stable")
        for shots in SHOTS:
            if shots <= most:
                chosen = (group[patients[i]] for i in order[:shots])
                rows += [_row(f"{name}/{shots}-shot/{draw}", sample) for sample in chosen]
    return rows


def _word(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection that scatters 64-bit words (the finaliser of SplitMix64, Steele 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
