"""What a DICOM header itself says that identifies its patient: a report must not repeat it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from medvlp.archive.dicom.values import Fields
from medvlp.archive.privacy.fold import fold
from medvlp.archive.privacy.identifiers import NOBODY
from medvlp.archive.privacy.pseudonyms import parse_date
from medvlp.archive.verdict import Reject

_PERSONS = (
    "PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName",
    "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "RequestingPhysician",
    "NameOfPhysiciansReadingStudy", "PhysiciansOfRecord", "ResponsiblePerson",
    "ConsultingPhysicianName", "ScheduledPerformingPhysicianName", "OrderEnteredBy",
    "PersonName", "VerifyingObserverName", "ReviewerName", "ContentCreatorName",
)  # fmt: skip
_WORDS = (
    "PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "AdmissionID",
    "MedicalRecordLocator", "IssuerOfPatientID", "RequestedProcedureID",
    "FillerOrderNumberImagingServiceRequest",
    "PlacerOrderNumberImagingServiceRequest", "InsurancePlanIdentification",
    "PatientTelephoneNumbers", "OrderCallbackPhoneNumber", "ReferringPhysicianTelephoneNumbers",
    "MilitaryRank", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID",
    "DeviceSerialNumber",
)  # fmt: skip
_PLACES = (
    "InstitutionName", "InstitutionAddress", "PatientAddress", "InstitutionalDepartmentName",
    "ReferringPhysicianAddress", "RequestingService", "CurrentPatientLocation",
    "PatientInstitutionResidence", "StationName",
)  # fmt: skip
_DATES = (
    "PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate",
    "AdmittingDate", "LastMenstrualDate", "PerformedProcedureStepStartDate",
    "ScheduledProcedureStepStartDate", "InstanceCreationDate",
)  # fmt: skip
_SEQUENCES = (
    "OtherPatientIDsSequence", "RequestAttributesSequence",
    "ReferringPhysicianIdentificationSequence", "ReferencedStudySequence",
)  # fmt: skip

_DATE = re.compile(r"(?<!\d)(\d{1,2})[./-](\d{1,2})[./-](\d{4})(?!\d)")


def known_identifiers(fields: Fields) -> tuple[str, ...]:
    """Raw identifiers of a header, in the forms that `scrub` tells apart.

    Persons in DICOM's writing, always with ``^``; numbers, dates (YYYYMMDD) and places as they
    stand. Elements that nobody can read count as absent.
    """
    parts = (fields, *(item for name in _SEQUENCES for item in _items(fields, name)))
    return tuple(dict.fromkeys(word for part in parts for word in _identifiers(part)))


def names_in(cell: str) -> tuple[str, ...]:
    """What a cell of a table's column of names identifies by, in the forms that `scrub` knows.

    Words as a person's name, dates as ISO, and what else has four digits. Cells that say that
    nothing is known, and departments, name nobody.

    >>> names_in("Weber, Anna *12.03.1950"), names_in("not stated")
    (('Weber^Anna^', '1950-03-12', '1950-12-03'), ())
    """
    words = re.findall(r"[^\W\d_][\w'’.-]*", re.sub(r"\S*\d\S*", " ", cell))
    names = [word for word in words if len(word) > 1 and fold(word.strip(".")).text not in NOBODY]
    dates = [date for found in _DATE.findall(cell) for date in _readings(*found)]
    numbers = [part for part in re.split(r"[\s,;()^]+", cell) if sum(map(str.isdigit, part)) > 3]
    rest = [number for number in numbers if not _DATE.search(number)]
    return (*(["^".join(names) + "^"] if names else []), *dates, *rest)


def _readings(first: str, second: str, year: str) -> Iterator[str]:
    """A date whose day stands first or second."""
    for day, month in dict.fromkeys(((first, second), (second, first))):
        if parse_date(f"{year}-{month:0>2}-{day:0>2}"):
            yield f"{year}-{month:0>2}-{day:0>2}"


def _identifiers(fields: Fields) -> Iterator[str]:
    for name in _PERSONS:
        for person in filter(None, _values(fields, name)):
            yield person if "^" in person else re.sub(r"\s+", "^", person) + "^"
    for name in (*_WORDS, *_DATES):
        yield from filter(None, _values(fields, name))
    for name in _PLACES:
        # The last part of an address, alone on its line, is often just the town.
        for value in _values(fields, name):
            yield from filter(None, (line.strip() for line in re.split(r"[\r\n^]+", value)))


def _values(fields: Fields, keyword: str) -> list[str]:
    """An element's values; as each likely character set has them, where the stated one cannot."""
    try:
        words = fields.text(keyword)
        data = fields.content(keyword) if not words else b""
    except Reject:
        return []
    likely = (data.decode(encoding, "ignore") for encoding in ("utf-8", "latin-1"))
    found = [words] if words else list(likely)
    return [value.strip(" \0") for text in found for value in text.split("\\")]


def _items(fields: Fields, keyword: str) -> list[Fields]:
    try:
        return list(fields.items(keyword))
    except Reject:
        return []
