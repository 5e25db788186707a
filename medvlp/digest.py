"""Content digests: the same bytes or the same plain values give the same SHA-256, anywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20


def digest_bytes(data: bytes) -> str:
    """SHA-256 of `data`, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def nothing() -> None:
    """What is called after each block where nobody waits for it."""


def digest_file(path: Path, alive: Callable[[], object] = nothing) -> str:
    """SHA-256 of a file's bytes, read in blocks; `alive` is called after each."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            alive()
    return digest.hexdigest()


def digest_plain(values: Any) -> str:
    """SHA-256 of plain values (dict, list, str, number, bool, None) in canonical JSON."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return digest_bytes(text.encode())
