"""Forest plots: estimates and intervals of labels, groups or axes, model beside controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medvlp.report.canvas import INK, canvas
from medvlp.report.figures.style import marker


def forest(
    rows: Sequence[Mapping[str, Any]],
    of: Mapping[str, str],
    chance: float | None,
    name: str,
    *,
    by: str = "name",
) -> str | None:
    """Every line's estimate and interval; None where none is defined.

    Args:
        rows: Of one metric, with ``model, value, low, high, control``.
        of: Model -> colour.
        chance: Where a dotted line is drawn.
        name: Of the figure, for its ids.
        by: The column that tells lines apart.
    """
    rows = [row for row in rows if row["value"] is not None]
    if not rows:
        return None
    lines = list(dict.fromkeys(row[by] for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))
    step = 0.8 / max(1, len(models))
    with canvas(name, 7.5, 1.0 + len(lines) * max(0.34, 0.13 * len(models))) as (figure, svg):
        axes = figure.subplots()
        if chance is not None:
            axes.axvline(chance, color=INK, lw=0.8, ls=":")
        for k, model in enumerate(models):
            own = [row for row in rows if row["model"] == model]
            y = [lines.index(row[by]) - 0.4 + step * (k + 0.5) for row in own]
            x = np.array([row["value"] for row in own])
            axes.errorbar(
                x, y, xerr=_reach(own, x), fmt=marker(models, k), ms=4.5, lw=1.4, ls="",
                color=of[model], label=model, alpha=0.85 if own[0]["control"] else 1.0,
            )  # fmt: skip
        axes.set_yticks(range(len(lines)), lines)
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.grid(axis="x", lw=0.3, alpha=0.5)
        figure.legend(loc="outside lower center", ncols=3)
    return svg[0]


def _reach(rows: Sequence[Mapping[str, Any]], x: Any) -> Any:
    """(2,n) how far the intervals reach to the left and to the right."""
    ends = [[row["value"] if row[k] is None else row[k] for k in ("low", "high")] for row in rows]
    return np.abs(np.array(ends) - x[:, None]).T
