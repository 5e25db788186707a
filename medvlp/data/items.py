"""From manifest tables to what is trained on: one item per image-text pair or time window."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.data.cache_entry import Format
from medvlp.data.drawn_regions import DrawnRegions
from medvlp.data.label_vectors import LabelVectors, intervals_of
from medvlp.data.manifest import Manifest
from medvlp.data.mix import MixConfig
from medvlp.data.phantom_source import PhantomData
from medvlp.data.placement import Region
from medvlp.data.preprocess import Span, windows
from medvlp.data.proxy_files import ProxyConfig
from medvlp.data.region_texts import RegionConfig, RegionText, RegionTexts, check_regions
from medvlp.data.relations import (
    EntityConfig,
    Names,
    Relation,
    RelationVectors,
    check_relation_names,
)
from medvlp.data.tables import NO_INFORMATION, TEXT_ONLY
from medvlp.data.text_nodes import TextNode, text_nodes
from medvlp.data.text_policy import Positive, TextPolicy
from medvlp.data.timeline import Timelines
from medvlp.data.views import SIDES, Views
from medvlp.errors import ConfigError

Seconds = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TokenizerConfig:
    """A tokenizer trained on the training split's own texts, or one from a local folder."""

    vocab_size: Annotated[int, Field(ge=300)] = 8192
    path: Path | None = None
    """A pretrained tokenizer's folder, or a ``vocab.txt``; then `vocab_size` is not used."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    """What a run trains on."""

    manifests: tuple[Path, ...] = ()
    """Manifest folders, mixed into one data set."""

    phantom: PhantomData | None = None
    """Made-up data instead of manifests, written into the run folder."""

    batch_size: Annotated[int, Field(ge=2)] = 32
    """Samples that are contrasted with each other, over all devices together."""

    texts: TextPolicy = TextPolicy()
    mix: MixConfig | None = None
    """Several sources or levels of text, mixed by ratio; without it, all data are one stream."""

    labels: tuple[str, ...] = ()
    """Label names, in the order of the batch's label columns."""

    entities: EntityConfig = EntityConfig()
    """What reports say of which place, for objectives that align findings and anatomy."""

    regions: RegionConfig = RegionConfig()
    """Where things are drawn, and what reports say of them, for objectives that contrast them."""

    subset: str | None = None
    """A few-shot subset of the training split, such as ``10%``."""

    views: Views = "all"
    """Which X-rays are taken: ``frontal`` (PA, AP or one of both) or ``lateral`` leaves out all
    others and those whose view is unknown; ``all`` leaves out none."""

    workers: Annotated[int, Field(ge=0)] = 0
    """Reading processes per device; 0 reads in the training process."""

    prefetch: Positive = 2
    """Batches that each reading process has ready in advance."""

    sides: Literal["en"] | Path | None = None
    """The words that name a side, for contracts that mirror images (`preprocess.augment.mirror`):
    ``en`` for reports in English, or a file in the form of ``medvlp/data/sides.yaml``."""

    text_multiple: Positive = 16
    """Texts of a batch are padded to the next multiple of so many tokens: few lengths occur, for
    which a compiled model and a GPU's memory are prepared; 1 pads to the longest text."""

    cache: Path | Literal["memory"] | None = None
    """Folder for decoded arrays (made if need be), ``memory`` for small sets, or none."""

    cache_format: Format = "auto"
    """How new entries of the folder are written: ``npy`` plain and mapped, ``blosc2`` compressed,
    ``auto`` compressed for CT volumes alone. `medvlp cache bench` measures both."""

    proxies: ProxyConfig | None = None
    """Smaller copies of recordings (`medvlp cache build` makes them), read in their place."""

    tokenizer: TokenizerConfig = TokenizerConfig()

    footprint: bool = True
    """Whether the bundle keeps short digests of what it was trained on, by which an evaluation
    finds overlap. They name nobody; whoever holds a training image can tell that it was one."""

    @property
    def names(self) -> Names:
        """The names of the batch's columns."""
        return Names(
            labels=self.labels,
            anatomies=self.entities.anatomies,
            observations=self.entities.observations,
            regions=self.regions.names,
        )

    def __post_init__(self) -> None:
        if bool(self.manifests) == (self.phantom is not None):
            raise ValueError("give either manifests or phantom")
        for fault in [] if self.mix is None else self.mix.faults(self.manifests, self.batch_size):
            raise ValueError(fault)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """One thing to encode: a sample's image, or a span of a recording, with its texts."""

    sample: str
    patient: str
    sha256: str
    source_paths: tuple[Path, ...]
    span: Span | None
    texts: tuple[TextNode, ...]
    labels_L: NDArray[np.float32]
    """1 present, 0 absent, -1 uncertain, NaN unknown."""

    split: str
    view: str | None = None
    """How the image was taken, such as PA, where that is known."""

    flags: tuple[str, ...] = ()
    """The sample's flags: some tell a reader what was done to its files."""

    relations: tuple[Relation, ...] = ()
    """What reports and tables say of its places, where a run asks for it."""

    regions: tuple[tuple[int, Region], ...] = ()
    """Where the regions of `DataConfig.regions` are drawn in its image: column and region."""

    region_texts: tuple[RegionText, ...] = ()
    """What its reports say of each of them."""

    along: tuple[TextNode, ...] = ()
    """Other texts of its moments in the order of time, where `TextPolicy.along` asks for them."""

    @property
    def key(self) -> str:
        """The sample, with its span if it has one: what random draws are keyed by."""
        return self.sample if self.span is None else f"{self.sample}@{self.span[0]}-{self.span[1]}"


