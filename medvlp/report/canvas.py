"""Drawing as inline SVG that follows the page's colours in light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

INK = "#123456"
"""Stands for the page's text colour; replaced by ``currentColor`` in the SVG."""

PALETTE = ("#0f8a8a", "#c2571a", "#6a5acd", "#b03a6f", "#4f7d1c", "#8a6d0b")
"""Readable on white and on near-black."""

CONTROL = "#8a8f98"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "legend.frameon": False,
    # Label names are the user's: a dollar sign is no formula.
    "text.parse_math": False,
}


@contextmanager
def canvas(name: str, width: float, height: float) -> Iterator[tuple[Figure, list[str]]]:
    """A figure to draw on; on leaving, its SVG is put into the list."""
    svg: list[str] = []
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, svg
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        svg.append(_inline(buffer.getvalue(), name))


def _inline(text: str, name: str) -> str:
    """An SVG element for an HTML page: no prologue, no addresses, ids of its own."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'<svg ([^>]*?)height="[^"]*"([^>]*?)width="([\d.]+)pt"',
                  r'<svg \1 \2 style="width:\3pt"', text, count=1)  # fmt: skip
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    return text.replace(INK, "currentColor").replace("<svg ", '<svg aria-hidden="true" ', 1)
