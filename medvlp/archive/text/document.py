"""One report as a source tells it: its words, what it belongs to, and which version it is."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from medvlp.archive.text.plaintext import LARGEST_TEXT, Text, clean
from medvlp.archive.verdict import Reject

Status = Literal["final", "amended", "addendum", "preliminary", "retracted"]

UNKNOWN_STATUS = "unknown_report_status"
"""Flag of a report whose status is no word that we know; it counts as final."""

_NO_WORDS = frozenset({"", "nan", "none", "null", "<na>"})
"""What programs write for a report that is not there."""

# HL7 tables 0085 and 0123, FHIR's DiagnosticReport.status, DICOM's flags, and words of exports.
_WORDS: Mapping[Status, str] = {
    "final": "f final finalized finalised complete completed verified signed approved authenticated"
    " authorized authorised u y endgültig freigegeben vidiert definitive",
    "amended": "c corrected amended modified revised korrigiert",
    "addendum": "addendum appended addended supplement supplemental nachtrag",
    "preliminary": "p prelim preliminary partial draft provisional unverified unsigned dictated"
    " transcribed interim r s a vorläufig",
    "retracted": "d w x retracted entered-in-error error deleted cancelled canceled void wrong"
    " withdrawn o i registered storniert",
}
_STATUS = {word: status for status, words in _WORDS.items() for word in words.split()}
_COMPACT = re.compile(r"(\d{4})(\d\d)(\d\d)(?:(\d\d)(\d\d)(\d\d)?(\.\d{1,6})?)?(?:[+-]\d{4})?")
_DOTTED = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})(?:,? +(\d{1,2}):(\d\d)(?::(\d\d))?)?")
_NUMBER = re.compile(r"\d{1,9}(?:\.\d{1,9})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One version of one report."""

    text: str
    accessions: tuple[str, ...] = ()
    study_uids: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    """Keys of no declared kind (a file's name, a number without a system): they may find a study,
    and contradict none."""

    patients: tuple[str, ...] = ()
    """The patient's numbers, if it gives any."""

    status: Status = "final"
    issued: float | None = None
    """Seconds since 1970."""

    version: float | None = None
    report: str = ""
    """The source's own identifier of the report, equal in all its versions; empty if none."""

    replaces: tuple[str, ...] = ()
    """Identifiers of the reports that this one stands in place of."""

    identifiers: tuple[str, ...] = ()
    """Words that name people; to be taken out of the text."""

    flags: tuple[str, ...] = ()

    @property
    def keyed(self) -> bool:
        """Whether it says what it belongs to."""
        return bool(self.accessions or self.study_uids or self.names)


def status_of(word: str | None) -> tuple[Status, tuple[str, ...]]:
    """A status word as one of ours, and flags; no word means final."""
    if not word or not word.strip():
        return "final", ()
    status = _STATUS.get(word.strip().lower().replace("_", "-"))
    return (status, ()) if status else ("final", (UNKNOWN_STATUS,))


def seconds_of(moment: str | None) -> float | None:
    """Seconds since 1970 of an ISO 8601, DICOM or HL7 time, or of 31.12.2020 23:59.

    Other forms (12/11/2020) could mean two days, and are none. A time without a zone is UTC.
    """
    text = (moment or "").strip()
    try:
        if match := _COMPACT.fullmatch(text):
            year, month, day, *clock = (int(part or 0) for part in match.groups()[:6])
            found = _moment(year, month, day, clock)
        elif match := _DOTTED.fullmatch(text):
            day, month, year, *clock = (int(part or 0) for part in match.groups())
            found = _moment(year, month, day, clock)
        else:
            found = dt.datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        return None
    return (found if found.tzinfo else found.replace(tzinfo=dt.UTC)).timestamp()


def _moment(year: int, month: int, day: int, clock: Sequence[int]) -> dt.datetime:
    hour, minute, second = clock
    return dt.datetime(year, month, day, hour, minute, second)


def version_of(word: str | None) -> float | None:
    """The number in ``3``, ``v2`` or ``2.1``."""
    match = _NUMBER.search(word or "")
    return float(match.group()) if match else None


def checked_text(text: str) -> Text:
    """A report's words without controls.

    Raises:
        Reject: ``text_too_large``, ``text_binary`` or ``empty_report``.
    """
    if len(text) > LARGEST_TEXT:
        raise Reject("text_too_large", f"{len(text)} characters")
    found = clean(text)
    if is_wordless(found.text):
        raise Reject("empty_report")
    return found


def is_wordless(text: str) -> bool:
    """Whether a text says nothing: it is blank, or the word that a program wrote for none.

    >>> is_wordless(" NaN "), is_wordless("None seen.")
    (True, False)
    """
    return text.strip().lower() in _NO_WORDS


def words_of(*names: str) -> tuple[str, ...]:
    """The words of people's names, DICOM's ``A^B=C`` included."""
    return tuple(dict.fromkeys(w for name in names for w in re.split(r"[\^=,\s]+", name) if w))
