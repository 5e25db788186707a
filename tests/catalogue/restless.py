"""A reader of DICOM files during whose work somebody writes to the file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlp.archive.dicom import scan


def scan_file(paths: Sequence[Path], **settings: Any) -> scan.Scan:
    """`scan.scan_file`, and afterwards a file whose name begins with ``restless`` is a second
    older; one that begins with ``once`` only the first time."""
    found = scan.scan_file(paths, **settings)
    (path,) = paths
    mark = path.with_name(path.name + "-seen")
    if path.name.startswith("restless") or (path.name.startswith("once") and not mark.exists()):
        stat = path.stat()
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns - 10**9))
        mark.touch()
    return found
