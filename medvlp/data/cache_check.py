"""What lies in a cache folder: sound and damaged entries, and those that nobody asks for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from medvlp.data.cache_entry import SUFFIXES, open_entry
from medvlp.data.whole_files import ENTRY, is_whole
from medvlp.progress import track


@dataclass
class Found:
    """The files of a cache folder by their state."""

    sound: list[Path] = field(default_factory=list)
    damaged: list[Path] = field(default_factory=list)
    """Their bytes are not those that were written; the next run writes them anew."""

    stale: list[Path] = field(default_factory=list)
    """Of a known file, but of another preprocessing contract or span than is asked for."""

    orphaned: list[Path] = field(default_factory=list)
    """Of files that no manifest holds."""

    left: list[Path] = field(default_factory=list)
    """Temporary files of processes that were killed, and whatever else is no entry."""

    missing: int = 0
    """Entries that are asked for and not there."""

    def __str__(self) -> str:
        groups = ("sound", "damaged", "stale", "orphaned", "left")
        told = [f"{name} {len(getattr(self, name)):,}" for name in groups]
        lines = [", ".join([*told, f"missing {self.missing:,}"])]
        for name in groups[1:]:
            # Digests of content name nobody; other names are the user's own and may.
            lines += [
                f"{name}: {path.name[:12] if ENTRY.fullmatch(path.name) else '(no entry)'}"
                for path in getattr(self, name)[:20]
            ]
        return "\n".join(lines)


def check_cache(folder: Path, wanted: Collection[str] | None = None) -> Found:
    """Verify every entry's checksum.

    Args:
        folder: The cache.
        wanted: The names, without their endings, that are asked for (`ArrayCache.key`,
            `Proxies.path`); without them, every sound entry counts as asked for.
    """
    found = Found()
    known = None if wanted is None else {key[:64] for key in wanted}
    seen: set[str] = set()
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in track(files, "Checking", total=len(files)):
        match = ENTRY.fullmatch(path.name)
        if match is None:
            found.left.append(path)
        elif not _is_sound(path):
            found.damaged.append(path)
        elif wanted is None or known is None or path.stem in wanted:
            found.sound.append(path)
            seen.add(path.stem)
        else:
            (found.stale if match[1] in known else found.orphaned).append(path)
    found.missing = len(set(wanted or ()) - seen)
    return found


def _is_sound(path: Path) -> bool:
    return open_entry(path) is not None if path.suffix in SUFFIXES.values() else is_whole(path)
