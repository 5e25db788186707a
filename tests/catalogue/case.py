"""What a case of the catalogue is, and how its verdict is read from a manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

Write = Callable[[Path], Sequence[Path]]
Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One input and the verdict that it must get.

    Cases of one `archive` are written into one archive, each into a folder named after it, and
    indexed in one run; they must not share identifiers. `archive` is the name of a source kind,
    or, where cases need options of their own, ``kind:anything`` with those options.
    """

    number: int
    """The entry of the catalogue that it stands for; 0 for our own."""

    name: str
    """Unique; also the name of its folder."""

    archive: str
    """Source kind, or ``kind:anything``."""

    write: Write
    """``write(folder)`` writes into the (existing, empty) folder and returns the paths whose
    verdict counts; a table's row is ``table.csv#3``."""

    expected: str
    """``REJECT:code``, ``IGNORE:code``, ``FLAG:flag`` (accepted, with that flag), ``FIX:flag``
    (as FLAG, and the array must equal the oracle) or ``ACCEPT``; several flags with ``+``."""

    oracle: Callable[[], Array] | None = None
    """For ACCEPT and FIX: the exact array that the reader must give."""

    read: Callable[[Sequence[Path]], Array] | None = None
    """How an accepted case is read: paths of the sample to array; must be finite throughout."""

    overrides: tuple[str, ...] = ()
    """Options of the archive's run; ``{folder}`` becomes the folder of the archive. All cases of
    one archive add theirs."""

    root: str = ""
    """What of the archive's folder is indexed, where it is not the whole: a table."""

    @property
    def kind(self) -> str:
        """The source kind that indexes it."""
        return self.archive.partition(":")[0]


class Verdicts:
    """What a manifest says of every path that it was made from."""

    def __init__(self, manifest: Path) -> None:
        private = manifest.with_name(manifest.name + ".private")
        sources = pl.read_parquet(private / "sources.parquet").sort("source", "part")
        rejects = pl.read_parquet(manifest / "rejects.parquet").join(sources, on="source")
        samples = pl.read_parquet(manifest / "samples.parquet").join(sources, on="source")
        self._refused: dict[str, set[str]] = {}
        for row in rejects.to_dicts():
            word = "IGNORE" if row["stage"] == "ignored" else "REJECT"
            self._refused.setdefault(row["path"], set()).add(f"{word}:{row['code']}")
        self._flags: dict[str, frozenset[str]] = {}
        self._sample: dict[str, str] = {}
        for row in samples.to_dicts():
            self._flags[row["path"]] = frozenset(row["flags"])
            self._sample[row["path"]] = row["source"]
        self._parts: dict[str, list[Path]] = {}
        for source, path in sources.select("source", "path").iter_rows():
            self._parts.setdefault(source, []).append(Path(path))

    def of(self, path: Path) -> str:
        """``REJECT:code``, ``IGNORE:code``, or ``ACCEPT`` with its flags, as ``ACCEPT:a+b``."""
        refused = self._refused.get(str(path), set())
        if refused:
            return " ".join(sorted(refused))
        if str(path) not in self._flags:
            return "NOTHING"
        return "ACCEPT:" + "+".join(sorted(self._flags[str(path)]))

    def paths(self, path: Path) -> list[Path]:
        """All files of the sample that `path` belongs to, in order."""
        return self._parts[self._sample[str(path)]]


def agrees(found: str, expected: str) -> bool:
    """Whether a verdict is what a case expects."""
    if expected.startswith(("REJECT:", "IGNORE:")):
        return found == expected
    if not found.startswith("ACCEPT"):
        return False
    wanted = set(filter(None, expected.partition(":")[2].split("+")))
    return wanted <= set(found.partition(":")[2].split("+"))