def pair_items(
    manifests: Sequence[Manifest],
    config: DataConfig,
    split: str,
    *,
    domain: str,
    text_only: bool = False,
    known_in: Sequence[Manifest] | None = None,
) -> list[Item]:
    """Image-text pairs of a split: one per sample, or one per text node that has a time span.

    Samples of other domains (one archive may hold X-rays and CT), of other views than
    `config.views`, those without a text that the policy wants (and requires) and, unless
    `text_only`, reports without an image give no item; nor, for training, do images of one value
    throughout. `config.subset` narrows the training split only.

    Args:
        manifests: Where the items come from.
        config: Texts, labels and subset.
        split: The split's name.
        domain: The domain's name.
        text_only: Whether reports without an image count.
        known_in: Manifests that together know the label and subset names; by default `manifests`.

    Raises:
        ConfigError: A label or subset name that occurs in none of the manifests.
    """
    known = manifests if known_in is None else known_in
    _check_names(known, config)
    check_relation_names(known, config.entities)
    check_regions(known, config.regions)
    items: list[Item] = []
    for manifest in manifests:
        chosen = _wanted_rows(manifest, config, split, domain, text_only)
        labels = LabelVectors(manifest, config.labels)
        relations = RelationVectors(manifest, config.entities)
        regions = _Regions(manifest, config.regions)
        texts, beside = text_nodes(manifest, config.texts), Timelines(manifest, config.texts.along)
        for row in chosen:
            nodes = texts.get(row["sample"], ())
            if nodes or not config.texts.required:
                told = {"relations": relations.of(row["sample"]), **regions.of(row["sample"])}
                for item in _pairs(row, nodes, labels, manifest.paths(row["source"])):
                    if (item.sha256, item.span) in manifest.undecodable:
                        continue
                    along = beside.beside(item.sample, item.texts, item.span)
                    items.append(dataclasses.replace(item, along=along, **told))
    return items


def window_items(
    manifest: Manifest, split: str, window_s: float, stride_s: float, labels: Sequence[str]
) -> list[Item]:
    """Every window of every recording in a split, labelled by the intervals at its middle.

    Args:
        manifest: The manifest; samples without a duration give no window.
        split: The split's name.
        window_s: Length of a window in seconds; the last one ends with the recording.
        stride_s: Seconds between the starts of neighbouring windows.
        labels: Names in the order of `labels_L`: 1 where an interval of that name covers the
            middle, 0 elsewhere; the sample-wide value or NaN where no interval would tell
            (`LabelVectors`).
    """
    table = LabelVectors(manifest, labels)
    items = []
    rows = manifest.samples.filter(pl.col("split") == split)
    for row in rows.sort("sample").to_dicts():
        paths = manifest.paths(row["source"])
        for span in windows(row["duration_s"] or 0.0, window_s, stride_s):
            if (row["sha256"], span) not in manifest.undecodable:
                items.append(_item(row, (), table.of(row["sample"], span), paths, span))
    return items


