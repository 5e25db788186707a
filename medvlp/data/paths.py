"""Paths as text that survives: names in a hospital's folders need not be valid text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator


def absolute(path: Path | str) -> Path:
    """A path from the root, without ``..``; links are not followed."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links


def with_parent(path: Path) -> str:
    """A path's last two parts: what messages call a bundle, for most are called ``bundle``."""
    return str(Path(*absolute(path).parts[-2:]))


def path_to_text(path: Path | str) -> str:
    """An absolute path as text; a name that is no valid text becomes ``bytes:<hexadecimal>``."""
    text = str(absolute(path))
    try:
        text.encode()
    except UnicodeEncodeError:
        return "bytes:" + os.fsencode(text).hex()
    return text


def path_from_text(text: str) -> Path:
    """The inverse of `path_to_text`."""
    if text.startswith("bytes:"):
        return Path(os.fsdecode(bytes.fromhex(text.removeprefix("bytes:"))))
    return Path(text)


def _from_json(value: Any) -> Path:
    if not isinstance(value, str):
        raise ValueError("not a path's text")
    return path_from_text(value)


PathText = Annotated[Path, PlainValidator(_from_json), PlainSerializer(path_to_text)]
"""A path in a dataclass that crosses as JSON: `path_to_text` out, `path_from_text` in."""
