"""From an experiment to what its training needs: items, tokenizer, contract, loaders."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from medvlp.data.cache import ArrayCache
from medvlp.data.dataset import MixedDataset, PairDataset, collater
from medvlp.data.items import DataConfig, Item, count_left_out, pair_items, relabel
from medvlp.data.manifest import Manifest, open_all
from medvlp.data.mirror import Mirror
from medvlp.data.mix import ONE_STREAM, StreamConfig
from medvlp.data.permuted import permute_images
from medvlp.data.plan import Plan, Stage, StepSampler, training_plan
from medvlp.data.preprocess import absent_slice, contract_digest, mirror_share
from medvlp.data.prompts import PromptSet
from medvlp.data.proxies import Proxies, open_proxies
from medvlp.data.readers import how_read
from medvlp.data.region_maps import RegionMaps
from medvlp.data.sides import load_side_words
from medvlp.data.tokenizer import (
    load_tokenizer,
    mark_sentences,
    save_tokenizer,
    sentence_id,
    tokenizer_digest,
    train_tokenizer,
)
from medvlp.errors import ConfigError
from medvlp.models.bundle import load
from medvlp.train.curriculum import stream_objectives, weights_at
from medvlp.train.experiment import Experiment, marks_sentences
from medvlp.train.loader import WatchedLoader, build_loader
from medvlp.train.phantom_data import phantom_manifest
from medvlp.train.regions import region_maps

_SPLITS = ("train", "valid")


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One stream of a run's data; a run that mixes nothing has one."""

    name: str
    data: DataConfig
    """What `pair_items` read it by."""

    contract: Any
    """Its preprocessing contract."""

    train: list[Item]
    valid: list[Item]
    mirror: Mirror | None
    """What mirrors its training samples, if the contract asks for it."""

    textless: dict[str, int]
    """How many samples of each split lack the texts that it wants."""

    other_views: dict[str, int]
    """How many samples of each split `data.views` leaves out."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a run trains on, ready to be read."""

    streams: tuple[Stream, ...]
    graded: list[Item]
    """The validation items with the prompts' labels, on which the bundle is calibrated."""

    tokenizer: PreTrainedTokenizerFast
    manifests: tuple[Manifest, ...]
    facts: dict[str, Any]
    """Plain values that identify the data: digests and counts."""


def prepare(experiment: Experiment, run: Path) -> Prepared:
    """Open the manifests (writing phantom data first if asked for) and fit the tokenizer.

    What is written goes to the run folder and is used again when the run resumes.

    Raises:
        ConfigError: No item to train on, or names that the manifests do not hold.
    """
    manifests = open_all(_manifests(experiment, run))
    mix = experiment.data.mix
    proxies = open_proxies(experiment.domain, experiment.data.proxies)
    streams = open_streams(experiment, manifests, proxies)
    tokenizer = _tokenizer(experiment, [i for s in streams for i in s.train], run / "tokenizer")
    graded = _graded(experiment, streams, manifests)
    if experiment.control == "image-blind":
        streams = tuple(_blinded(stream, experiment.seed) for stream in streams)
        graded = permute_images(graded, experiment.seed) if graded else []
    facts: dict[str, Any] = {
        "manifests": [manifest.digest for manifest in manifests],
        "items": {s: sum(len(getattr(stream, s)) for stream in streams) for s in _SPLITS}
        | ({"graded": len(graded)} if isinstance(experiment.prompts, PromptSet) else {}),
        "textless": {s: sum(stream.textless[s] for stream in streams) for s in _SPLITS},
        "tokenizer": tokenizer_digest(tokenizer),
        "preprocess": contract_digest(experiment.preprocess),
    }
    if experiment.preprocess.kind != "none":
        samples = {i.sample for stream in streams for i in (*stream.train, *stream.valid)}
        facts["reading"] = how_read(manifests, samples, experiment.preprocess.build(), proxies)
    if experiment.reads_regions:
        facts["regions"] = {s: sum(_drawn(stream, s) for stream in streams) for s in _SPLITS}
    if experiment.data.views != "all":
        facts["other_views"] = {s: sum(n.other_views[s] for n in streams) for s in _SPLITS}
    if mix is not None:
        facts["streams"] = {s.name: {"train": len(s.train), "valid": len(s.valid)} for s in streams}
    return Prepared(
        streams=streams,
        graded=graded,
        tokenizer=tokenizer,
        manifests=tuple(manifests),
        facts=facts,
    )


