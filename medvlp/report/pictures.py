"""Example pictures, taken into the page."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from medvlp.errors import InputError
from medvlp.plain_files import own_file
from medvlp.report.folder import ProtocolFolder


def examples(folder: ProtocolFolder) -> list[dict[str, Any]]:
    """Each example with its pictures as data.

    Raises:
        InputError: A picture is missing, or no file of the folder.
    """
    return [
        entry | {key: _picture(folder.path / "examples", str(entry[key]))
                 for key in ("picture", "overlay")}
        for entry in folder.examples
    ]  # fmt: skip


def _picture(examples: Path, name: str) -> str:
    path = own_file(examples, name)
    if path is None:
        raise InputError(
            f"{examples.parent.name}/examples: a picture is missing, or no file of the folder",
            remedy="run medvlp evaluate for this protocol again",
        )
    data = base64.b64encode(path.read_bytes()).decode()
    return f"data:image/png;base64,{data}"
