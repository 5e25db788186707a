"""Keyed pseudonyms: HMAC-SHA-256 with a 256-bit key that never enters the manifest.

An unkeyed hash of a record number is undone by trying all record numbers; a keyed one is not.
Each kind of identifier has its own domain, so that equal numbers of different kinds do not match.
Names are cut to 96 bits: among 10^8 of a kind, two collide with probability below 10^-13.
"""

from __future__ import annotations

import datetime as dt
import hmac
import re
import secrets
from pathlib import Path

from medvlp.errors import ArchiveError

KEY_BYTES = 32
_HEX_DIGITS = 24
_SHIFT_DAYS = 3650
_OLDEST_BAND = 90

_DICOM_DATE = re.compile(r"(\d{4})(\d{2})(\d{2})")
_DICOM_AGE = re.compile(r"(\d{1,3})([DWMY])")
_DAYS = {"D": 1, "W": 7, "M": 30.4375, "Y": 365.25}


def new_key() -> bytes:
    """A fresh random key."""
    return secrets.token_bytes(KEY_BYTES)


def read_key(path: Path) -> bytes:
    """The key in a file that `medvlp index` wrote.

    Raises:
        ArchiveError: The file is unreadable or holds no 256-bit key in hexadecimal.
    """
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise ArchiveError(
            "the key file is missing or unreadable",
            remedy="give --key the file key from the private folder of an earlier manifest",
        ) from error
    if len(key) != KEY_BYTES:
        raise ArchiveError(
            f"the key file holds {len(key)} bytes, a key has {KEY_BYTES}",
            remedy="give --key the file key from the private folder of an earlier manifest",
        )
    return key


class Pseudonyms:
    """Pseudonyms under one key; equal identifiers give equal names wherever the key is used.

    Args:
        key: The 256-bit key.
        issuer: Who gives out the patient numbers (a hospital's short name), where several sites
            share a key and may use the same number for different people.
    """

    def __init__(self, key: bytes, issuer: str = "") -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"key has {len(key)} bytes, must have {KEY_BYTES}")
        self._key = key
        self._issuer = issuer

    @property
    def key_id(self) -> str:
        """Public fingerprint of the key; it says which manifests share one and nothing more."""
        return self._mac("key id", "")[:16]

    def patient(self, identifier: str) -> str:
        """Pseudonym of a patient number."""
        return "p" + self._mac("patient", self._issued(identifier))[:_HEX_DIGITS]

    def study(self, identifier: str) -> str:
        """Pseudonym of a study (its UID or accession number)."""
        return "s" + self._mac("study", identifier.strip())[:_HEX_DIGITS]

    def series(self, identifier: str) -> str:
        """Pseudonym of a series."""
        return "e" + self._mac("series", identifier.strip())[:_HEX_DIGITS]

    def sample(self, identifier: str) -> str:
        """Pseudonym of a sample (an instance UID, or the digest of its bytes)."""
        return "x" + self._mac("sample", identifier.strip())[:_HEX_DIGITS]

    def source(self, location: str) -> str:
        """Opaque id of a file or folder."""
        return "f" + self._mac("source", location)[:_HEX_DIGITS]

    def date(self, patient: str, date: dt.date | str | None) -> str | None:
        """A date moved into the past by the patient's own number of days, in ISO form.

        The shift is between 1 and 3650 days, so intervals within a patient are kept.

        Args:
            patient: The patient's raw identifier.
            date: A date, ISO text or DICOM's YYYYMMDD; what is no date gives None.
        """
        parsed = parse_date(date)
        if parsed is None:
            return None
        digits = self._mac("date", self._issued(patient))
        shift = dt.timedelta(days=1 + int(digits, 16) % _SHIFT_DAYS)
        return (parsed - shift).isoformat() if parsed.toordinal() > shift.days else None

    def _issued(self, identifier: str) -> str:
        return f"{self._issuer}\x1f{identifier.strip()}"

    def _mac(self, domain: str, value: str) -> str:
        message = f"medvlp {domain}\x1f{value}".encode("utf-8", "surrogatepass")
        return hmac.new(self._key, message, "sha256").hexdigest()


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
