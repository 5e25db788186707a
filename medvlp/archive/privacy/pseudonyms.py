"""Keyed pseudonyms: HMAC-SHA-256 with a 256-bit key that never enters the manifest.

An unkeyed hash of a record number is undone by trying all record numbers; a keyed one is not.
Each kind of identifier in each project has a key of its own (derived from the one), so that equal
numbers of different kinds, and equal patients of different projects, do not match.
Names are cut to 96 bits: among 10^8 of a kind, two collide with probability below 10^-13.

Rotating a key adds a link to it: the name under the new key is the keyed digest, with the new
link, of the name under the old one. Whoever lacks the newest link can compute nothing, even with
all earlier links in hand; whoever has the whole key gets the same name from the raw identifier.
"""

from __future__ import annotations

import datetime as dt
import hmac
import re
from functools import cached_property

from medvlp.data.keys import derive, key_id, links

NAME = re.compile(r"(?<![0-9A-Za-z])[psexf][0-9a-f]{24}(?![0-9a-f])")
"""What a pseudonym of any kind looks like."""

_HEX_DIGITS = 24
_SHIFT_DAYS = 3650
_OLDEST_BAND = 90
_KINDS = {"p": "patient", "s": "study", "e": "series", "x": "sample", "f": "source"}

_DICOM_DATE = re.compile(r"(\d{4})(\d{2})(\d{2})")
_DICOM_AGE = re.compile(r"(\d{1,3})([DWMY])")
_DAYS = {"D": 1, "W": 7, "M": 30.4375, "Y": 365.25}


class Pseudonyms:
    """Pseudonyms under one key; equal identifiers give equal names wherever the key is used.

    Args:
        key: The key, of one link or more (`medvlp.data.keys`).
        issuer: Who gives out the patient numbers (a hospital's short name), where several sites
            share a key and may use the same number for different people.
        project: Manifests of different projects cannot be linked, though they share a key.
    """

    def __init__(self, key: bytes, issuer: str = "", project: str = "") -> None:
        self._key = key
        self._issuer = issuer
        self._project = project
        self._derived: dict[tuple[int, str], bytes] = {}
        self._links = links(key)

    @cached_property
    def key_id(self) -> str:
        """Public fingerprint of the key; it says which manifests share one and nothing more."""
        return key_id(self._key, self._project)

    def patient(self, identifier: str) -> str:
        """Pseudonym of a patient number."""
        return self._name("p", self._issued(identifier))

    def root(self, identifier: str) -> str:
        """Pseudonym of a patient number under the key's oldest link.

        Splits hash it, so that they outlast a rotation.
        """
        return self._link(0, "p", self._issued(identifier))

    def study(self, identifier: str) -> str:
        """Pseudonym of a study (its UID or accession number)."""
        return self._name("s", identifier.strip())

    def series(self, identifier: str) -> str:
        """Pseudonym of a series."""
        return self._name("e", identifier.strip())

    def sample(self, identifier: str) -> str:
        """Pseudonym of a sample (an instance UID, or the digest of its bytes)."""
        return self._name("x", identifier.strip())

    def source(self, location: str) -> str:
        """Opaque id of a file or folder."""
        return self._name("f", location)

    def renamed(self, name: str) -> str:
        """The pseudonym under the whole key of what has `name` under all links but the newest."""
        return self._link(len(self._links) - 1, name[0], name)

    def date(self, patient: str, date: dt.date | str | None) -> str | None:
        """A date moved into the past by the patient's own number of days, in ISO form.

        The shift is between 1 and 3650 days, so intervals within a patient are kept.

        Args:
            patient: The patient's raw identifier.
            date: A date, ISO text or DICOM's YYYYMMDD; what is no date gives None.
        """
        return self.shifted(self.patient(patient), date)

    def shifted(self, name: str, date: dt.date | str | None) -> str | None:
        """As `date`, of the patient with the pseudonym `name`."""
        return moved(date, -self.shift_days(name))

    def shift_days(self, name: str) -> int:
        """By how many days the dates of the patient with the pseudonym `name` are moved."""
        newest = len(self._links) - 1
        digits = hmac.digest(self._sub(newest, "date"), name.encode(), "sha256").hex()
        return 1 + int(digits, 16) % _SHIFT_DAYS

    def lineage(self, identifier: str) -> tuple[str, ...]:
        """A patient number's pseudonyms under the key as it was after each rotation."""
        return self._lineage("p", self._issued(identifier))

    def study_lineage(self, identifier: str) -> tuple[str, ...]:
        """As `lineage`, of a study's identifier."""
        return self._lineage("s", identifier.strip())

    def _lineage(self, kind: str, value: str) -> tuple[str, ...]:
        names: list[str] = []
        for number in range(len(self._links)):
            value = self._link(number, kind, value)
            names.append(value)
        return tuple(names)

    def tombstone(self, name: str) -> str:
        """What is kept of a withdrawn pseudonym or digest: the key can try a name on it, no more.

        Tombstones of before a rotation are brought over by making one of each.
        """
        return self._bury(len(self._links) - 1, name)

    def tombstones(self, name: str) -> tuple[str, ...]:
        """Every tombstone that `name` may have, whenever it was withdrawn."""
        found: list[str] = []
        for number in range(len(self._links)):
            found = [self._bury(number, stone) for stone in (*found, name)]
        return tuple(found)

    def _bury(self, number: int, name: str) -> str:
        return hmac.digest(self._sub(number, "withdrawn"), name.encode(), "sha256").hex()

    def _issued(self, identifier: str) -> str:
        return f"{self._issuer}\x1f{identifier.strip()}"

    def _name(self, kind: str, value: str) -> str:
        for number in range(len(self._links)):
            value = self._link(number, kind, value)
        return value

    def _link(self, number: int, kind: str, value: str) -> str:
        message = value.encode("utf-8", "surrogatepass")
        digest = hmac.digest(self._sub(number, _KINDS[kind]), message, "sha256").hex()
        return kind + digest[:_HEX_DIGITS]

    def _sub(self, number: int, purpose: str) -> bytes:
        if (number, purpose) not in self._derived:
            self._derived[number, purpose] = derive(
                self._links[number], "name", self._project, purpose
            )
        return self._derived[number, purpose]


