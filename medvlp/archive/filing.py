"""Where a source kind hands in its files and verdicts; `Intake` builds on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from medvlp.archive.books import Books
from medvlp.archive.options import IndexConfig
from medvlp.archive.privacy.pseudonyms import Pseudonyms
from medvlp.archive.privacy.withdrawals import CODE as WITHDRAWN
from medvlp.archive.privacy.withdrawals import Withdrawals
from medvlp.archive.spool import Spool
from medvlp.archive.stage.ledger import Ledger, State
from medvlp.archive.stage.reading import Item, Reading
from medvlp.archive.stage.results import stamp
from medvlp.archive.stage.run import read_items
from medvlp.archive.verdict import Ignore, Reject, Verdict
from medvlp.archive.walk import Entry, walk
from medvlp.data.paths import path_to_text
from medvlp.errors import ConfigError
from medvlp.progress import track

T = TypeVar("T")
R = TypeVar("R")


class Filing:
    """Counts every file under `root`, and gives each exactly one state.

    `cover` (and `Intake.accept`) make a file accepted, `reject` quarantined, `ignore` ignored; a
    file that the kind left alone is quarantined as ``unclaimed``.

    Args:
        root: The folder or file that is indexed; walked at once.
        config: The options.
        pseudonyms: The key's pseudonyms.
        skip: Folders under the root that are no part of the archive (an earlier manifest).
        ledger: Where states and readings are kept; by default nothing outlives the run.
        assemble: Called when all of a reading is done, before its results are handed out.
        withdrawn: Whose data are not taken in; their files are counted as ignored, and neither
            their paths nor what was read of them is kept.
    """

    def __init__(
        self,
        root: Path,
        config: IndexConfig,
        pseudonyms: Pseudonyms,
        skip: Sequence[Path] = (),
        ledger: Ledger | None = None,
        assemble: Callable[[], None] = lambda: None,
        withdrawn: Withdrawals | None = None,
    ) -> None:
        self.root = root
        self.withdrawn = withdrawn or Withdrawals(pseudonyms)
        self._gone: dict[Path, str] = {}
        """Files of patients who have withdrawn, as they are now."""

        self.config = config
        self.pseudonyms = pseudonyms
        self._ledger = Ledger() if ledger is None else ledger
        self.books = Books(self._ledger.spool)
        self._located: set[Path] = set()
        self._assemble = assemble
        self._closers: list[Callable[[], None]] = []
        found = walk(root, skip, follow_links=config.follow_links)
        for entry in track(found, "Looking for files"):
            self._enter(entry)

    @property
    def spool(self) -> Spool:
        """The run's temporary database, for what a kind must know of many files at once."""
        return self._ledger.spool

    def files(self) -> Iterator[Path]:
        """The files found under the root that have no state yet, in a fixed order."""
        return iter(self._ledger.listed())

    def find(self, path: Path) -> None:
        """Count a file that the source names but that does not lie under the root."""
        self._ledger.find(path)

    def reserve(self, path: Path) -> None:
        """Count a file and keep it out of `files`, for whoever will settle it at the end."""
        self._ledger.find(path)
        self._ledger.unlist(path)

    def expand(self, container: Path, members: Iterable[Path]) -> None:
        """Count an archive file's members (as ``container/member``) in its place."""
        self._ledger.drop(container)
        for member in members:
            self._ledger.find(member)

    def source(self, path: Path | Sequence[Path]) -> str:
        """Opaque id of a file or folder, or of several files in order."""
        paths = [path] if isinstance(path, Path) else list(path)
        texts = [path_to_text(p) for p in paths]
        name = self.pseudonyms.source("\x1f".join(texts))
        self.books.add_source(name, texts)
        return name

    def locate(self, path: Path) -> Path:
        """A file that the options name: as it stands, or inside the root.

        Raises:
            ConfigError: It is in neither place.
        """
        self._located.add(path)
        folder = self.root if self.root.is_dir() else self.root.parent
        for candidate in (folder / path, path):
            if candidate.exists():
                return candidate
        raise ConfigError(
            f"{path.name} is neither in the source folder nor where the command runs",
            remedy="give its path, absolute or relative to the source folder",
        )

    def cover(self, paths: Iterable[Path]) -> None:
        """Accept files that belong to a sample without being its pixels (reports, masks)."""
        for path in paths:
            if path not in self._gone:
                self._ledger.settle(path, State.ACCEPTED)

    def reject(self, path: Path, stage: str, code: str, message: str = "") -> None:
        """Quarantine a file."""
        if path not in self._gone and self._ledger.settle(path, State.QUARANTINED):
            self._refuse(self.source(path), stage, code, message)

    def ignore(self, path: Path, code: str) -> None:
        """Set a file aside that is none of ours."""
        if code == WITHDRAWN:
            self._hide(path)
        elif self._ledger.settle(path, State.IGNORED):
            self._refuse(self.source(path), "ignored", code, "")

    def reject_row(self, table: Path, row: int, code: str, message: str = "") -> None:
        """List a table's row that was refused; it is no file and counts as none.

        Args:
            table: The table's file.
            row: Its row, from 1, the header not counted.
            code: Why.
            message: No values from the row.
        """
        self._refuse(self.source(Path(f"{table}#{row}")), "row", code, message)

    def withdrawn_files(self) -> Iterator[Path]:
        """Files of patients who have withdrawn; what is made of them may name nobody."""
        return iter(self._gone)

    @contextmanager
    def judge(self, paths: Sequence[Path], stage: str) -> Iterator[None]:
        """Turn a `Reject` or `Ignore` raised in the block into the files' state."""
        try:
            yield
        except Reject as verdict:
            for path in self._ledger.open(paths):
                self.reject(path, stage, verdict.code, verdict.message)
        except Ignore as verdict:
            for path in self._ledger.open(paths):
                self.ignore(path, verdict.code)

    def read(
        self, reading: Reading[R], items: Iterable[Item], label: str
    ) -> Iterator[tuple[Item, R | Verdict]]:
        """Each item with its result or verdict, in order; only what is not known is read.

        Args:
            reading: How an item is read, in a process that can be killed.
            items: What is read: each item is the files that are read together.
            label: What the progress bar says; blank for none.
        """
        kept = self._ledger.spool.keep(items)
        wanted = kept
        if self.withdrawn.stones:
            wanted = self._ledger.spool.keep(item for item in kept if not self._buried(item))
        found = read_items(
            self._ledger,
            reading,
            wanted,
            workers=self.config.workers,
            label=label,
            engine=self.config.engine,
            refuse=self._of_withdrawn,
        )
        if wanted is kept:
            for one in found:
                self._assemble()
                yield one
            return
        yield from self._with_buried(kept, found)

    def tombstones(self) -> Withdrawals:
        """Those that the run was given, and those of the withdrawn files that it came across."""
        return self.withdrawn.with_files(self._gone)

    def at_finish(self, close: Callable[[], None]) -> None:
        """Call `close` when the kind is done, before unclaimed files are quarantined."""
        self._closers.append(close)

    def _settle_rest(self) -> None:
        for close in self._closers:
            close()
        for path in self._ledger.unsettled():
            self.reject(path, "walk", "unclaimed")

    def _with_buried(
        self, items: Iterable[Item], found: Iterator[tuple[Item, R | Verdict]]
    ) -> Iterator[tuple[Item, R | Verdict]]:
        """What was found of all items, in order; withdrawn ones were not read."""
        ahead = next(found, None)
        self._assemble()
        for item in items:
            if ahead is not None and ahead[0] == item:
                yield ahead
                ahead = next(found, None)
            else:
                for path in (file for place in item for file in _files(place)):
                    self._hide(path)
                yield item, Ignore(WITHDRAWN)

    def _buried(self, item: Item) -> bool:
        """Whether every file of an item is one that was withdrawn, and has not changed since."""
        files = [file for path in item for file in _files(path)]
        return bool(files) and all(f in self._gone or self.withdrawn.holds_file(f) for f in files)

    def _of_withdrawn(self, item: Item, text: str) -> Verdict | None:
        """Keep nothing that was read of a patient who has withdrawn."""
        if not self.withdrawn.stones:
            return None
        some, all_ = self.withdrawn.holds_reading(json.loads(text))
        if some:
            self._ledger.hide_reading(item)
        if not all_:
            return None
        for path in item:
            self._hide(path)
        return Ignore(WITHDRAWN)

    def _hide(self, path: Path) -> None:
        """Ignore a file of a patient who has withdrawn; its path is written nowhere."""
        if self._ledger.state(path) is None:
            self._ledger.settle(path, State.IGNORED)
            self._ledger.hide(path)
            self._gone[path] = stamp([path])
            name = self.pseudonyms.source(f"{WITHDRAWN}\x1f{path_to_text(path)}")
            self._refuse(name, "ignored", WITHDRAWN, "")

    def _enter(self, entry: Entry) -> None:
        self._ledger.find(entry.path, listed=True)
        if entry.path != self.root and self.withdrawn.holds_file(entry.path):
            self._hide(entry.path)
        elif entry.ignored:
            self.ignore(entry.path, entry.ignored)
        elif entry.rejected:
            self.reject(entry.path, "walk", entry.rejected)

    def _refuse(self, source: str, stage: str, code: str, message: str) -> None:
        row = {"source": source, "stage": stage, "code": code, "message": message}
        self.books.add("rejects", [row])


def _files(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
