"""A head-to-head's numbers, gathered from its folder alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlp.domain import domains
from medvlp.errors import ConfigError, InputError
from medvlp.evaluate.published import Published, published
from medvlp.plain_files import read_json
from medvlp.report import words
from medvlp.report.folder import ProtocolFolder

INDEX = "suite.json"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One number of the table."""

    value: float | None
    low: float | None = None
    high: float | None = None
    group: str = ""
    """Letters of the tie groups: models that share one are not told apart."""

    state: str = "done"
    """``failed`` where the cell did not come to an end, ``absent`` where there is no number."""

    best: bool = False
    n: int = 0


@dataclass(frozen=True, kw_only=True)
class Line:
    """One model or control."""

    model: str
    control: bool
    entries: tuple[Entry, ...]
    rank: Entry | None = None
    """Mean rank over the columns; controls have none."""


@dataclass(frozen=True, kw_only=True)
class Heading:
    """One column."""

    protocol: str
    title: str
    name: str
    low_is_better: bool


@dataclass(frozen=True, kw_only=True)
class HeadToHead:
    """The table of one domain."""

    domain: str
    title: str
    headings: tuple[Heading, ...]
    lines: tuple[Line, ...]
    """Models from the best mean rank down, then controls."""

    confidence: float
    published: tuple[Published, ...]
    leaking: tuple[str, ...]
    """Protocols with a leak that was let through."""


def head_to_head(folder: Path) -> list[HeadToHead]:
    """The tables of a suite's folder, one a domain; empty if the folder holds no suite.

    Raises:
        InputError: A file is damaged or missing.
    """
    if not (folder / INDEX).is_file():
        return []
    try:
        index = read_json(folder / INDEX)
        names = dict.fromkeys(column["domain"] for column in index["columns"])
        return [_of_domain(domain, index, folder) for domain in names]
    except (ConfigError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder.name}/{INDEX} is damaged", remedy="run medvlp evaluate on the suite again"
        ) from error


def _of_domain(domain: str, index: Mapping[str, Any], folder: Path) -> HeadToHead:
    columns = [column for column in index["columns"] if column["domain"] == domain]
    protocols = list(dict.fromkeys(column["protocol"] for column in columns))
    folders = {name: ProtocolFolder(folder / name) for name in protocols}
    failed = {(c["protocol"], c["model"]) for c in index["cells"] if c["state"] == "failed"}
    ranks = {row["model"]: row for row in index["ranks"] if row["domain"] == domain}
    found = [_column(column, folders[column["protocol"]]) for column in columns]
    controls = dict.fromkeys(m for entries in found for m, (c, _) in entries.items() if c)
    missing = [model for protocol, model in failed if protocol in protocols]
    models = dict.fromkeys([*ranks, *(m for m in missing if m not in controls)])
    lines = [
        Line(
            model=model,
            control=model in controls,
            entries=tuple(
                entries[model][1] if model in entries else _absent(column, model, failed)
                for column, entries in zip(columns, found, strict=True)
            ),
            rank=_rank(ranks.get(model)),
        )
        for model in [*models, *controls]
    ]
    installed = domains().get(domain)
    return HeadToHead(
        domain=domain,
        title=installed.title if installed else domain,
        headings=tuple(
            Heading(
                protocol=column["protocol"],
                title=words.title(column["metric"]),
                name=column["name"],
                low_is_better=column["low_is_better"],
            )
            for column in columns
        ),
        lines=tuple(lines),
        confidence=min(f.protocol["bootstrap"]["confidence"] for f in folders.values()),
        published=tuple(published(protocols)),
        leaking=tuple(name for name, f in folders.items() if f.metrics.get("leaks")),
    )


def _column(column: Mapping[str, Any], folder: ProtocolFolder) -> dict[str, tuple[bool, Entry]]:
    """Model -> whether it is a control, and its entry."""
    rows = [row for row in folder.rows(column["metric"]) if row["name"] == column["name"]]
    own = [r["value"] for r in rows if not r["control"] and r["value"] is not None]
    best = (min if column["low_is_better"] else max)(own, default=None)
    groups = _groups(folder.metrics.get("ranks", []), column)
    return {
        row["model"]: (
            row["control"],
            Entry(
                value=row["value"],
                low=row["low"],
                high=row["high"],
                group=groups.get(row["model"], ""),
                best=not row["control"] and row["value"] is not None and row["value"] == best,
                n=row["n"],
            ),
        )
        for row in rows
    }


def _groups(ranks: Sequence[Mapping[str, Any]], column: Mapping[str, Any]) -> dict[str, str]:
    return {
        str(one["model"]): str(one["group"])
        for one in ranks
        if one["metric"] == column["metric"] and one["name"] == column["name"]
    }


def _absent(column: Mapping[str, Any], model: str, failed: set[tuple[str, str]]) -> Entry:
    state = "failed" if (column["protocol"], model) in failed else "absent"
    return Entry(value=None, state=state)


def _rank(row: Mapping[str, Any] | None) -> Entry | None:
    if row is None:
        return None
    return Entry(value=row["rank"], low=row["low"], high=row["high"], n=row["columns"])
