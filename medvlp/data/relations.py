"""What reports say of a sample, place by place: rows of `entities` as small dense arrays.

Stored sparse; dense only in a batch, as int8. A name of an anatomy may begin with ``left`` or
``right``: an entity then stands in that column if its side is that one, or both. Where only sided
columns exist for an anatomy, a denial without a side is one of both sides, and an affirmation
without a side leaves open which.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass

from medvlp.config import STRICT
from medvlp.data.manifest import Manifest
from medvlp.data.presence import ABSENT, BY_STRENGTH, PRESENT, UNCERTAIN, UNTOLD
from medvlp.errors import ConfigError

LEFT, RIGHT = 1, 2
"""Bits of a text's side; both for bilateral."""

_SIDES: Mapping[str, int] = {"left": LEFT, "right": RIGHT, "bilateral": LEFT | RIGHT}
_STRENGTH = {value: strength for strength, value in enumerate(BY_STRENGTH)}
_BY_STRENGTH = np.array(BY_STRENGTH, np.int8)


@checked_dataclass(frozen=True, kw_only=True, config=STRICT)
class Names:
    """What the columns of a batch's labels, relations and regions are called."""

    labels: tuple[str, ...] = ()
    anatomies: tuple[str, ...] = ()
    observations: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()


NO_NAMES = Names()


@checked_dataclass(frozen=True, kw_only=True, config=STRICT)
class EntityConfig:
    """Which entities of the manifests reach the batch."""

    anatomies: tuple[str, ...] = ()
    """Places, in the order of the batch's columns, such as ``left lung`` or ``heart``."""

    observations: tuple[str, ...] = ()
    """Observations, in the order of the batch's columns."""

    united: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Columns, observations and places without their side, that stand for other names than their
    own, such as ``{nodule: [nodule, mass], lung: [lung, upper_lobe, lung_base]}``."""

    other_side: Literal["untold", "absent"] = "untold"
    """What an observation that is affirmed on one side alone is on the other: not told, or absent,
    as reports mostly mean it."""

    source: str | None = None
    """The extractor whose rows count, such as ``rules``; every one if not given."""

    def __post_init__(self) -> None:
        if self.anatomies and not self.observations:
            raise ValueError("anatomies without observations")
        columns = {*self.observations, *map(without_side, self.anatomies)}
        if unknown := sorted(set(self.united) - columns):
            raise ValueError(f"united: {', '.join(unknown)} is no column")

    def members(self, column: str) -> tuple[str, ...]:
        """What the manifests call what a column (a place without its side) stands for."""
        return self.united.get(column, (column,))


@dataclass(frozen=True, slots=True)
class Relation:
    """One entity of a sample."""

    nodes: frozenset[str]
    """The text node that says it, and those above that one; empty where no node is known."""

    values: tuple[tuple[int, int], ...]
    """Column among the anatomies, and value there."""

    observation: int
    value: int
    side: int


class RelationVectors:
    """The relations of a manifest's samples.

    Args:
        manifest: Whose `entities`.
        config: The columns; none give no relations.
    """

    def __init__(self, manifest: Manifest, config: EntityConfig) -> None:
        self._of: dict[str, list[Relation]] = {}
        if not config.observations:
            return
        columns = _Columns(config)
        rows = manifest.entities.filter(pl.col("observation").is_in(list(columns.observation)))
        if config.source is not None:
            rows = rows.filter(pl.col("source") == config.source)
        above = dict(zip(manifest.texts["node"], manifest.texts["parent"], strict=True))
        for row in rows.iter_rows(named=True):
            value = UNTOLD if row["presence"] is None else int(row["presence"])
            nodes = frozenset(_line(row["node"], above))
            values = tuple(columns.values(row["anatomy"] or "", row["laterality"] or "", value))
            for column in columns.observation[row["observation"]]:
                found = Relation(
                    nodes=nodes,
                    values=values,
                    observation=column,
                    value=value,
                    side=_SIDES.get(row["laterality"] or "", 0),
                )
                self._of.setdefault(row["sample"], []).append(found)

    def of(self, sample: str) -> tuple[Relation, ...]:
        """A sample's relations."""
        return tuple(self._of.get(sample, ()))


