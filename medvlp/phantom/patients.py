"""Phantom patients: numbers instead of names, and metadata that know nothing of the findings."""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass

import numpy as np

from medvlp.data.randomness import generator

_SITES = ("PHANTOM SITE A", "PHANTOM SITE B", "PHANTOM SITE C")
_MAKERS = ("PHANTOM WORKS", "TEST PATTERN INC")
_FIRST_DAY = datetime.date(2020, 1, 1)
_DAYS = 1800


@dataclass(frozen=True, kw_only=True)
class Patient:
    """One made-up patient; drawn apart from the findings, so that nothing here predicts them."""

    id: str
    sex: str
    age: int
    """Years."""
    site: str
    maker: str
    model: str
    acquired: datetime.date

    @property
    def name(self) -> str:
        """A DICOM person name that cannot be anybody's."""
        return f"PHANTOM^{self.id.removeprefix('PHANTOM')}"


def patient_generator(domain: str, seed: int, index: int, purpose: str) -> np.random.Generator:
    """The generator of one patient's draws for one purpose."""
    return generator(seed, 0, f"phantom/{domain}/{index}", purpose)


def draw_patient(domain: str, seed: int, index: int) -> Patient:
    """Patient number `index` of the phantom archive of `domain` and `seed`."""
    rng = patient_generator(domain, seed, index, "patient")
    archive = _number(domain, seed) % 1000
    maker = str(rng.choice(_MAKERS))
    return Patient(
        id=f"PHANTOM{archive:03d}{index:06d}",
        sex=str(rng.choice(("F", "M"))),
        age=int(rng.integers(18, 91)),
        site=str(rng.choice(_SITES)),
        maker=maker,
        model=f"{maker.split()[0]} {rng.integers(1, 4)}",
        acquired=_FIRST_DAY + datetime.timedelta(days=int(rng.integers(_DAYS))),
    )


def accession(patient: Patient, study: int) -> str:
    """The accession number of a patient's study, at most 16 characters as DICOM asks."""
    return f"A{patient.id.removeprefix('PHANTOM')}{study:02d}"


def uid_number(*parts: object) -> int:
    """A number of 39 digits for a UID under 2.25; consecutive numbers serve a series' slices."""
    # Between 10^38 and 2^128, so that every UID has the same length.
    return 10**38 + _number(*parts) % (2 * 10**38)


def uid(*parts: object) -> str:
    """A DICOM UID that follows from `parts`."""
    return f"2.25.{uid_number(*parts)}"


def _number(*parts: object) -> int:
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:16], "big")
