"""Recordings that several published data sets share, so that a leak between them is found.

CholecT45, CholecT50 and CholecSeg8k annotate videos of Cholec80 under the same numbers (the README
on splits of github.com/CAMMA-public/cholect50). M2CAI 2016 shares videos with them, too, under
numbers of its own, for which no published table is known: its recordings have no name here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_FAMILY = re.compile(r"cholec[-_ ]?(80|t40|t45|t50|seg8k)", re.IGNORECASE)
_NUMBER = re.compile(r"vid(?:eo)?[-_ ]?0*(\d{1,3})(?!\d)", re.IGNORECASE)


def recording(paths: Sequence[Path]) -> str | None:
    """The shared name of a Cholec recording, by its data set's folder and its number.

    Args:
        paths: A sample's files: a video, or frames in a folder of the video's name.

    >>> recording([Path("Cholec80/videos/video07.mp4")])
    'cholec:7'
    >>> recording([Path("CholecT50/videos/VID07/000001.png")])
    'cholec:7'
    >>> recording([Path("mine/video07.mp4")]) is None
    True
    """
    if not paths or not any(_FAMILY.match(part) for part in paths[0].parts):
        return None
    numbers = (_NUMBER.match(part) for part in (paths[0].stem, paths[0].parent.name))
    found = next((match for match in numbers if match), None)
    return None if found is None else f"cholec:{int(found[1])}"
