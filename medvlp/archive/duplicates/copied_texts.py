"""Reports that were copied from one patient to another, found among all reports.

Words of a report, without case and punctuation, are compared in runs of five. The share of runs
that two reports have in common (Jaccard) is estimated by the least hashes of their runs under many
permutations (Broder, SEQUENCES 1997); reports that agree in one band of them are compared exactly.
Short reports and templates are the same for many patients by right: they are counted, not listed.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

COPY = 0.7
"""Reports with so many runs in common are reported."""
LEAST_WORDS = 25
"""Shorter reports say the same too often to be called copies."""
TEMPLATE_PATIENTS = 5
"""A text that stands with so many patients is a template."""

_RUN = 5
_BANDS, _ROWS = 32, 4
"""A pair that shares 0.7 of its runs agrees in a band with probability 1 - (1 - 0.7^4)^32."""
_FELLOWS = 16
"""With at most so many earlier reports of a band a report is compared."""
_WORD = re.compile(r"\w+")

Hashes = NDArray[np.uint64]


class CopiedText(NamedTuple):
    """Two samples whose reports share runs of words."""

    sample: str
    other: str
    score: float


@dataclass
class Copies:
    """What was found among reports."""

    pairs: list[CopiedText] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    """``reports_alike_short``, ``reports_from_templates``: reports that are equal to another
    patient's and are not listed."""


@dataclass
class _Text:
    """One wording: who has it, one sample of each patient."""

    runs: Hashes
    holders: dict[str, str] = field(default_factory=dict)


def copied_texts(reports: Iterable[tuple[str, str, str]]) -> Copies:
    """Long reports that two patients share, wholly or nearly.

    Args:
        reports: (sample, patient, text).
    """
    found = Copies()
    long: dict[bytes, _Text] = {}
    short: dict[bytes, set[str]] = {}
    shorts: Counter[bytes] = Counter()
    for sample, patient, text in reports:
        words = words_of(text)
        key = hashlib.blake2b(" ".join(words).encode(), digest_size=16).digest()
        if len(words) < LEAST_WORDS:
            short.setdefault(key, set()).add(patient)
            shorts[key] += 1
        else:
            if key not in long:
                long[key] = _Text(_runs(words))
            long[key].holders.setdefault(patient, sample)
    found.notes["reports_alike_short"] = sum(
        shorts[key] for key, patients in short.items() if len(patients) > 1
    )
    own = [wording for wording in long.values() if len(wording.holders) < TEMPLATE_PATIENTS]
    found.notes["reports_from_templates"] = sum(
        len(wording.holders) for wording in long.values()
    ) - sum(len(wording.holders) for wording in own)
    for wording in own:
        first, *others = wording.holders.values()
        found.pairs += [CopiedText(first, other, 1.0) for other in others]
    found.pairs += _near(own)
    return found


def words_of(text: str) -> list[str]:
    """The words of a report as they are compared: without case and punctuation."""
    return _WORD.findall(text.casefold())


def _near(texts: list[_Text]) -> list[CopiedText]:
    """Different wordings that share most of their runs, of different patients."""
    pairs: dict[tuple[int, int], float] = {}
    bands: dict[bytes, list[int]] = {}
    for place, text in enumerate(texts):
        fellows: set[int] = set()
        for band in _signature(text.runs):
            members = bands.setdefault(band, [])
            fellows.update(members)
            if len(members) < _FELLOWS:
                members.append(place)
        for fellow in fellows:
            score = _shared(texts[fellow].runs, text.runs)
            if score >= COPY and len({*texts[fellow].holders, *text.holders}) > 1:
                pairs[fellow, place] = score
    return [_named(texts[a], texts[b], score) for (a, b), score in sorted(pairs.items())]


def _named(one: _Text, other: _Text, score: float) -> CopiedText:
    """A sample of each, of two patients."""
    for patient, sample in one.holders.items():
        for second, match in other.holders.items():
            if second != patient:
                return CopiedText(sample, match, score)
    raise ValueError("both texts are one patient's")


def _shared(one: Hashes, other: Hashes) -> float:
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both)


@lru_cache(maxsize=1 << 17)
def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def _runs(words: list[str]) -> Hashes:
    """Hashes of the runs of five words, sorted, each once."""
    hashed = np.array([_hash(word) for word in words], dtype=np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(hashed, _RUN)
    factors = np.array([pow(_FACTOR, i, 1 << 64) for i in range(_RUN)], dtype=np.uint64)
    return np.unique(_scattered((windows * factors).sum(axis=1, dtype=np.uint64)))


_FACTOR = 0x9E3779B97F4A7C15


def _scattered(words: Hashes) -> Hashes:
    """A bijection that scatters 64-bit words (the finaliser of SplitMix64, Steele 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


@lru_cache(maxsize=1)
def _salts() -> Hashes:
    counted = np.arange(1, _BANDS * _ROWS + 1, dtype=np.uint64)
    return _scattered(counted * np.uint64(_FACTOR))


def _signature(runs: Hashes) -> list[bytes]:
    """The bands of a text's least hashes, each with its number."""
    least = _scattered(runs[None, :] ^ _salts()[:, None]).min(axis=1).reshape(_BANDS, _ROWS)
    return [bytes([number]) + row.tobytes() for number, row in enumerate(least)]
