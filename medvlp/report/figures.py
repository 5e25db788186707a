"""Figures as inline SVG that follow the page's colours in light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from medvlp.evaluate.metrics.phases import phase_table
from medvlp.report.canvas import CONTROL, INK, PALETTE, canvas
from medvlp.report.folder import ProtocolFolder

PANELS = 12
"""Findings drawn; the table shows them all."""


def _colours(folder: ProtocolFolder) -> dict[str, str]:
    models = folder.predictions.select("model", "control").unique(maintain_order=True)
    own = [m for m, control in models.iter_rows() if not control]
    return {m: PALETTE[i % len(PALETTE)] for i, m in enumerate(own)} | {
        m: CONTROL for m, control in models.iter_rows() if control
    }


def forest(folder: ProtocolFolder, metric: str, chance: float | None, name: str) -> str | None:
    """Every label's estimate and interval, model beside controls; None where none is defined."""
    rows = [row for row in folder.rows(metric) if row["value"] is not None]
    if not rows:
        return None
    labels = list(dict.fromkeys(row["name"] for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))
    colours = _colours(folder)
    step = 0.8 / max(1, len(models))
    with canvas(name, 7.5, 1.0 + len(labels) * max(0.34, 0.13 * len(models))) as (figure, svg):
        axes = figure.subplots()
        if chance is not None:
            axes.axvline(chance, color=INK, lw=0.8, ls=":")
        for k, model in enumerate(models):
            own = [row for row in rows if row["model"] == model]
            y = [labels.index(row["name"]) - 0.4 + step * (k + 0.5) for row in own]
            x = np.array([row["value"] for row in own])
            reach = np.abs(
                np.array([[row["low"] or row["value"], row["high"] or row["value"]] for row in own])
                - x[:, None]
            ).T
            axes.errorbar(
                x, y, xerr=reach, fmt=_marker(models, k), ms=4.5, lw=1.4, ls="",
                color=colours[model], label=model,
                alpha=1.0 if not own[0]["control"] else 0.85,
            )  # fmt: skip
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.grid(axis="x", lw=0.3, alpha=0.5)
        figure.legend(loc="outside lower center", ncols=3)
    return svg[0]


def _marker(models: Sequence[str], k: int) -> str:
    return "osD^vP*X"[k % 8] if len(models) > 1 else "o"


def _grid(figure: Figure, count: int) -> list[Any]:
    columns = min(4, count)
    axes = figure.subplots(
        math.ceil(count / columns), columns, squeeze=False, sharex=True, sharey=True
    )
    flat = list(axes.ravel())
    for empty in flat[count:]:
        empty.set_axis_off()
    return flat[:count]


def roc(folder: ProtocolFolder, name: str) -> str | None:
    """One small ROC panel a finding; None where no finding has both classes."""
    frame = folder.predictions
    both = (
        frame.group_by("name", maintain_order=True)
        .agg(pl.col("label").n_unique())
        .filter(pl.col("label") == 2)["name"]
        .to_list()
    )[:PANELS]
    if not both:
        return None
    rows = math.ceil(len(both) / min(4, len(both)))
    with canvas(name, 2.1 * min(4, len(both)) + 0.8, 2.4 * rows + 0.5) as (figure, svg):
        for axes, label in zip(_grid(figure, len(both)), both, strict=True):
            axes.plot([0, 1], [0, 1], color=INK, lw=0.6, ls=":")
            for model, colour in _drawn(folder):
                part = frame.filter((pl.col("model") == model) & (pl.col("name") == label))
                x, y, _ = roc_curve(part["label"], part["score"])
                axes.plot(x, y, color=colour, lw=1.5, label=model)
            axes.set_title(label)
            axes.set_xlabel("1 − specificity")
            axes.set_xticks([0, 0.5, 1])
            axes.set_yticks([0, 0.5, 1])
        figure.axes[0].set_ylabel("sensitivity")
        _legend(figure)
    return svg[0]


def reliability(folder: ProtocolFolder, name: str, bins: int = 10) -> str | None:
    """How often a stated probability comes true, over all findings together."""
    drawn = _drawn(folder)
    if not drawn:
        return None
    with canvas(name, 2.9 * len(drawn) + 0.6, 3.1) as (figure, svg):
        panels = figure.subplots(1, len(drawn), squeeze=False, sharey=True)[0]
        for axes, (model, colour) in zip(panels, drawn, strict=True):
            part = folder.predictions.filter(pl.col("model") == model)
            score, label = part["score"].to_numpy(), part["label"].to_numpy()
            bin_of = np.minimum((score * bins).astype(int), bins - 1)
            count = np.bincount(bin_of, minlength=bins)
            some = count > 0
            x = np.bincount(bin_of, score, bins)[some] / count[some]
            y = np.bincount(bin_of, label, bins)[some] / count[some]
            axes.plot([0, 1], [0, 1], color=INK, lw=0.6, ls=":")
            axes.plot(x, y, color=colour, lw=1.2)
            axes.scatter(x, y, s=12 + 90 * count[some] / count.max(), color=colour)
            axes.set_title(model)
            axes.set_xlim(-0.03, 1.03)
            axes.set_ylim(-0.03, 1.03)
            axes.set_box_aspect(1)
            axes.set_xlabel("stated probability")
        panels[0].set_ylabel("share present")
    return svg[0]


def confusion(folder: ProtocolFolder, name: str) -> list[tuple[str, str]]:
    """(model, figure) of each model's confusion matrix over windows, in shares of the truth."""
    figures = []
    for k, (model, _) in enumerate(_drawn(folder)):
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


def _drawn(folder: ProtocolFolder) -> list[tuple[str, str]]:
    """(model, colour) of what curves are drawn for: the models, then trained controls."""
    colours = _colours(folder)
    trained = {bundle["name"] for bundle in folder.bundles}
    return [(model, colour) for model, colour in colours.items() if model in trained]


def _legend(figure: Figure) -> None:
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
