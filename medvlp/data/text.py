"""Reports to the text tree: report > section > sentence."""

from __future__ import annotations

from typing import Any

from medvlp.data.sections import Headings, sections
from medvlp.data.sentences import sentences

Row = dict[str, Any]


def report_nodes(
    sample: str,
    text: str,
    source: str = "report",
    *,
    headings: Headings | None = None,
    first: int = 0,
) -> list[Row]:
    """A report as rows of `tables.TEXTS`: report > section > sentence.

    Args:
        sample: Pseudonymous sample id; the nodes' ids begin with it.
        text: The whole report.
        source: Where the words come from. Sections carry their canonical heading instead,
            except in text that is ``synthetic:...``, which says so in every node.
        headings: Section headings; English ones by default.
        first: Number of the first node, if the sample has nodes already.
    """
    rows: list[Row] = []

    def add(level: str, words: str, origin: str, parent: str | None, order: int) -> str:
        node = f"{sample}-{first + len(rows)}"
        rows.append(text_row(sample, node, level, words, source=origin, parent=parent, order=order))
        return node

    parts = sections(text, headings)
    if not parts:
        return rows
    root = add("report", text.strip(), source, None, 0)
    for i, part in enumerate(parts):
        origin = source if source.startswith("synthetic:") else part.name
        section = add("section", " ".join(part.text.split()), origin, root, i)
        for j, sentence in enumerate(sentences(part.text)):
            add("sentence", sentence, source, section, j)
    return rows


def text_row(
    sample: str,
    node: str,
    level: str,
    text: str,
    *,
    source: str,
    parent: str | None = None,
    order: int = 0,
    start_s: float | None = None,
    end_s: float | None = None,
    confidence: float | None = None,
) -> Row:
    """One row of `tables.TEXTS`."""
    return {
        "sample": sample,
        "node": node,
        "parent": parent,
        "level": level,
        "source": source,
        "start_s": start_s,
        "end_s": end_s,
        "order": order,
        "text": text,
        "confidence": confidence,
    }
