"""Subgroups: each group beside the others, the worst and the gap, small cells kept back."""

from __future__ import annotations

from typing import Any

from medvlp.evaluate.predictions import ALL
from medvlp.report import words
from medvlp.report.figures.forest import forest
from medvlp.report.figures.style import colours
from medvlp.report.folder import ProtocolFolder
from medvlp.report.levels import chance_level

GAP = "gap"


def subgroup_page(folder: ProtocolFolder, name: str) -> dict[str, Any] | None:
    """A table and a forest plot a subgroup column, of the headline metric; None without rows."""
    metric = words.headline(folder.task, folder.metrics["rows"])
    rows = [row for row in folder.metrics.get("subgroups", []) if row["metric"] == metric]
    columns = list(dict.fromkeys(row["column"] for row in rows))
    if not columns:
        return None
    chance = chance_level(folder, metric, ALL)
    return {
        "title": words.title(metric),
        "columns": [
            {
                "name": column.replace("_", " "),
                "rows": [row for row in rows if row["column"] == column],
                "svg": forest(
                    [r for r in rows if r["column"] == column and r["group"] != GAP],
                    colours(folder),
                    chance,
                    f"{name}s{i}",
                    by="group",
                ),
            }
            for i, column in enumerate(columns)
        ],
        "hidden": sum(bool(row["suppressed"]) for row in rows),
    }
