"""The page of `medvlp search`: each hit with a picture and, for recordings, where to jump to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from medvlp.archive.view import Picture
from medvlp.data.paths import path_from_text
from medvlp.outputs import write_text
from medvlp.report.page import render

if TYPE_CHECKING:
    from medvlp.evaluate.hits import Hit


def write_hits(
    page: Path, query: str, hits: Sequence[Hit], pictures: Sequence[Picture | None], *, names: bool
) -> None:
    """Write the page, self-contained.

    Args:
        page: The file to write.
        query: What was looked for.
        hits: What was found, best first.
        pictures: One a hit, where there is one.
        names: Name the files, which may name patients, and link to them: a recording opens at the
            moment (``file#t=start``, W3C Media Fragments).
    """
    # Recordings count from 1 in the order in which they are first found.
    order = list(dict.fromkeys((hit.sample, hit.source) for hit in hits))
    shown = [
        _shown(hit, order.index((hit.sample, hit.source)) + 1, picture, page, names=names)
        for hit, picture in zip(hits, pictures, strict=True)
    ]
    write_text(page, render("hits.html.j2", query=query, hits=shown, names=names))


def _shown(
    hit: Hit, number: int, picture: Picture | None, page: Path, *, names: bool
) -> dict[str, Any]:
    own = path_from_text(hit.source)
    file = names and not hit.sample and own.exists()
    return {
        "hit": hit,
        "name": hit.source if names and not hit.sample else hit.sample or f"input {number}",
        "png": picture.png if picture else None,
        "link": _link(own, page, hit.start_s) if file else None,
    }


def _link(file: Path, page: Path, start_s: float | None) -> str:
    """From the page to the file, and there to the moment."""
    place = quote(Path(os.path.relpath(file, page.parent)).as_posix())
    return place if start_s is None else f"{place}#t={start_s:.1f}"
