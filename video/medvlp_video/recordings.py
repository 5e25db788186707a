"""Recordings that several published data sets share, so that a leak between them is found.

CholecT45, CholecT50, CholecSeg8k, CholecTrack20 and Cholec120 annotate videos of Cholec80 under the
same numbers (the README on splits of github.com/CAMMA-public/cholect50). M2CAI 2016 shares videos
with them, too, under numbers of its own: which set of its videos is known, which is which is not,
so its recordings have no name here. PSI-AVA's eight cases are those of GraSP's training part, under
the same numbers (github.com/BCV-Uniandes/GraSP). The videos of StrasBypass70 and BernBypass70 are
numbered once for all of MultiBypass140.

A source kind gives the same name as its study, so that under one key the patients of all these
sets are the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class _Family:
    """Sets that number their recordings alike."""

    word: str
    folder: re.Pattern[str] | None
    """What a folder of one of the sets is called; None where the numbers alone tell."""

    number: re.Pattern[str]

    def name(self, paths: Sequence[Path]) -> str | None:
        """The name of a recording, if it is one of the family."""
        if self.folder and not any(self.folder.match(part) for part in paths[0].parts):
            return None
        told = (self.number.match(part) for part in (paths[0].stem, paths[0].parent.name))
        found = next((match for match in told if match), None)
        return None if found is None else named(self.word, found[1])


_FAMILIES = (
    _Family(
        "cholec",
        re.compile(r"cholec[-_ ]?(80|120|t40|t45|t50|seg8k|track20)", re.IGNORECASE),
        re.compile(r"vid(?:eo)?[-_ ]?0*(\d{1,3})(?!\d)", re.IGNORECASE),
    ),
    _Family("multibypass140", None, re.compile(r"([BS]BP\d\d)(?!\d)")),
    _Family(
        "grasp",
        re.compile(r"(grasp|psi[-_ ]?ava)(?![a-z])", re.IGNORECASE),
        re.compile(r"CASE(\d{3})(?!\d)"),
    ),
)


def named(word: str, number: str) -> str:
    """The shared name of a recording.

    >>> named("cholec", "07"), named("multibypass140", "BBP01")
    ('cholec:7', 'multibypass140:BBP01')
    """
    return f"{word}:{number.lstrip('0') if number.isdigit() else number}"


def recording(paths: Sequence[Path]) -> str | None:
    """The shared name of a recording, by its data set's folder and its number.

    Args:
        paths: A sample's files: a video, or frames in a folder of the video's name.

    >>> recording([Path("Cholec80/videos/video07.mp4")])
    'cholec:7'
    >>> recording([Path("CholecT50/videos/VID07/000001.png")])
    'cholec:7'
    >>> recording([Path("anywhere/BBP01/BBP01_00000001.jpg")])
    'multibypass140:BBP01'
    >>> recording([Path("mine/video07.mp4")]) is None
    True
    """
    told = (family.name(paths) for family in _FAMILIES if paths)
    return next((name for name in told if name), None)