def open_streams(
    experiment: Experiment, manifests: Sequence[Manifest], proxies: Proxies | None = None
) -> tuple[Stream, ...]:
    """The streams of an experiment's data.

    Args:
        experiment: The run's configuration.
        manifests: Those that it names, opened.
        proxies: What stands in for originals.

    Raises:
        ConfigError: A stream without an item to train on, or names that the manifests do not hold.
    """
    mix = experiment.data.mix
    named = {ONE_STREAM: StreamConfig()} if mix is None else mix.streams
    return tuple(
        _stream(experiment, name, stream, manifests, proxies) for name, stream in named.items()
    )


def _stream(
    experiment: Experiment,
    name: str,
    stream: StreamConfig,
    manifests: Sequence[Manifest],
    proxies: Proxies | None,
) -> Stream:
    given = {
        field: value
        for field in ("manifests", "texts", "subset", "batch_size")
        if (value := getattr(stream, field)) is not None
    }
    data = dataclasses.replace(experiment.data, mix=None, **given)
    wanted = experiment.data.manifests
    own = [
        manifest
        for path, manifest in zip(wanted or [None], manifests, strict=True)
        if path is None or path in data.manifests
    ]
    kinds: dict[str, Any] = {
        "domain": experiment.domain,
        "text_only": experiment.preprocess.kind == "none",
    }
    items = {s: pair_items(own, data, s, known_in=manifests, **kinds) for s in _SPLITS}
    if proxies is not None:
        items = {s: proxies.stand_in_all(items[s]) for s in _SPLITS}
    left_out = {s: count_left_out(own, data, s, **kinds) for s in _SPLITS}
    textless = {s: count for s, (count, _) in left_out.items()}
    other_views = {s: count for s, (_, count) in left_out.items()}
    if not items["train"]:
        where = "data" if name == ONE_STREAM else f"data.mix.streams.{name}"
        raise ConfigError(
            f"{where}: no image of the training split has a text that data.texts wants "
            f"({textless['train']} have none, and data.views={data.views} leaves out "
            f"{other_views['train']})",
            remedy="widen data.texts or data.views, index with the reports, or set "
            "preprocess.kind=none and image.kind=none to train on reports alone",
        )
    contract = experiment.contract(name)
    return Stream(
        name=name,
        data=data,
        contract=contract,
        mirror=_mirror(contract, data, items["train"]),
        textless=textless,
        other_views=other_views,
        **items,
    )


def _mirror(contract: Any, data: DataConfig, items: Sequence[Item]) -> Mirror | None:
    share = mirror_share(contract)
    if not share:
        return None
    words = load_side_words(data.sides if isinstance(data.sides, Path) else None)
    mirror = Mirror(share, words, data.names)
    mirror.check(items)
    return mirror


def _graded(
    experiment: Experiment, streams: Sequence[Stream], manifests: Sequence[Manifest]
) -> list[Item]:
    if not isinstance(experiment.prompts, PromptSet):
        return []
    # Streams may draw the same images with other texts, which play no part here.
    images = {item.key: item for stream in streams for item in stream.valid}
    return relabel(list(images.values()), manifests, experiment.prompts.names)


def _blinded(stream: Stream, seed: int) -> Stream:
    train = permute_images(stream.train, seed)
    valid = permute_images(stream.valid, seed) if stream.valid else []
    return dataclasses.replace(stream, train=train, valid=valid)