def count_left_out(
    manifests: Sequence[Manifest],
    config: DataConfig,
    split: str,
    *,
    domain: str,
    text_only: bool = False,
) -> tuple[int, int]:
    """Samples of a split that no text of the policy belongs to, and those of other views."""
    textless = other_views = 0
    any_view = dataclasses.replace(config, views="all")
    for manifest in manifests:
        texts = text_nodes(manifest, config.texts)
        rows = _wanted_rows(manifest, config, split, domain, text_only)
        textless += sum(row["sample"] not in texts for row in rows)
        every = _wanted_rows(manifest, any_view, split, domain, text_only)
        other_views += len(every) - len(rows)
    return textless, other_views


def relabel(
    items: Sequence[Item], manifests: Sequence[Manifest], names: Sequence[str]
) -> list[Item]:
    """The items with the labels `names` in `labels_L`; NaN where no manifest knows a name."""
    tables = {}
    for manifest in manifests:
        labels = LabelVectors(manifest, names)
        tables.update(dict.fromkeys(manifest.samples["sample"], labels))
    return [
        dataclasses.replace(item, labels_L=tables[item.sample].of(item.sample, item.span))
        for item in items
    ]


class _Regions:
    """The regions of a manifest's samples, as fields of their items; no field if none is asked."""

    def __init__(self, manifest: Manifest, config: RegionConfig) -> None:
        self._columns = [config.members(name) for name in config.names]
        wanted = [name for members in self._columns for name in members]
        self._drawn = DrawnRegions([manifest] if wanted else [], wanted, boxes=False)
        self._texts = RegionTexts(manifest, config)

    def of(self, sample: str) -> dict[str, Any]:
        drawn = (
            (column, region)
            for column, members in enumerate(self._columns)
            for name in members
            for region in self._drawn.of(sample, name)
        )
        return {"regions": tuple(drawn), "region_texts": self._texts.of(sample)}


def _check_names(manifests: Sequence[Manifest], config: DataConfig) -> None:
    known: set[str] = set()
    subsets: set[str] = set()
    for manifest in manifests:
        known.update(manifest.labels["name"].unique())
        known.update(intervals_of(manifest)["name"].unique())
        subsets.update(manifest.subsets["subset"].unique())
    missing = [name for name in config.labels if name not in known]
    if missing:
        raise ConfigError(
            f"data.labels: {', '.join(missing)}: no such label in the manifests",
            remedy=f"choose from: {', '.join(sorted(known)[:20]) or 'none, they hold no labels'}",
        )
    if config.subset is not None and config.subset not in subsets:
        raise ConfigError(
            f"data.subset: {config.subset}: no such subset in the manifests",
            remedy=f"choose from: {', '.join(sorted(subsets)[:20]) or 'none, they hold none'}",
        )


def _wanted_rows(
    manifest: Manifest, config: DataConfig, split: str, domain: str, text_only: bool
) -> list[dict[str, Any]]:
    rows = manifest.samples.filter((pl.col("split") == split) & (pl.col("domain") == domain))
    if not text_only:
        rows = rows.filter(pl.col("kind").ne_missing(TEXT_ONLY))
    if split == "train":
        rows = rows.filter(~pl.col("flags").list.contains(NO_INFORMATION).fill_null(False))
    if config.views != "all":
        wanted = [view for view, side in SIDES.items() if side == config.views]
        shown = pl.col("view").is_in(wanted).fill_null(False)
        rows = rows.filter(shown | pl.col("kind").eq_missing(TEXT_ONLY))
    if config.subset is not None and split == "train":
        members = manifest.subsets.filter(pl.col("subset") == config.subset)
        rows = rows.join(members, on="sample", how="semi")
    return rows.sort("sample").to_dicts()


def _pairs(
    row: Mapping[str, Any], nodes: Sequence[TextNode], labels: LabelVectors, paths: tuple[Path, ...]
) -> Iterator[Item]:
    timed = [
        (node, (node.start_s, node.end_s))
        for node in nodes
        if node.start_s is not None and node.end_s is not None
    ]
    if not timed:
        yield _item(row, tuple(nodes), labels.of(row["sample"], None), paths, None)
    for node, span in timed:
        yield _item(row, (node,), labels.of(row["sample"], span), paths, span)


def _item(
    row: Mapping[str, Any],
    texts: tuple[TextNode, ...],
    labels_L: NDArray[np.float32],
    paths: tuple[Path, ...],
    span: Span | None,
) -> Item:
    return Item(
        sample=row["sample"],
        patient=row["patient"],
        sha256=row["sha256"],
        source_paths=paths,
        span=span,
        texts=texts,
        labels_L=labels_L,
        split=row["split"],
        view=row["view"],
        flags=tuple(row["flags"] or ()),
    )
