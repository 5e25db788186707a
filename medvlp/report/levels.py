"""What a blind guess reaches, for the lines and sentences of a page."""

from __future__ import annotations

from medvlp.evaluate.metrics.chance import row_levels
from medvlp.report import words
from medvlp.report.folder import ProtocolFolder


def chance_level(folder: ProtocolFolder, metric: str, name: str) -> float | None:
    """The level of (metric, name) in this protocol's data; None where theory gives none.

    For an axis of robustness it is that of whoever does not look.
    """
    known = row_levels(folder.metrics["rows"], folder.metrics.get("counts", {}))
    headline = words.HEADLINES.get(folder.task)
    blind = headline.blind if headline and headline.metric == metric else None
    return known.get((metric, name), blind)
