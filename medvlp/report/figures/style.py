"""What figures share: colours and markers of models, small panels, the legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from medvlp.report.canvas import CONTROL, PALETTE
from medvlp.report.folder import ProtocolFolder

PANELS = 12
"""Findings drawn; the table shows them all."""


def colours(folder: ProtocolFolder) -> dict[str, str]:
    """Model -> colour; every control has the same."""
    models = folder.predictions.select("model", "control").unique(maintain_order=True)
    own = [m for m, control in models.iter_rows() if not control]
    return {m: PALETTE[i % len(PALETTE)] for i, m in enumerate(own)} | {
        m: CONTROL for m, control in models.iter_rows() if control
    }


def marker(models: Sequence[str], k: int) -> str:
    """A shape of its own for each of several models, for those who see no colours."""
    return "osD^vP*X"[k % 8] if len(models) > 1 else "o"


def dashes(k: int) -> str:
    """A stroke of its own for each of several models."""
    return ("-", "--", "-.", ":")[k % 4]


def drawn(folder: ProtocolFolder, *, probabilities: bool = False) -> list[tuple[str, str]]:
    """(model, colour) of what curves are drawn for: the models, then trained controls.

    Args:
        folder: The protocol's.
        probabilities: Leave models out whose scores are no probabilities.
    """
    of = colours(folder)
    told = {bundle["name"]: bundle for bundle in folder.bundles}
    return [
        (model, colour)
        for model, colour in of.items()
        if model in told and not (probabilities and told[model].get("scale") == "ranks")
    ]


def grid(figure: Figure, count: int) -> list[Any]:
    """`count` panels, at most four across, with shared axes."""
    columns = min(4, count)
    axes = figure.subplots(
        math.ceil(count / columns), columns, squeeze=False, sharex=True, sharey=True
    )
    flat = list(axes.ravel())
    for empty in flat[count:]:
        empty.set_axis_off()
    return flat[:count]


def legend(figure: Figure) -> None:
    """One legend under all panels."""
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
