"""DICOMDIR, a medium's table of contents: nobody follows it, but one that leads out is told."""

from __future__ import annotations

import re

from medvlp.archive.containers import leads_out
from medvlp.archive.verdict import Ignore, Reject, Verdict

_SOP_CLASS = re.compile(rb"(?<![.\d])1\.2\.840\.10008\.1\.3\.10(?![.\d])")
_META = slice(132, 1024)
_LONGEST = 8 * 16 + 7
"""Bytes of a file's id: eight parts of sixteen characters (DICOM PS3.3, F.3.2.2; PS3.10, 8.2)."""

# (0004,1500) Referenced File ID in explicit and in implicit VR, little endian.
_FILE_ID = re.compile(rb"\x04\x00\x00\x15(?:CS(?P<short>..)|(?P<long>..)\0\0)", re.DOTALL)


def is_dicomdir(data: bytes) -> bool:
    """Whether a file's meta header says that it is a media directory."""
    return data[128:132] == b"DICM" and _SOP_CLASS.search(data[_META]) is not None


def dicomdir_verdict(data: bytes) -> Verdict:
    """What becomes of a media directory: set aside, or quarantined where an id leads out."""
    escapes = 0
    for found in _FILE_ID.finditer(data):
        length = int.from_bytes(found["short"] or found["long"] or b"", "little")
        value = data[found.end() : found.end() + length].rstrip(b" \0").decode("latin-1")
        escapes += length > _LONGEST or leads_out(value)
    if escapes:
        return Reject("path_escape", f"(0004,1500) of {escapes} records")
    return Ignore("dicomdir")