class _Columns:
    """Names as the manifests have them -> the columns that they count for."""

    def __init__(self, config: EntityConfig) -> None:
        self._other_absent = config.other_side == "absent"
        self.observation: dict[str, list[int]] = {}
        for i, name in enumerate(config.observations):
            for own in config.members(name):
                self.observation.setdefault(own, []).append(i)
        self._plain: dict[str, list[int]] = {}
        self._sided: dict[str, list[tuple[int, int]]] = {}
        for i, name in enumerate(config.anatomies):
            place = without_side(name)
            for own in config.members(place):
                if place == name:
                    self._plain.setdefault(own, []).append(i)
                else:
                    self._sided.setdefault(own, []).append((_SIDES[name.split(" ")[0]], i))

    def values(self, anatomy: str, side: str, value: int) -> Iterator[tuple[int, int]]:
        sided = self._sided.get(anatomy, [])
        bits = _SIDES.get(side, 0)
        plain = self._plain.get(anatomy, [])
        yield from ((column, value) for column in plain)
        if bits:
            yield from ((column, value) for bit, column in sided if bit & bits)
            if value == PRESENT and self._other_absent:
                yield from ((column, ABSENT) for bit, column in sided if not bit & bits)
        elif not plain:
            open_value = value if value == ABSENT else UNCERTAIN
            yield from ((column, open_value) for _, column in sided)


def relation_matrix(relations: Sequence[Relation], names: Names) -> NDArray[np.int8]:
    """(A,Q): the strongest value told of each pair: present, uncertain, absent, else `UNTOLD`."""
    strength_AQ = np.zeros((len(names.anatomies), len(names.observations)), np.int8)
    for relation in relations:
        for column, value in relation.values:
            at = column, relation.observation
            strength_AQ[at] = max(strength_AQ[at], _STRENGTH[value])
    return _BY_STRENGTH[strength_AQ]


def told_vector(
    relations: Sequence[Relation], nodes: Collection[str], names: Names
) -> tuple[NDArray[np.int8], int]:
    """What texts say: (Q,) strongest value told of each observation, and the side of those present.

    Args:
        relations: Of the sample.
        nodes: The text's nodes.
        names: The columns.
    """
    strength_Q = np.zeros(len(names.observations), np.int8)
    side = 0
    for relation in relations:
        if not relation.nodes.isdisjoint(nodes):
            q = relation.observation
            strength_Q[q] = max(strength_Q[q], _STRENGTH[relation.value])
            side |= relation.side if relation.value == PRESENT else 0
    return _BY_STRENGTH[strength_Q], side


def present_places(
    relations: Sequence[Relation], nodes: Collection[str], names: Names
) -> NDArray[np.int8]:
    """(A,): 1 for the anatomies at which texts affirm something; the arguments of `told_vector`."""
    place_A = np.zeros(len(names.anatomies), np.int8)
    for relation in relations:
        if not relation.nodes.isdisjoint(nodes):
            place_A[[column for column, value in relation.values if value == PRESENT]] = 1
    return place_A


def check_relation_names(manifests: Sequence[Manifest], config: EntityConfig) -> None:
    """Raise a `ConfigError` for an observation or anatomy that no entity has."""
    if not config.observations:
        return
    source = config.source
    rows: pl.DataFrame = pl.concat([manifest.entities for manifest in manifests])
    if source is not None:
        rows = rows.filter(pl.col("source") == source)
    if rows.is_empty():
        raise ConfigError(
            "data.entities: the manifests hold no entities"
            + ("" if source is None else f" of source {source}"),
            remedy="run medvlp structure on them, or correct data.entities.source",
        )
    for what, wanted, column in (
        ("observations", config.observations, "observation"),
        ("anatomies", tuple(map(without_side, config.anatomies)), "anatomy"),
    ):
        known = {name for name in rows[column].unique() if name is not None}
        missing = {name for name in wanted if known.isdisjoint(config.members(name))}
        if missing:
            raise ConfigError(
                f"data.entities.{what}: {', '.join(sorted(missing))}: no such name in manifests",
                remedy=f"choose from: {', '.join(sorted(known)[:40])}",
            )


def without_side(name: str) -> str:
    """The place that a name such as ``left lung`` is of.

    >>> without_side("left lung"), without_side("heart")
    ('lung', 'heart')
    """
    side, _, place = name.partition(" ")
    return place if side in ("left", "right") and place else name


def _line(node: str | None, above: Mapping[str, Any]) -> Iterator[str]:
    while node is not None:
        yield node
        node = above.get(node)
