"""The text nodes of a manifest's samples, in reading order."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from medvlp.data.manifest import Manifest
from medvlp.data.tables import LEVELS
from medvlp.data.text_policy import TextPolicy


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextNode:
    """One node of a sample's text tree."""

    node: str
    level: str
    source: str
    text: str
    start_s: float | None
    end_s: float | None
    confidence: float | None = None
    """How sure its source is of the words, in [0,1]; None where it does not say."""


def text_nodes(manifest: Manifest, policy: TextPolicy) -> dict[str, tuple[TextNode, ...]]:
    """Wanted nodes of each sample in reading order: coarse levels first, then time and order.

    Args:
        manifest: Whose texts; blank ones are left out.
        policy: The levels and sources that are wanted.
    """
    rows = manifest.texts.filter(pl.col("level").is_in(policy.levels))
    rows = rows.filter(pl.col("text").str.strip_chars().str.len_chars() > 0)
    place = {row["node"]: row for row in manifest.texts.iter_rows(named=True)}

    def line(row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        node: Mapping[str, Any] | None = row
        while node is not None:
            yield node
            node = place.get(node["parent"])

    def wanted(row: Mapping[str, Any]) -> bool:
        return policy.sources is None or any(n["source"] in policy.sources for n in line(row))

    def reading_order(row: Mapping[str, Any]) -> tuple[Any, ...]:
        orders = [node["order"] or 0 for node in line(row)]
        return (LEVELS.index(row["level"]), row["start_s"] or 0.0, orders[::-1], row["node"])

    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in filter(wanted, rows.iter_rows(named=True)):
        grouped.setdefault(row["sample"], []).append(row)
    fields = [f.name for f in dataclasses.fields(TextNode)]
    return {
        sample: tuple(
            TextNode(**{name: row[name] for name in fields})
            for row in sorted(group, key=reading_order)
        )
        for sample, group in grouped.items()
    }