class PairData(LightningDataModule):
    """The loaders of a run, for whatever ranks the trainer has.

    Args:
        experiment: The run's configuration.
        prepared: What to read.
        start: Batches that an earlier attempt finished.
    """

    def __init__(self, experiment: Experiment, prepared: Prepared, start: int) -> None:
        super().__init__()
        self.experiment = experiment
        self.prepared = prepared
        self.start = start
        self.caches: dict[str, ArrayCache | None] = {}

    def train_dataloader(self) -> DataLoader[Any]:
        """The whole run as one pass."""
        e = self.experiment
        streams = self.prepared.streams
        plan = training_plan(
            e.data.mix,
            [len(stream.train) for stream in streams],
            e.data.batch_size,
            seed=e.seed,
            accumulate=e.trainer.accumulate,
        )
        total = e.trainer.steps * e.trainer.accumulate
        return self._loader(streams, "train", plan, total, start=self.start)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Full batches of the validation split, stream after stream, the same each time.

        None of a stream that is too small, or for which no objective counts at the end.
        """
        e = self.experiment
        world = self._world()[1]
        weights = weights_at(e.trainer.steps, e.weights, e.weight_schedule)
        counted = stream_objectives(e.data.mix, tuple(weights))
        streams, batches = [], []
        for stream in self.prepared.streams:
            batch = min(stream.data.batch_size, len(stream.valid) // world * world)
            if batch >= 2 * world and any(weights[name] for name in counted[stream.name]):
                streams.append(stream)
                batches.append(batch)
        if not streams:
            return []
        counts = [len(stream.valid) for stream in streams]
        passes = tuple(count // batch for count, batch in zip(counts, batches, strict=True))
        stage = Stage(start=0, ratios=passes, sizes=tuple(batches))
        names = [stream.name for stream in streams]
        plan = Plan(names, counts, [stage], seed=e.seed, order="blocks")
        return self._loader(streams, "valid", plan, sum(passes), start=0)

    def _world(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def _loader(
        self, streams: Sequence[Stream], split: str, plan: Plan, total: int, *, start: int
    ) -> WatchedLoader:
        e = self.experiment
        rank, world = self._world()
        dataset = MixedDataset([self._dataset(stream, split) for stream in streams])
        sampler = StepSampler(plan, total=total, start=start, rank=rank, world=world)
        texts = {stream.name: stream.data.texts.total for stream in streams}
        pad_id = self.prepared.tokenizer.pad_token_id
        absent = absent_slice(e.preprocess)
        collate = collater(pad_id, texts, e.data.text_multiple, e.text.max_tokens, absent)
        return build_loader(dataset, sampler, collate, e.data, e.trainer.accelerator)

    def _dataset(self, stream: Stream, split: str) -> PairDataset:
        e = self.experiment
        digest = contract_digest(stream.contract)
        if digest not in self.caches:
            self.caches[digest] = array_cache(e, stream.contract)
        return PairDataset(
            getattr(stream, split),
            stream.contract.build(),
            self.prepared.tokenizer,
            self.caches[digest],
            stream.data.texts,
            e.seed,
            max_tokens=e.text.max_tokens,
            augment=split == "train",
            names=stream.data.names,
            stream=stream.name,
            mirror=stream.mirror,
            max_sentences=getattr(e.text, "max_sentences", None),
            regions=read_regions(e, stream.contract, self.caches[digest]),
        )


def _manifests(experiment: Experiment, run: Path) -> tuple[Path, ...]:
    phantom = experiment.data.phantom
    if phantom is None:
        return experiment.data.manifests
    return (phantom_manifest(experiment.domain, phantom, run / "phantom"),)


def _tokenizer(
    experiment: Experiment, items: Sequence[Item], folder: Path
) -> PreTrainedTokenizerFast:
    config = experiment.data.tokenizer
    if folder.exists():
        return load_tokenizer(folder)
    if config.path is not None:
        tokenizer = load_tokenizer(config.path)
    elif experiment.init is not None:
        tokenizer = load(experiment.init).tokenizer
    else:
        texts = [node.text for item in items for node in (*item.texts, *item.along)]
        tokenizer = train_tokenizer(texts, config.vocab_size)
    if marks_sentences(experiment):
        mark_sentences(tokenizer)
    elif sentence_id(tokenizer) is not None:
        raise ConfigError(
            "data.texts: the tokenizer marks sentences, and the texts' are not to be marked",
            remedy="set data.texts.mark_sentences=true, or use another tokenizer",
        )
    part = folder.with_name(".tokenizer.part")
    save_tokenizer(tokenizer, part)
    part.rename(folder)
    return load_tokenizer(folder)


def array_cache(experiment: Experiment, contract: Any = None) -> ArrayCache | None:
    """The run's cache of decoded arrays, if it has one, for a contract or the bundle's."""
    config = experiment.data
    if config.cache is None:
        return None
    folder = None if config.cache == "memory" else Path(config.cache)
    digest = contract_digest(contract or experiment.preprocess)
    return ArrayCache(folder, digest, config.cache_format)


def read_regions(
    experiment: Experiment, contract: Any, cache: ArrayCache | None
) -> RegionMaps | None:
    """`region_maps`, if an objective of the run asks for them."""
    e = experiment
    return region_maps(e.data.regions, e.image, contract, cache) if e.reads_regions else None


def _drawn(stream: Stream, split: str) -> int:
    return sum(bool(item.regions) for item in getattr(stream, split))
