"""Confusion of phases, in shares of the truth."""

from __future__ import annotations

import numpy as np
import polars as pl

from medvlp.evaluate.metrics.phases import phase_table
from medvlp.report.canvas import canvas
from medvlp.report.figures.style import drawn
from medvlp.report.folder import ProtocolFolder


def confusion(folder: ProtocolFolder, name: str) -> list[tuple[str, str]]:
    """(model, figure) of each model's confusion matrix over windows, in shares of the truth."""
    figures = []
    for k, (model, _) in enumerate(drawn(folder)):
        part = folder.predictions.filter(pl.col("model") == model)
        names, counts = phase_table(part)
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        size = 1.7 + 0.55 * len(names)
        with canvas(f"{name}{k}", size + 0.6, size) as (figure, svg):
            axes = figure.subplots()
            axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
            for i, j in np.ndindex(share.shape):
                ink = "white" if share[i, j] > 0.55 else "#1b2733"
                axes.text(j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center", color=ink)
            axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
            axes.set_yticks(range(len(names)), names)
            axes.set_xlabel("predicted phase")
            axes.set_ylabel("true phase")
        figures.append((model, svg[0]))
    return figures
