"""The key file of a manifest's pseudonyms, and the keyed digests (HMAC-SHA-256) made with it.

A key is one or more links of 256 bits. A new key has one; each rotation (`medvlp rekey`) adds one,
which is what lets a rotated manifest keep its splits and recognise its patients in later imports,
while nothing in it can be computed without the newest link.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import secrets
import stat
from pathlib import Path

from medvlp.errors import ArchiveError

KEY = "key"
"""The key file's name in a private folder."""

LINK_BYTES = 32

_TEXT = re.compile(r"(?:[0-9a-f]{64})+")
_WHERE = "give --key the file key from the private folder of an earlier manifest"


def new_key() -> bytes:
    """A fresh random key of one link."""
    return secrets.token_bytes(LINK_BYTES)


def links(key: bytes) -> tuple[bytes, ...]:
    """The links of a key, oldest first.

    Raises:
        ValueError: It is empty or no multiple of 256 bits.
    """
    if not key or len(key) % LINK_BYTES:
        raise ValueError(f"key has {len(key)} bytes, must have a multiple of {LINK_BYTES}")
    return tuple(key[k : k + LINK_BYTES] for k in range(0, len(key), LINK_BYTES))


def read_key(path: Path) -> bytes:
    """The key in a file that `write_key` wrote.

    Raises:
        ArchiveError: The file is unreadable, others than its owner may read it, or it holds no
            256-bit links in hexadecimal.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text(encoding="ascii").removesuffix("\n")
    except (OSError, ValueError) as error:
        raise ArchiveError("the key file is missing or unreadable", remedy=_WHERE) from error
    if mode & 0o077:
        raise ArchiveError(
            "others than its owner may read the key file, so its pseudonyms protect nobody",
            remedy="chmod 600 the key file; if they may have read it, run medvlp rekey",
        )
    if not _TEXT.fullmatch(text):
        raise ArchiveError("the key file does not hold 64 hexadecimal digits a link", remedy=_WHERE)
    return bytes.fromhex(text)


def write_key(path: Path, key: bytes) -> None:
    """Write a key for its owner alone (0600); an existing file is left alone.

    Raises:
        FileExistsError: There is a file of that name.
    """
    text = b"".join(links(key)).hex().encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def derive(key: bytes, *purpose: str) -> bytes:
    """A key of its own for one purpose: what is made with one tells nothing of another."""
    return hmac.digest(key, json.dumps(["medvlp", *purpose]).encode(), "sha256")


def mac(key: bytes, purpose: str, data: bytes) -> str:
    """Keyed digest of `data` for one purpose, in hexadecimal."""
    return hmac.digest(derive(key, purpose), data, "sha256").hex()


def key_id(key: bytes, project: str = "") -> str:
    """Public fingerprint of a key in a project: manifests with equal ones share pseudonyms."""
    return derive(key, "key id", project).hex()[:16]
