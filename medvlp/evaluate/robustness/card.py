"""The card: one line an axis, from metric rows of any number of protocols."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from medvlp.evaluate.robustness.sentences import SCORE

AXES = {
    "polarity": "Right of two sentences that affirm and deny",
    "laterality": "Right of two sentences about side or height",
    "severity": "Right of two sentences about degree, size, number or change",
    "grounded": "Answers that come from the image, and from the right place in it",
    "corruption": "AUROC above chance that is kept when images get worse",
    "adversarial": "Right calls that stay right under attack",
}
"""The six axes in order, and what a score of 1 would mean."""

BLIND = {"polarity": 0.5, "laterality": 0.5, "severity": 0.5, "grounded": 0.5}
"""The score of who does not look, where there is such a level."""


@dataclass(frozen=True, kw_only=True)
class CardRow:
    """One axis of one model, ready to be shown as a line of a table and a bar from 0 to 1."""

    domain: str
    model: str
    control: bool
    axis: str
    title: str
    protocol: str | None
    """None where the axis was not evaluated."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    blind: float | None


def robustness_card(rows: Iterable[Mapping[str, Any]]) -> list[CardRow]:
    """Six lines a model and domain, in the order of `AXES`; an axis nobody evaluated is empty.

    Two protocols of one axis give two lines: they are not averaged, for they ask different things.

    Args:
        rows: Of ``metrics.json`` or ``report.json``, of any protocols; only the axes' scores are
            read.
    """
    scores = [row for row in rows if row["metric"] == SCORE and row["name"] in AXES]
    models = dict.fromkeys((row["domain"], row["model"], bool(row["control"])) for row in scores)
    card: list[CardRow] = []
    for domain, model, control in models:
        for axis in AXES:
            own = [
                row
                for row in scores
                if (row["domain"], row["model"], row["name"]) == (domain, model, axis)
            ]
            card += [_line(domain, model, control, axis, row) for row in own or [{}]]
    return card


def _line(domain: str, model: str, control: bool, axis: str, known: Mapping[str, Any]) -> CardRow:
    return CardRow(
        domain=domain,
        model=model,
        control=control,
        axis=axis,
        title=AXES[axis],
        protocol=known.get("protocol"),
        value=known.get("value"),
        # The draws that happen to define what the data do not are no interval.
        low=known.get("low") if known.get("value") is not None else None,
        high=known.get("high") if known.get("value") is not None else None,
        n=known.get("n", 0),
        blind=BLIND.get(axis),
    )