def moved(date: dt.date | str | None, days: int) -> str | None:
    """A date moved by a number of days, in ISO form; None where it is none, or before year 1."""
    parsed = parse_date(date)
    if parsed is None or parsed.toordinal() + days < 1:
        return None
    return dt.date.fromordinal(parsed.toordinal() + days).isoformat()


def parse_date(value: dt.date | str | None) -> dt.date | None:
    """A date from ISO text or DICOM's YYYYMMDD (a time behind it is dropped), else None."""
    if isinstance(value, dt.datetime):
        return value.date()
    if value is None or isinstance(value, dt.date):
        return value
    text = value.strip()[:10]
    match = _DICOM_DATE.match(text)
    try:
        return dt.date(*map(int, match.groups())) if match else dt.date.fromisoformat(text)
    except ValueError:
        return None


def age_years(value: str | float | None) -> float | None:
    """Years from a number or DICOM's age string such as ``045Y`` or ``006M``, else None."""
    if value is None:
        return None
    match = _DICOM_AGE.fullmatch(str(value).strip().upper())
    if match:
        return int(match[1]) * _DAYS[match[2]] / _DAYS["Y"]
    try:
        years = float(value)
    except ValueError:
        return None
    return years if 0 <= years <= 130 else None


def age_band(value: str | float | None) -> str | None:
    """The ten-year band of an age; ages from 90 are one band.

    >>> age_band("045Y"), age_band(97)
    ('40-49', '90+')
    """
    years = age_years(value)
    if years is None:
        return None
    if years >= _OLDEST_BAND:
        return f"{_OLDEST_BAND}+"
    low = int(years // 10) * 10
    return f"{low}-{low + 9}"
