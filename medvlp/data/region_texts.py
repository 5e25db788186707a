"""Regions of an image by name: which of them a run asks for, and what its reports say of each.

A sentence is about a region if one of its entities stands there. The words that entities were read
from thus decide, not the region's name, and "small effusion on the left" is about the left pleura.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Annotated

import polars as pl
from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.data.manifest import Manifest
from medvlp.data.presence import PRESENT, UNCERTAIN
from medvlp.data.relations import EntityConfig, RelationVectors, without_side
from medvlp.data.text_nodes import text_nodes
from medvlp.data.text_policy import Positive, TextPolicy
from medvlp.errors import ConfigError


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RegionConfig:
    """Which regions of the manifests reach the batch, and with which texts.

    They are read only in a run with an objective that asks for them.
    """

    names: tuple[str, ...] = ()
    """Regions, in the order of the batch's columns, such as ``left lung`` or ``heart``; a voxel of
    two of them counts for the first."""

    masks: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Regions that stand for others of the manifests than that of their own name, such as
    ``{left lung: [lung_upper_lobe_left, lung_lower_lobe_left]}``."""

    anatomies: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Places of the manifests' entities that belong to a region, named without its side, if they
    are not that of its own name, such as ``{lung: [lung, upper_lobe, lower_lobe]}``."""

    entities: str | None = None
    """The extractor whose entities count, such as ``rules``; every one if not given."""

    sources: tuple[str, ...] | None = None
    """Sections whose sentences count, such as ``findings``; every one if not given."""

    untold: str | None = "The {name} shows nothing abnormal."
    """The text of a region of which a report says nothing, which then counts as normal; None
    leaves such a region out."""

    in_view: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of a region that must lie on the stored grid, and share of that part which must stay
    there when an augmentation moves the image; a region that is cut more does not count for the
    sample. What lies outside the scan itself is not cut: the report does not tell of it either."""

    cell: tuple[Positive, ...] | None = None
    """Pixels of the stored grid along each axis for each of the image tower's tokens; by default
    the tower's patch."""

    def __post_init__(self) -> None:
        for fault in self._faults():
            raise ValueError(fault)

    def _faults(self) -> Iterable[str]:
        every = [own for name in self.names for own in self.members(name)]
        if twice := sorted({own for own in every if every.count(own) > 1}):
            yield f"{', '.join(twice)} stands in two regions"
        if unknown := sorted(set(self.masks) - set(self.names)):
            yield f"masks: {', '.join(unknown)} is not among names"
        if unknown := sorted(set(self.anatomies) - set(map(without_side, self.names))):
            yield f"anatomies: {', '.join(unknown)} is none of names without its side"
        if self.untold is not None and "{name}" not in self.untold:
            yield "untold does not hold {name}"

    def members(self, name: str) -> tuple[str, ...]:
        """What the manifests call the regions that a region stands for."""
        return self.masks.get(name, (name,))

    def untold_text(self, name: str) -> str | None:
        """What is read of a region of which nothing is told."""
        return None if self.untold is None else self.untold.format(name=name.replace("_", " "))


@dataclasses.dataclass(frozen=True, slots=True)
class RegionText:
    """What a sample's reports say of one region."""

    text: str | None
    """Its sentences in reading order; None where they cannot be told from the others'."""

    normal: bool
    """Whether nothing is affirmed or doubted there."""


class RegionTexts:
    """What the reports of a manifest say of each region.

    A region of which something is affirmed, though no sentence says so (as a table may), has no
    text; one of which nothing is told has `RegionConfig.untold`; all have none in samples without
    a report.

    Args:
        manifest: Whose texts and entities.
        config: The regions.
    """

    def __init__(self, manifest: Manifest, config: RegionConfig) -> None:
        self.config = config
        policy = TextPolicy(levels=("sentence",), sources=config.sources)
        self._sentences = text_nodes(manifest, policy) if config.names else {}
        self._relations = RelationVectors(manifest, _entities(manifest, config))

    def of(self, sample: str) -> tuple[RegionText, ...]:
        """Of each region of a sample."""
        nodes = self._sentences.get(sample, ())
        said: list[set[str]] = [set() for _ in self.config.names]
        abnormal = [False for _ in self.config.names]
        for relation in self._relations.of(sample):
            for column, value in relation.values:
                said[column] |= relation.nodes
                abnormal[column] |= value in (PRESENT, UNCERTAIN)
        found = []
        for name, told, sick in zip(self.config.names, said, abnormal, strict=True):
            own = dict.fromkeys(node.text.strip() for node in nodes if node.node in told)
            text: str | None = " ".join(own) or None
            if nodes and not (own or sick):
                text = self.config.untold_text(name)
            found.append(RegionText(text=text, normal=not sick))
        return tuple(found)


def _entities(manifest: Manifest, config: RegionConfig) -> EntityConfig:
    """All that is observed at the regions' places."""
    if not config.names or manifest.entities.is_empty():
        return EntityConfig()
    return EntityConfig(
        anatomies=config.names,
        observations=tuple(manifest.entities["observation"].drop_nulls().unique().sort()),
        united=config.anatomies,
        source=config.entities,
    )


def check_regions(manifests: Sequence[Manifest], config: RegionConfig) -> None:
    """Raise a `ConfigError` for a region that no manifest holds, or where nothing tells of any."""
    if not config.names:
        return
    known = {name for m in manifests for name in m.regions["name"].unique()}
    missing = [name for name in config.names if known.isdisjoint(config.members(name))]
    if missing:
        raise ConfigError(
            f"data.regions: {', '.join(missing)}: no such region in the manifests",
            remedy=f"choose from: {', '.join(sorted(known)[:40]) or 'none, they hold no regions'}",
        )
    source = pl.lit(True) if config.entities is None else pl.col("source") == config.entities
    if not any(m.entities.filter(source)["node"].count() for m in manifests):
        raise ConfigError(
            "data.regions: no sentence of the manifests has an entity"
            + ("" if config.entities is None else f" of source {config.entities}"),
            remedy="run medvlp structure on them, or correct data.regions.entities",
        )
