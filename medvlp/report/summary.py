"""The summary: what was tested on whom and what came out, in sentences and in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medvlp.report import words
from medvlp.report.cards import data_card
from medvlp.report.folder import ProtocolFolder
from medvlp.report.levels import chance_level
from medvlp.report.page import number

Row = Mapping[str, Any]


def summary_table(folder: ProtocolFolder) -> dict[str, Any]:
    """The headline's rows, models first, with a bar for each that lies between 0 and 1."""
    headline = words.HEADLINES.get(folder.task)
    metric = words.headline(folder.task, folder.metrics["rows"])
    shown = folder.rows(metric)
    return {
        "title": headline.title if headline else words.title(metric),
        "rows": [
            row | {"bar": _bar(row), "chance": chance_level(folder, metric, row["name"])}
            for row in shown
        ],
        "named": len({row["name"] for row in shown}) > 1,
    }


def _bar(row: Row) -> dict[str, float] | None:
    """Where the interval lies on a scale from 0 to 100."""
    if row["value"] is None or not 0 <= row["value"] <= 1:
        return None
    low = row["value"] if row["low"] is None else row["low"]
    high = row["value"] if row["high"] is None else row["high"]
    return {key: round(100 * value, 1) for key, value in
            (("value", row["value"]), ("low", low), ("high", high))}  # fmt: skip


def sentences(folder: ProtocolFolder) -> list[dict[str, str]]:
    """Plain sentences about a protocol, each with a tone: ``plain``, ``good`` or ``warn``."""
    card = data_card(folder)
    split = folder.protocol["data"].get("split", "test")
    told = [
        _say(f"Tested on {card['samples']} samples of {card['patients']} patients (split {split}).")
    ]
    metric = words.headline(folder.task, folder.metrics["rows"])
    rows = folder.rows(metric)
    controls = [row for row in rows if row["control"]]
    for row in rows:
        if not row["control"]:
            told.append(_result(row, metric))
            told.extend(_weak(row, controls, folder))
    return [*told, leak_sentence(folder)]


def _say(text: str, tone: str = "plain") -> dict[str, str]:
    return {"text": text, "tone": tone}


def _result(row: Row, metric: str) -> dict[str, str]:
    about = "" if row["name"] == "all" else f" ({row['name']})"
    start = f"{row['model']}: {words.title(metric)}{about}"
    if row["value"] is None:
        return _say(f"{start} cannot be computed: too few positives or negatives.", "warn")
    around = (
        "" if row["low"] is None else f", between {number(row['low'])} and {number(row['high'])}"
    )
    return _say(f"{start} {number(row['value'])}{around}.")


def _weak(row: Row, controls: Sequence[Row], folder: ProtocolFolder) -> list[dict[str, str]]:
    """What the model is not clearly better than."""
    if row["value"] is None:
        return []
    named = [c for c in controls if c["name"] == row["name"] and c["value"] is not None]
    level = chance_level(folder, row["metric"], row["name"])
    beaten_not = [c["model"] for c in named if not _beats(row, c, folder)]
    told = []
    if level is not None and _reaches_down_to(row, level, folder):
        told.append(
            _say(f"{row['model']} is not clearly better than chance ({number(level)}).", "warn")
        )
    if beaten_not:
        told.append(
            _say(f"{row['model']} is not clearly better than: {', '.join(beaten_not)}.", "warn")
        )
    elif named:
        names = ", ".join(c["model"] for c in named)
        told.append(_say(f"{row['model']} is clearly better than every control ({names}).", "good"))
    return told


def _beats(row: Row, control: Row, folder: ProtocolFolder) -> bool:
    """By the paired difference where it was computed, else by intervals that do not overlap."""
    low_is_better = _low_is_better(folder)
    pair = (row["model"], control["model"])
    for one in folder.metrics.get("comparisons", []):
        same = (one["metric"], one["name"]) == (row["metric"], row["name"])
        if same and (one["first"], one["second"]) == pair and one["difference"] is not None:
            end = one["high"] if low_is_better else one["low"]
            if end is not None:
                return bool(end < 0 if low_is_better else end > 0)
    if low_is_better:
        return _end(row, "high") < _end(control, "low")
    return _end(row, "low") > _end(control, "high")


def _reaches_down_to(row: Row, level: float, folder: ProtocolFolder) -> bool:
    if _low_is_better(folder):
        return row["high"] is not None and row["high"] >= level
    return row["low"] is not None and row["low"] <= level


def _end(row: Row, end: str) -> float:
    return float(row["value"] if row[end] is None else row[end])


def _low_is_better(folder: ProtocolFolder) -> bool:
    headline = words.HEADLINES.get(folder.task)
    return headline is not None and headline.low_is_better


def leak_sentence(folder: ProtocolFolder) -> dict[str, str]:
    """Whether what was tested was known before."""
    leaks = folder.metrics.get("leaks")
    if leaks is None:
        return _say("Leaks between training and test data were not looked for.", "warn")
    if leaks:
        kinds = ", ".join(dict.fromkeys(leak["kind"] for leak in leaks))
        return _say(f"Leaks were found and let through ({kinds}): see the leakage card.", "warn")
    return _say("No leak between training and test data was found.", "good")
