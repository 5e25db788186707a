"""Fill a cache before the first run: every array that a configuration will ask for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import DataLoader, Dataset

from medvlp.data.cache import ArrayCache
from medvlp.data.cache_entry import SUFFIXES, form_of, open_entry
from medvlp.data.dataset import reason
from medvlp.data.items import Item, pair_items
from medvlp.data.manifest import open_all
from medvlp.data.preprocess import Preprocess
from medvlp.errors import ConfigError, RunError
from medvlp.progress import track
from medvlp.train.experiment import Experiment, load_experiment
from medvlp.train.prepare import array_cache


@dataclass(frozen=True)
class Filling:
    """A configuration's cache and all that belongs into it."""

    cache: ArrayCache
    folder: Path
    items: list[Item]
    preprocess: Preprocess


def open_filling(config_path: Path, overrides: Sequence[str]) -> Filling:
    """The cache of an experiment and the items of its manifests, each once.

    Raises:
        ConfigError: The experiment keeps no cache on the disk, or has no manifests.
    """
    experiment = load_experiment(config_path, overrides)
    cache = array_cache(experiment)
    if cache is None or cache.folder is None:
        raise ConfigError(
            "data.cache names no folder", remedy="add data.cache=FOLDER to the command"
        )
    items = {cache.key(item): item for item in _items(experiment)}
    preprocess = experiment.preprocess.build()
    return Filling(cache, cache.folder, list(items.values()), preprocess)


def build_cache(config_path: Path, overrides: Sequence[str], workers: int) -> str:
    """Write every entry that is missing, damaged or of another format than is asked for.

    Args:
        config_path: An experiment's YAML file.
        overrides: Changes such as ``data.cache=FOLDER``.
        workers: Reading processes; 0 reads in this one.

    Returns:
        What was done, for the user; samples that could not be read are counted by code.

    Raises:
        ConfigError: The experiment keeps no cache on the disk, or has no manifests.
        RunError: A reading process died.
    """
    filling = open_filling(config_path, overrides)
    loader = DataLoader(_Fill(filling), batch_size=None, num_workers=workers)
    done: Counter[str] = Counter()
    try:
        done.update(track(loader, "Filling the cache", total=len(filling.items)))
    except RuntimeError as error:  # what torch raises for a process that is gone
        raise RunError(
            "a reading process died", remedy="repeat the command; with --workers 0 it shows where"
        ) from error
    size = sum(file.stat().st_size for item in filling.items for file in filling.cache.files(item))
    told = ", ".join(f"{name} {count:,}" for name, count in sorted(done.items()))
    return f"{filling.folder.name}: {told or 'no entry'}; {size / 1e9:.2f} GB"


class _Fill(Dataset[str]):
    """Makes one entry for each item; the item's value is what was done."""

    def __init__(self, filling: Filling) -> None:
        self.filling = filling

    def __len__(self) -> int:
        return len(self.filling.items)

    def __getitem__(self, index: int) -> str:
        """``kept``, ``written``, ``rewritten``, or ``unread: CODE``."""
        cache, item = self.filling.cache, self.filling.items[index]
        files = cache.files(item)
        sound = [file for file in files if open_entry(file) is not None]
        try:
            array = cache.get(item, self.filling.preprocess.read)
            if not sound:
                return "rewritten" if files else "written"
            if [file.suffix for file in files] == [SUFFIXES[form_of(array, cache.form)]]:
                return "kept"
            cache.replace(item, array)
        except Exception as error:
            return f"unread: {reason(error)}"
        return "rewritten"


def _items(experiment: Experiment) -> list[Item]:
    config = experiment.data
    if not config.manifests:
        raise ConfigError(
            "data.manifests is empty: made-up data are written by the run itself",
            remedy="name a manifest, or let medvlp train fill the cache",
        )
    manifests = open_all(config.manifests)
    text_only = experiment.preprocess.kind == "none"
    return [
        item
        for split in ("train", "valid")
        for item in pair_items(
            manifests, config, split, domain=experiment.domain, text_only=text_only
        )
    ]
