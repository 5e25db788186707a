"""Checklists of data (YAML) filled in from the evaluated folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from medvlp.config import STRICT, load_config
from medvlp.report import words
from medvlp.report.cards import data_card
from medvlp.report.folder import ProtocolFolder

Folders = Sequence[ProtocolFolder]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Item:
    """One question of a checklist, in our own words."""

    number: str
    topic: str
    asks: str
    knows: tuple[str, ...] = ()
    """Which of `FACTS` the tool writes here."""

    person: str = ""
    """What a person must still write; empty where the tool knows it all."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Checklist:
    """A published guideline's items."""

    name: str
    about: str
    items: tuple[Item, ...]


def checklists() -> list[Checklist]:
    """The checklists that are shipped."""
    return [load_config(Checklist, file) for file in sorted(Path(__file__).parent.glob("*.yaml"))]


def filled_checklists(found: Folders) -> list[dict[str, Any]]:
    """Each checklist with, for each item, what is known and what a person must write."""
    known = {name: fact(found) for name, fact in FACTS.items()}
    return [
        {
            "name": checklist.name,
            "about": checklist.about,
            "items": [
                {
                    "number": item.number,
                    "topic": item.topic,
                    "asks": item.asks,
                    "known": [known[name] for name in item.knows if known[name]],
                    "person": item.person
                    or ("" if any(known[name] for name in item.knows) else "Not known here."),
                }
                for item in checklist.items
            ],
        }
        for checklist in checklists()
    ]


def _joined(values: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def _task(found: Folders) -> str:
    return "Tasks: " + _joined([words.task_title(f.task) for f in found]) + "."


def _models(found: Folders) -> str:
    told = [f"{b['name']} ({b['digest'][:12]})" for f in found for b in f.bundles]
    return f"Models, with the start of their digests: {_joined(told)}." if told else ""


def _data(found: Folders) -> str:
    digests = [d[:12] for f in found for d in f.metrics.get("manifests", [])]
    return f"Data sets by the start of their digests: {_joined(digests)}." if digests else ""


def _split(found: Folders) -> str:
    splits = _joined([str(f.protocol["data"].get("split", "test")) for f in found])
    return f"Evaluated split: {splits}. A patient stands in one split only; this is checked."


def _counts(found: Folders) -> str:
    told = []
    for folder in found:
        card = data_card(folder)
        told.append(
            f"{folder.metrics['protocol']}: {card['patients']} patients, {card['samples']} samples"
        )
    return "; ".join(told) + "."


def _groups(found: Folders) -> str:
    told = []
    for folder in found:
        groups = {g: c for g, c in data_card(folder)["groups"].items() if c}
        parts = [f"{g.replace('_', ' ')}: " + ", ".join(f"{v} {n}" for v, n in c)
                 for g, c in groups.items()]  # fmt: skip
        told += [f"{folder.metrics['protocol']} – {'; '.join(parts)}"] if parts else []
    return ". ".join(told) + "." if told else ""


def _missing(found: Folders) -> str:
    told = [
        f"{f.metrics['protocol']}: {name.replace('_', ' ')} {count}"
        for f in found
        for name, count in f.metrics["counts"].items()
    ]
    return f"Left out or counted: {'; '.join(told)}." if told else ""


def _prevalence(found: Folders) -> str:
    told = [
        f"{label['name']} {100 * label['positives'] / label['n']:.0f} %"
        for f in found
        for label in data_card(f)["labels"][:12]
    ]
    return f"Prevalence among the evaluated: {_joined(told)}." if told else ""


def _metrics(found: Folders) -> str:
    names = [words.title(row["metric"]) for f in found for row in f.metrics["rows"]]
    return f"Metrics: {_joined(names)}."


def _intervals(found: Folders) -> str:
    told = [f"{f.protocol['bootstrap']['draws']} draws at "
            f"{100 * f.protocol['bootstrap']['confidence']:g} %" for f in found]  # fmt: skip
    return (
        f"Intervals: patients drawn again with all their samples ({_joined(told)}); all models see "
        "the same draws."
    )


def _results(found: Folders) -> str:
    return "Every estimate with its interval stands in this report, and in report.json."


def _controls(found: Folders) -> str:
    names = [r["model"] for f in found for r in f.metrics["rows"] if r["control"]]
    return f"Compared with trivial answers: {_joined(names)}." if names else ""


def _software(found: Folders) -> str:
    told = [
        f"{name} {version}"
        for f in found
        for name, version in {
            "medvlp": f.metrics.get("medvlp", "?"), **f.metrics.get("environment", {})
        }.items()
    ]  # fmt: skip
    return f"Software: {_joined(told)}."


def _thresholds(found: Folders) -> str:
    some = any(b.get("thresholds") for f in found for b in f.bundles)
    return (
        "Decision thresholds were chosen on validation patients and travel inside the model."
        if some
        else "No decision threshold was used."
    )


def _calibration(found: Folders) -> str:
    some = any(r["metric"].startswith("calibration") for f in found for r in f.metrics["rows"])
    return (
        "Calibration error, Brier score and reliability plots are in this report." if some else ""
    )


def _subgroups(found: Folders) -> str:
    columns = [row["column"] for f in found for row in f.metrics.get("subgroups", [])]
    return f"Subgroups: {_joined(columns)}, small ones kept back." if columns else ""


def _robustness(found: Folders) -> str:
    axes = [f.task for f in found if f.task in words.AXES]
    return f"Robustness axes: {_joined(axes)}." if axes else ""


def _explained(found: Folders) -> str:
    some = any(f.examples for f in found)
    return "Heatmaps of examples, found and missed, are in this report." if some else ""


def _leaks(found: Folders) -> str:
    looked = [f for f in found if "leaks" in f.metrics]
    if not looked:
        return ""
    count = sum(len(f.metrics["leaks"]) for f in looked)
    return f"Leaks between training and test data were looked for; found: {count}."


def _open(found: Folders) -> str:
    return (
        "Protocol, predictions and code are named by digests (run cards); metrics can be computed "
        "again from the predictions."
    )


def _pseudonyms(found: Folders) -> str:
    return "Patients, studies and samples carry pseudonyms; reports are scrubbed when indexed."


def _training(found: Folders) -> str:
    told = [
        f"{b['name']}: {key.replace('_', ' ')} {value}"
        for f in found
        for b in f.bundles
        for key, value in (b.get("provenance") or {}).items()
        if key in ("steps", "seed", "control") and value is not None
    ]
    return f"Training, by the models' own account: {_joined(told)}." if told else ""


FACTS: dict[str, Callable[[Folders], str]] = {
    "task": _task,
    "models": _models,
    "data": _data,
    "split": _split,
    "counts": _counts,
    "groups": _groups,
    "missing": _missing,
    "prevalence": _prevalence,
    "metrics": _metrics,
    "intervals": _intervals,
    "results": _results,
    "controls": _controls,
    "software": _software,
    "thresholds": _thresholds,
    "calibration": _calibration,
    "subgroups": _subgroups,
    "robustness": _robustness,
    "explained": _explained,
    "leaks": _leaks,
    "open": _open,
    "pseudonyms": _pseudonyms,
    "training": _training,
}
"""Name -> what the tool knows, as a sentence; empty if it does not."""
