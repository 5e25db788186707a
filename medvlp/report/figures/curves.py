"""Curves of findings: ROC, precision against sensitivity, reliability, net benefit."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from sklearn.metrics import precision_recall_curve, roc_curve

from medvlp.report.canvas import INK, canvas
from medvlp.report.figures.style import PANELS, dashes, drawn, grid, legend
from medvlp.report.folder import ProtocolFolder

_BENEFIT = re.compile(r"net_benefit(?:_of_all)?_at_([\d.]+)")


def roc(folder: ProtocolFolder, name: str) -> str | None:
    """One small ROC panel a finding; None where no finding has both classes."""

    def draw(axes: Any, label: Any, score: Any, style: dict[str, Any]) -> None:
        x, y, _ = roc_curve(label, score)
        axes.plot(x, y, **style)

    def guess(axes: Any, share: float) -> None:
        axes.plot([0, 1], [0, 1], color=INK, lw=0.6, ls=":")

    return _panels(folder, name, draw, guess, ("1 − specificity", "sensitivity"))


def precision(folder: ProtocolFolder, name: str) -> str | None:
    """One small panel a finding of precision against sensitivity; the dotted line: prevalence."""

    def draw(axes: Any, label: Any, score: Any, style: dict[str, Any]) -> None:
        y, x, _ = precision_recall_curve(label, score)
        axes.plot(x, y, drawstyle="steps-pre", **style)

    def guess(axes: Any, share: float) -> None:
        axes.axhline(share, color=INK, lw=0.6, ls=":")

    return _panels(folder, name, draw, guess, ("sensitivity", "precision"))


def _panels(
    folder: ProtocolFolder,
    name: str,
    draw: Callable[[Any, Any, Any, dict[str, Any]], None],
    guess: Callable[[Any, float], None],
    titles: tuple[str, str],
) -> str | None:
    """A panel a finding: `draw` a model's curve, `guess` what a blind guess would give."""
    frame = folder.predictions
    sides = frame.group_by("name", maintain_order=True).agg(pl.col("label").n_unique())
    both = sides.filter(pl.col("label") == 2)["name"].to_list()[:PANELS]
    shown = drawn(folder)
    if not both or not shown:
        return None
    rows = math.ceil(len(both) / min(4, len(both)))
    with canvas(name, 2.1 * min(4, len(both)) + 0.8, 2.4 * rows + 0.5) as (figure, svg):
        for axes, label in zip(grid(figure, len(both)), both, strict=True):
            known = frame.filter((pl.col("model") == shown[0][0]) & (pl.col("name") == label))
            guess(axes, float(known["label"].to_numpy().mean()))
            for k, (model, colour) in enumerate(shown):
                part = frame.filter((pl.col("model") == model) & (pl.col("name") == label))
                style = {"color": colour, "lw": 1.5, "ls": dashes(k), "label": model}
                if part["label"].n_unique() == 2:
                    draw(axes, part["label"].to_numpy(), part["score"].to_numpy(), style)
            axes.set_title(label)
            axes.set_xlabel(titles[0])
            axes.set_xticks([0, 0.5, 1])
            axes.set_yticks([0, 0.5, 1])
            axes.set_ylim(-0.03, 1.03)
        figure.axes[0].set_ylabel(titles[1])
        legend(figure)
    return svg[0]


def reliability(folder: ProtocolFolder, name: str, bins: int = 10) -> str | None:
    """How often a stated probability comes true, over all findings together."""
    shown = drawn(folder, probabilities=True)
    if not shown:
        return None
    columns = min(4, len(shown))
    rows = math.ceil(len(shown) / columns)
    with canvas(name, 2.2 * columns + 0.6, 2.5 * rows + 0.4) as (figure, svg):
        for axes, (model, colour) in zip(grid(figure, len(shown)), shown, strict=True):
            part = folder.predictions.filter(pl.col("model") == model)
            score, label = part["score"].to_numpy(), part["label"].to_numpy()
            bin_of = np.clip((score * bins).astype(int), 0, bins - 1)
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
        figure.axes[0].set_ylabel("share present")
    return svg[0]


def net_benefit(folder: ProtocolFolder, name: str) -> str | None:
    """Decision curves, a panel a finding; None where the metrics hold no net benefit."""
    rows = [
        row | {"threshold": float(named[1])}
        for row in folder.metrics["rows"]
        if row["value"] is not None and (named := _BENEFIT.fullmatch(row["metric"]))
    ]
    labels = list(dict.fromkeys(row["name"] for row in rows))[:PANELS]
    shown = drawn(folder, probabilities=True)
    if not labels or not shown:
        return None
    height = 2.4 * math.ceil(len(labels) / min(4, len(labels))) + 0.5
    with canvas(name, 2.1 * min(4, len(labels)) + 0.8, height) as (figure, svg):
        for axes, label in zip(grid(figure, len(labels)), labels, strict=True):
            axes.axhline(0, color=INK, lw=0.6, ls=":")
            own = sorted((r for r in rows if r["name"] == label), key=lambda r: r["threshold"])
            of_all = "net_benefit_of_all"
            everyone = [r for r in own if r["metric"].startswith(of_all)]
            _curve(axes, everyone, shown[0][0], {"color": INK, "lw": 0.9, "label": "treat all"})
            rest = [r for r in own if not r["metric"].startswith(of_all)]
            for k, (model, colour) in enumerate(shown):
                style = {"color": colour, "lw": 1.5, "ls": dashes(k), "label": model}
                _curve(axes, rest, model, {**style, "marker": "o", "ms": 3})
            axes.set_title(label)
            axes.set_xlabel("act from (%)")
        figure.axes[0].set_ylabel("net benefit")
        legend(figure)
    return svg[0]


def _curve(axes: Any, rows: list[dict[str, Any]], model: str, style: dict[str, Any]) -> None:
    own = [row for row in rows if row["model"] == model]
    axes.plot([row["threshold"] for row in own], [row["value"] for row in own], **style)
