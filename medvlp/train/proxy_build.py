"""Make the proxies that a configuration asks for, in processes that can be killed."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from medvlp.archive.stage.child import Children, Limits
from medvlp.archive.stage.reading import Item as Paths
from medvlp.archive.stage.reading import Reading
from medvlp.archive.verdict import Verdict
from medvlp.data.items import Item
from medvlp.data.proxies import Proxies
from medvlp.data.proxy_files import Made
from medvlp.errors import RunError
from medvlp.progress import track

_SILENCE_S = 30.0
"""So long a process may say nothing before it is killed."""

_ABANDONED_S = 3600.0
"""A file that nobody has written to for so long is what a killed command left."""


@dataclass
class Tally:
    """What became of the originals, and of what size the proxies are."""

    done: Counter[str] = field(default_factory=Counter)
    size: int = 0
    of_size: int = 0
    """Bytes of the originals that have a proxy."""
    bad_frames: int = 0
    psnr_db: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        told = ", ".join(f"{name} {count:,}" for name, count in sorted(self.done.items()))
        parts = [told or "no recording"]
        if self.of_size:
            parts.append(f"{self.size / 1e9:.2f} GB for {self.of_size / 1e9:.2f} GB")
        if self.psnr_db:
            parts.append(f"at least {min(self.psnr_db):.1f} dB")
        if self.bad_frames:
            parts.append(f"{self.bad_frames:,} frames do not decode")
        return "; ".join(parts)


def build_proxies(proxies: Proxies, items: Iterable[Item], workers: int) -> Tally:
    """Make every proxy that is missing, each whole or not at all.

    A recording whose decoder crashes, or is silent for 30 s, costs itself alone; it is read from
    its original.

    Args:
        proxies: Which ones.
        items: What a run reads.
        workers: Processes at a time.

    Raises:
        ConfigError: This machine cannot make such proxies.
        RunError: The disk takes no more of them.
        ArchiveError: The processes do not start.
    """
    proxies.maker.check()
    tally = Tally()
    wanted: dict[Path, tuple[Path, ...]] = {}
    for item in {item.sha256: item for item in items}.values():
        if not proxies.maker.takes(item.source_paths):
            tally.done["read as they are"] += 1
        elif (path := proxies.path(item.sha256)) and proxies.maker.holds(path, item.sha256):
            tally.done["kept"] += 1
            _weigh(tally, path, item.source_paths)
        else:
            wanted[path] = item.source_paths
    _sweep(proxies.folder)
    for path, sources, made in _make(proxies, wanted, workers):
        if isinstance(made, Verdict):
            tally.done[f"refused: {made.code}"] += 1
            continue
        tally.done["written"] += 1
        tally.bad_frames += made.bad_frames
        tally.psnr_db.append(made.psnr_db)
        _weigh(tally, path, sources)
    return tally


def _make(
    proxies: Proxies, wanted: dict[Path, tuple[Path, ...]], workers: int
) -> Iterator[tuple[Path, tuple[Path, ...], Made | Verdict]]:
    reading = Reading(
        read=proxies.maker.make,
        result=Made,
        version=proxies.maker.version,
        limits=Limits(time_s=_SILENCE_S),
        settings=proxies.settings,
        tells=True,
        makes=True,
    )
    run = secrets.token_hex(4)
    part_of = {_part(path, run): path for path in wanted}
    # The longest first, so that no process is left alone with it at the end.
    parts = sorted(part_of, key=lambda part: -_size(wanted[part_of[part]]))
    todo: list[Paths] = [(*wanted[part_of[part]], part) for part in parts]
    try:
        with Children(max(1, workers)) as children:
            answers = children.run(reading, _created(todo))
            for (*sources, part), made in track(answers, "Making proxies", total=len(todo)):
                path = part_of[part]
                if isinstance(made, Made):
                    part.replace(path)
                elif made.code == "unwritten":
                    raise RunError(
                        f"{proxies.folder.name} takes no more proxies ({made.message})",
                        remedy="make room on its disk and repeat the command",
                    )
                yield path, tuple(sources), made
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def _created(todo: Sequence[Paths]) -> Iterator[Paths]:
    """The items, each with an empty file that its owner alone may read where it is written."""
    for item in todo:
        item[-1].parent.mkdir(parents=True, exist_ok=True)
        item[-1].touch(mode=0o600)
        yield item


def _part(path: Path, run: str) -> Path:
    return path.with_name(f"{path.name}.{run}.part")


def _sweep(folder: Path) -> None:
    for part in folder.glob("*/*.part"):
        with suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > _ABANDONED_S:
                part.unlink()


def _weigh(tally: Tally, path: Path, sources: Sequence[Path]) -> None:
    tally.size += path.stat().st_size
    tally.of_size += _size(sources)


def _size(paths: Sequence[Path]) -> int:
    with suppress(OSError):
        return sum(path.stat().st_size for path in paths)
    return 0
