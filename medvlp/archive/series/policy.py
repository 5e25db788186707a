"""What is done about a series that is incomplete or was scanned at a tilt."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from pydantic.dataclasses import dataclass

from medvlp.config import STRICT

INTERPOLATED = "interpolated_slices"
SPLIT = "split_at_gap"
RESAMPLED = "tilt_resampled"
_PART = re.compile(r"part_([1-9][0-9]{0,3})")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Policy:
    """Repairs that the user asks for; without them such a series is quarantined."""

    missing: Literal["error", "interpolate", "split"] = "error"
    """A place without a slice: quarantine the series, fill up to three places in a row from the
    slices beside them, or make a volume of each side."""

    tilt: Literal["error", "resample"] = "error"
    """Slices that do not lie on a line along their normal: quarantine the series, or shift each
    slice in its own plane so that they do."""

    @classmethod
    def of(cls, flags: Iterable[str]) -> Policy:
        """The policy under which a sample with these flags was accepted.

        >>> Policy.of(["tilt_resampled"]).tilt
        'resample'
        """
        known = {*flags}
        return cls(
            missing="interpolate"
            if INTERPOLATED in known
            else "split"
            if SPLIT in known
            else "error",
            tilt="resample" if RESAMPLED in known else "error",
        )


NO_REPAIR = Policy()
"""Refuse what is incomplete or tilted."""


def part_flag(part: int) -> str:
    """The flag of the `part`-th volume, from 1, in files that hold several."""
    return f"part_{part}"


def part_of(flags: Iterable[str]) -> int:
    """Which volume in its files a sample is, from 1; 0 where they hold one.

    >>> part_of(["no_text", "part_2"])
    2
    """
    return next((int(m[1]) for m in map(_PART.fullmatch, flags) if m), 0)
