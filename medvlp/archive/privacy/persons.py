"""Whom a stored reading names: what a withdrawal has to look for in the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_PATIENTS = frozenset({"patient", "patients"})
_STUDIES = frozenset({"study", "accession", "study_uids", "accessions", "names"})


@dataclass(frozen=True)
class Person:
    """Raw identifiers that stand together in a header or a report."""

    patients: frozenset[str]
    studies: frozenset[str]
    """Study identifiers, accession numbers, and names that may be either."""


def persons_in(result: Any) -> Iterator[Person]:
    """Everybody whom the JSON of a reading names, header by header and report by report."""
    if isinstance(result, dict):
        found = Person(_words(result, _PATIENTS), _words(result, _STUDIES))
        if found.patients or found.studies:
            yield found
            return
        result = list(result.values())
    if isinstance(result, list):
        for value in result:
            if isinstance(value, dict | list):
                yield from persons_in(value)


def _words(told: dict[str, Any], names: frozenset[str]) -> frozenset[str]:
    values = [told[name] for name in names if name in told]
    lists = [value if isinstance(value, list) else [value] for value in values]
    return frozenset(word.strip() for v in lists for word in v if isinstance(word, str) and word)
