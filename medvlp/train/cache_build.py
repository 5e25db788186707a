"""Before the first run: the proxies and cached arrays that a configuration will ask for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import DataLoader, Dataset

from medvlp.data.cache import ArrayCache, Read
from medvlp.data.cache_entry import SUFFIXES, form_of, open_entry
from medvlp.data.dataset import reason
from medvlp.data.items import Item
from medvlp.data.manifest import open_all
from medvlp.data.proxies import Proxies, open_proxies
from medvlp.errors import ConfigError, RunError
from medvlp.progress import track
from medvlp.train.experiment import Experiment, load_experiment
from medvlp.train.prepare import Stream, array_cache, open_streams, read_regions
from medvlp.train.proxy_build import build_proxies

_UNREAD = "unread: "


@dataclass(frozen=True)
class Wanted:
    """An item's array, or the map of its regions, that a run reads."""

    item: Item
    cache: ArrayCache
    read: Read


@dataclass(frozen=True)
class Filling:
    """A cache folder and all that a configuration's streams want of it, by the entries' names."""

    folder: Path
    wanted: dict[str, Wanted]


def open_filling(config_path: Path, overrides: Sequence[str]) -> Filling:
    """The cache of an experiment and what its streams read, each once.

    Raises:
        ConfigError: The experiment keeps no cache on the disk, or has no manifests.
    """
    return _filling(load_experiment(config_path, overrides))


def wanted_in(folder: Path, config_path: Path, overrides: Sequence[str]) -> set[str]:
    """The names, without their endings, of all that an experiment would read from a folder.

    Those of the proxies if it is theirs, and of the arrays unless `data.cache` is another one.

    Raises:
        ConfigError: The experiment cannot be used, or has no manifests.
    """
    experiment = load_experiment(config_path, overrides)
    proxies = open_proxies(experiment.domain, experiment.data.proxies)
    names: set[str] = set()
    if proxies is not None and proxies.folder.resolve() == folder.resolve():
        names = {proxies.path(i.sha256).stem for i in _items(experiment) if _taken(proxies, i)}
        if not _is(experiment.data.cache, folder):
            return names
    overrides = [*overrides, f"data.cache={folder}"]
    return names | set(open_filling(config_path, overrides).wanted)


def build_cache(config_path: Path, overrides: Sequence[str], workers: int) -> str:
    """Make the proxies that are missing, then write every array from what a run will read.

    Arrays are written that are missing, damaged or of another format than is asked for.

    Args:
        config_path: An experiment's YAML file.
        overrides: Changes such as ``data.cache=FOLDER``.
        workers: Reading processes; 0 reads arrays in this one.

    Returns:
        What was done, for the user; samples that could not be read are counted by code.

    Raises:
        ConfigError: The experiment keeps neither proxies nor a cache on the disk, or has no
            manifests.
        RunError: A reading process died, or nothing could be read.
    """
    experiment = load_experiment(config_path, overrides)
    told = []
    proxies = open_proxies(experiment.domain, experiment.data.proxies)
    if proxies is not None:
        tally = build_proxies(proxies, _items(experiment), workers)
        told.append(f"{proxies.folder.name}: {tally}")
    if proxies is None or isinstance(experiment.data.cache, Path):
        told.append(_fill(_filling(experiment), workers))
    return "\n".join(told)


def _filling(experiment: Experiment) -> Filling:
    cache = array_cache(experiment)
    if cache is None or cache.folder is None:
        raise ConfigError(
            "data.cache names no folder", remedy="add data.cache=FOLDER to the command"
        )
    return Filling(cache.folder, _wanted(experiment))


def _fill(filling: Filling, workers: int) -> str:
    loader = DataLoader(_Entries(filling), batch_size=None, num_workers=workers)
    done: Counter[str] = Counter()
    try:
        done.update(track(loader, "Filling the cache", total=len(filling.wanted)))
    except RuntimeError as error:  # what torch raises for a process that is gone
        raise RunError(
            "a reading process died", remedy="repeat the command; with --workers 0 it shows where"
        ) from error
    if done and all(what.startswith(_UNREAD) for what in done):
        raise RunError(
            f"no array could be read: {_told(done)}",
            remedy="restore the manifest's files, or index the archive again",
        )
    files = (file for w in filling.wanted.values() for file in w.cache.files(w.item))
    size = sum(file.stat().st_size for file in files)
    return f"{filling.folder.name}: {_told(done) or 'no entry'}; {size / 1e9:.2f} GB"


def _told(done: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(done.items()))


class _Entries(Dataset[str]):
    """Makes one entry for each item; the item's value is what was done."""

    def __init__(self, filling: Filling) -> None:
        self.wanted = list(filling.wanted.values())

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, index: int) -> str:
        """``kept``, ``written``, ``rewritten``, or ``unread: CODE``."""
        cache, item = self.wanted[index].cache, self.wanted[index].item
        files = cache.files(item)
        sound = [file for file in files if open_entry(file) is not None]
        try:
            array = cache.get(item, self.wanted[index].read)
            if not sound:
                return "rewritten" if files else "written"
            if [file.suffix for file in files] == [SUFFIXES[form_of(array, cache.form)]]:
                return "kept"
            cache.replace(item, array)
        except Exception as error:
            return f"{_UNREAD}{reason(error)}"
        return "rewritten"


def _streams(experiment: Experiment, proxies: Proxies | None) -> tuple[Stream, ...]:
    if not experiment.data.manifests:
        raise ConfigError(
            "data.manifests is empty: made-up data are written by the run itself",
            remedy="name a manifest, or let medvlp train fill the cache",
        )
    return open_streams(experiment, open_all(experiment.data.manifests), proxies)


def _items(experiment: Experiment) -> Iterator[Item]:
    """What a run reads, from the originals."""
    for stream in _streams(experiment, None):
        yield from (*stream.train, *stream.valid)


def _taken(proxies: Proxies, item: Item) -> bool:
    return proxies.maker.takes(item.source_paths)


def _is(cache: Path | str | None, folder: Path) -> bool:
    return isinstance(cache, Path) and cache.resolve() == folder.resolve()


def _wanted(experiment: Experiment) -> dict[str, Wanted]:
    found: dict[str, Wanted] = {}
    drawn: dict[str, Wanted] = {}
    proxies = open_proxies(experiment.domain, experiment.data.proxies)
    for stream in _streams(experiment, proxies):
        cache = array_cache(experiment, stream.contract)
        assert cache is not None
        preprocess = stream.contract.build()
        maps = read_regions(experiment, stream.contract, cache)
        for item in (*stream.train, *stream.valid):
            found.setdefault(cache.key(item), Wanted(item, cache, preprocess.read))
            if maps is not None and maps.cache is not None and item.regions:
                wanted = Wanted(item, maps.cache, maps.reader(item))
                drawn.setdefault(maps.cache.key(item), wanted)
    return found | drawn
