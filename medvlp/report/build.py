"""One self-contained page for people and one JSON for programs, from predictions alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlp import __version__
from medvlp.domain import domains
from medvlp.outputs import write_text
from medvlp.progress import track
from medvlp.report import words
from medvlp.report.cards import data_card, leakage_card, run_card
from medvlp.report.checklists.fill import filled_checklists
from medvlp.report.figures.chosen import chosen_figures
from medvlp.report.folder import ProtocolFolder, find_protocols
from medvlp.report.page import render
from medvlp.report.pictures import examples
from medvlp.report.reading import CONTROLS, READING
from medvlp.report.robustness import robustness_page
from medvlp.report.subgroups import subgroup_page
from medvlp.report.summary import sentences, summary_table
from medvlp.report.table.collect import head_to_head
from medvlp.report.table.write import notes
from medvlp.report.tables import metric_tables


def build_report(folder: Path) -> Path:
    """Write `report.html` and `report.json` into `folder`.

    Args:
        folder: A protocol's folder, a folder of such, or a suite's.

    Returns:
        The page.

    Raises:
        InputError: No evaluated protocol is there, or one of its files is damaged.
    """
    # What a model can do stands before how easily it is shaken.
    found = sorted(find_protocols(folder), key=lambda protocol: protocol.task in words.AXES)
    parts = [_part(protocol, i) for i, protocol in enumerate(track(found, "report"))]
    page = render(
        "report/page.html.j2",
        parts=parts,
        contests=[{"table": table, "notes": notes(table)} for table in head_to_head(folder)],
        robustness=robustness_page(found),
        checklists=filled_checklists(found),
        controls=_controls(found),
        reading=_reading(found),
    )
    write_text(folder / "report.json", json.dumps(_json(found), indent=1))
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _json(found: Sequence[ProtocolFolder]) -> dict[str, Any]:
    return {
        "medvlp": __version__,
        "rows": [row for protocol in found for row in protocol.metrics["rows"]],
        "protocols": [
            {
                key: value
                for key, value in protocol.metrics.items()
                if key not in ("rows", "artefacts")
            }
            | {"bundles": protocol.bundles}
            for protocol in found
        ],
    }


def _reading(found: Sequence[ProtocolFolder]) -> list[str]:
    tasks = dict.fromkeys(protocol.task for protocol in found)
    return [line for task in tasks for line in READING.get(task, ())]


def _controls(found: Sequence[ProtocolFolder]) -> dict[str, str]:
    """Name -> meaning of the controls that are shown."""
    shown = {row["model"] for folder in found for row in folder.metrics["rows"] if row["control"]}
    return {name: meaning for name, meaning in CONTROLS.items() if name in shown}


def _part(folder: ProtocolFolder, index: int) -> dict[str, Any]:
    """Everything the templates show of one protocol."""
    domain = str(folder.metrics["domain"])
    installed = domains().get(domain)
    name = f"f{index}"
    return {
        "id": f"part{index}",
        "name": folder.metrics["protocol"],
        "domain": installed.title if installed else domain,
        "task": words.task_title(folder.task),
        "metrics": folder.metrics,
        "protocol": folder.protocol,
        "sentences": sentences(folder),
        "summary": summary_table(folder),
        "tables": metric_tables(folder),
        "card": data_card(folder),
        "figures": chosen_figures(folder, name),
        "subgroups": subgroup_page(folder, name),
        "examples": examples(folder),
        "leakage": leakage_card(folder),
        "run": run_card(folder),
    }
