"""From an experiment to what its training needs: items, tokenizer, contract, loaders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from medvlp.data.cache import ArrayCache
from medvlp.data.dataset import PairDataset, StepSampler, collater
from medvlp.data.items import (
    Item,
    count_textless,
    pair_items,
    permute_images,
    relabel,
)
from medvlp.data.manifest import open_all
from medvlp.data.preprocess import Preprocess, contract_digest
from medvlp.data.prompts import PromptSet
from medvlp.data.tokenizer import (
    load_tokenizer,
    save_tokenizer,
    tokenizer_digest,
    train_tokenizer,
)
from medvlp.errors import ConfigError
from medvlp.models.bundle import load
from medvlp.train.experiment import Experiment
from medvlp.train.loader import WatchedLoader, build_loader
from medvlp.train.phantom_data import phantom_manifest


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a run trains on, ready to be read."""

    train: list[Item]
    valid: list[Item]
    graded: list[Item]
    """The validation items with the prompts' labels, on which the bundle is calibrated."""

    tokenizer: PreTrainedTokenizerFast
    preprocess: Preprocess
    facts: dict[str, Any]
    """Plain values that identify the data: digests and counts."""


def prepare(experiment: Experiment, run: Path) -> Prepared:
    """Open the manifests (writing phantom data first if asked for) and fit the tokenizer.

    What is written goes to the run folder and is used again when the run resumes.

    Raises:
        ConfigError: No item to train on, or names that the manifests do not hold.
    """
    config = experiment.data
    manifests = open_all(_manifests(experiment, run))
    domain = experiment.domain
    kinds: dict[str, Any] = {"domain": domain, "text_only": experiment.preprocess.kind == "none"}
    items = {s: pair_items(manifests, config, s, **kinds) for s in ("train", "valid")}
    textless = {s: count_textless(manifests, config, s, **kinds) for s in items}
    if not items["train"]:
        raise ConfigError(
            f"data: no image of the training split has a text that data.texts wants "
            f"({textless['train']} have none)",
            remedy="widen data.texts, index with the reports, or set preprocess.kind=none and "
            "image.kind=none to train on reports alone",
        )
    tokenizer = _tokenizer(experiment, items["train"], run / "tokenizer")
    prompts = experiment.prompts
    if isinstance(prompts, PromptSet):
        items["graded"] = relabel(items["valid"], manifests, prompts.names)
    counts = {split: len(group) for split, group in items.items()}
    if experiment.control == "image-blind":
        items = {s: permute_images(group, experiment.seed) for s, group in items.items() if group}
    preprocess: Preprocess = experiment.preprocess.build()
    facts = {
        "manifests": [manifest.digest for manifest in manifests],
        "items": counts,
        "textless": textless,
        "tokenizer": tokenizer_digest(tokenizer),
        "preprocess": contract_digest(experiment.preprocess),
    }
    return Prepared(
        train=items["train"],
        valid=items.get("valid", []),
        graded=items.get("graded", []),
        tokenizer=tokenizer,
        preprocess=preprocess,
        facts=facts,
    )


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
        self.cache = array_cache(experiment)

    def train_dataloader(self) -> DataLoader[Any]:
        """The whole run as one pass."""
        trainer = self.experiment.trainer
        total = trainer.steps * trainer.accumulate
        batch = self.experiment.data.batch_size
        return self._loader(self.prepared.train, batch, total, start=self.start, augment=True)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Full batches of the validation split, the same each time; none if it is too small."""
        world = self._world()[1]
        items = self.prepared.valid
        batch = min(self.experiment.data.batch_size, len(items) // world * world)
        if batch < 2 * world:
            return []
        return self._loader(items, batch, len(items) // batch, start=0, augment=False)

    def _world(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def _loader(
        self, items: Sequence[Item], batch: int, total: int, *, start: int, augment: bool
    ) -> WatchedLoader:
        e = self.experiment
        rank, world = self._world()
        dataset = PairDataset(
            items,
            self.prepared.preprocess,
            self.prepared.tokenizer,
            self.cache,
            e.data.texts,
            e.seed,
            max_tokens=e.text.max_tokens,
            augment=augment,
        )
        sampler = StepSampler(
            len(items), batch, seed=e.seed, total=total, start=start, rank=rank, world=world
        )
        texts = e.data.texts.n
        pad_id = self.prepared.tokenizer.pad_token_id
        collate = collater(pad_id, texts, e.data.text_multiple, e.text.max_tokens)
        return build_loader(dataset, sampler, collate, e.data, e.trainer.accelerator)


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
        texts = [node.text for item in items for node in item.texts]
        tokenizer = train_tokenizer(texts, config.vocab_size)
    part = folder.with_name(".tokenizer.part")
    save_tokenizer(tokenizer, part)
    part.rename(folder)
    return load_tokenizer(folder)


def array_cache(experiment: Experiment) -> ArrayCache | None:
    """The run's cache of decoded arrays, if it has one."""
    config = experiment.data
    if config.cache is None:
        return None
    folder = None if config.cache == "memory" else Path(config.cache)
    return ArrayCache(folder, contract_digest(experiment.preprocess), config.cache_format)
