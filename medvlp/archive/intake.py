"""The intake: where a source kind hands in files, samples, text, labels and verdicts."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from re import Pattern
from typing import Any, TypeVar

from medvlp.archive.ledger import Ledger, State
from medvlp.archive.options import IndexConfig, public_options
from medvlp.archive.pseudonyms import Pseudonyms, age_band
from medvlp.archive.scrub import REMOVED, identifier_pattern
from medvlp.archive.summary import Summary
from medvlp.archive.verdict import Ignore, Reject
from medvlp.archive.walk import walk
from medvlp.config import validate
from medvlp.data.manifest import path_to_text
from medvlp.data.splits import assign_splits, subsets
from medvlp.data.tables import LEVELS
from medvlp.data.text import Headings, load_headings, report_nodes, text_row
from medvlp.digest import digest_file
from medvlp.errors import ConfigError
from medvlp.progress import track

T = TypeVar("T")
R = TypeVar("R")
Row = dict[str, Any]

_SEX = {"m": "M", "male": "M", "f": "F", "female": "F", "o": "O", "other": "O"}


class Intake:
    """Collects one manifest's rows; it takes raw identifiers and keeps pseudonyms only.

    Every file found ends in one state: `accept` and `cover` make it accepted, `reject`
    quarantined, `ignore` ignored; a file that the kind left alone is quarantined as ``unclaimed``.

    Args:
        root: The folder or file that is indexed; walked at once.
        config: The options.
        pseudonyms: The key's pseudonyms.
        domain: The domain of the kind, if it belongs to one.
        skip: Folders under the root that are no part of the archive (an earlier manifest).
    """

    def __init__(
        self,
        root: Path,
        config: IndexConfig,
        pseudonyms: Pseudonyms,
        domain: str | None = None,
        skip: Sequence[Path] = (),
    ) -> None:
        self.root = root
        self.config = config
        self.pseudonyms = pseudonyms
        self.domain = domain or config.domain
        self.headings: Headings = load_headings(config.headings)
        self.notes: Counter[str] = Counter()
        """Counts worth knowing that are about no file: ``reports_unmatched``, ..."""

        self._ledger = Ledger()
        self._sources: dict[str, tuple[str, ...]] = {}
        self._rejects: list[Row] = []
        self._samples: dict[str, Row] = {}
        self._texts: list[Row] = []
        self._labels: dict[tuple[str, str], Row] = {}
        self._entities: list[Row] = []
        self._regions: list[Row] = []
        self._nodes: Counter[str] = Counter()
        self._known: dict[str, Pattern[str]] = {}
        self._closers: list[Callable[[], None]] = []
        self._options_read = False
        self._reserved: set[str] = set()
        self._found = list(track(self._walk(skip), "Looking for files"))

    # -- files ------------------------------------------------------------------------------

    def files(self) -> list[Path]:
        """The files found under the root that have no state yet, in a fixed order."""
        return [
            path
            for path in self._ledger.open(self._found)
            if path_to_text(path) not in self._reserved
        ]

    def find(self, path: Path) -> None:
        """Count a file that the source names but that does not lie under the root."""
        self._ledger.find(path)

    def reserve(self, path: Path) -> None:
        """Count a file and keep it out of `files`, for whoever will settle it at the end."""
        self._ledger.find(path)
        self._reserved.add(path_to_text(path))

    def expand(self, container: Path, members: Iterable[Path]) -> None:
        """Count an archive file's members (as ``container/member``) in its place."""
        self._ledger.drop(container)
        for member in members:
            self._ledger.find(member)

    def source(self, path: Path | Sequence[Path]) -> str:
        """Opaque id of a file or folder, or of several files in order."""
        paths = [path] if isinstance(path, Path) else list(path)
        texts = tuple(path_to_text(p) for p in paths)
        name = self.pseudonyms.source("\x1f".join(texts))
        self._sources[name] = texts
        return name

    def locate(self, path: Path) -> Path:
        """A file that the options name: as it stands, or inside the root.

        Raises:
            ConfigError: It is in neither place.
        """
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
            self._ledger.settle(path, State.ACCEPTED)

    def reject(self, path: Path, stage: str, code: str, message: str = "") -> None:
        """Quarantine a file."""
        if self._ledger.settle(path, State.QUARANTINED):
            self._refuse(self.source(path), stage, code, message)

    def ignore(self, path: Path, code: str) -> None:
        """Set a file aside that is none of ours."""
        if self._ledger.settle(path, State.IGNORED):
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

    def map(self, read: Callable[[T], R], items: Sequence[T], label: str) -> Iterator[tuple[T, R]]:
        """``(item, read(item))`` in order, `config.workers` read at a time, with a bar.

        `read` runs in threads; let it return a verdict rather than raise one.
        """
        with ThreadPoolExecutor(self.config.workers) as pool:
            try:
                yield from track(
                    zip(items, pool.map(read, items), strict=True), label, total=len(items)
                )
            finally:
                pool.shutdown(cancel_futures=True)

    def options(self, schema: type[R]) -> R:
        """The kind's own settings, checked.

        Raises:
            ConfigError: An unknown setting or a wrong type.
        """
        self._options_read = True
        checked: R = validate(schema, self.config.options, "options")
        return checked

    # -- samples ----------------------------------------------------------------------------

    def accept(
        self,
        paths: Sequence[Path],
        *,
        kind: str,
        patient: str | None,
        domain: str | None = None,
        study: str | None = None,
        series: str | None = None,
        identity: str | None = None,
        sha256: str | None = None,
        acquired: dt.date | str | None = None,
        age: str | float | None = None,
        sex: str | None = None,
        site: str | None = None,
        scanner: str | None = None,
        modality: str | None = None,
        view: str | None = None,
        laterality: str | None = None,
        shape: Sequence[int] | None = None,
        spacing_mm: Sequence[float] | None = None,
        fps: float | None = None,
        duration_s: float | None = None,
        reader: str | None = None,
        source_split: str | None = None,
        flags: Iterable[str] = (),
        identifiers: Iterable[str] = (),
    ) -> str:
        """Take in one sample from `paths`, and return its pseudonymous id.

        Args:
            paths: Its files, in order.
            kind: As in `tables.SAMPLES`.
            patient: Raw patient number; without one the study stands for the patient.
            domain: The domain, where neither kind nor options say it.
            study: Raw study identifier.
            series: Raw series identifier.
            identity: Raw identifier of the sample; by default the digest of its bytes.
            sha256: Digest of the bytes, if it is known already.
            acquired: Date, stored shifted.
            age: Years or DICOM's age string, stored as a band.
            sex: M, F, O or the words.
            site: Where, by default `config.site`.
            scanner: Maker and model.
            modality: Such as DX or CT.
            view: Such as PA.
            laterality: L, R or B.
            shape: In array order.
            spacing_mm: In array order.
            fps: Frames a second.
            duration_s: Seconds.
            reader: Which decoder reads it.
            source_split: The split's name in the source.
            flags: Remarks.
            identifiers: Further raw words that name the patient (parts of the name, accession
                number); where they stand in the sample's texts they are replaced.

        Raises:
            Reject: ``duplicate_sample``: the same sample was taken in before.
        """
        digest = sha256 or _digest(paths)
        key = identity or digest
        sample = self.pseudonyms.sample(key)
        if sample in self._samples:
            raise Reject("duplicate_sample")
        person = patient.strip() if patient else ""
        who = person or study or key
        self._samples[sample] = {
            "sample": sample,
            "domain": self._domain(domain),
            "patient": self.pseudonyms.patient(who),
            "study": self.pseudonyms.study(study or key),
            "series": self.pseudonyms.series(series) if series else None,
            "source": self.source(list(paths)),
            "sha256": digest,
            "kind": kind,
            "modality": modality,
            "view": view,
            "laterality": laterality,
            "shape": None if shape is None else [int(n) for n in shape],
            "spacing_mm": None if spacing_mm is None else [float(v) for v in spacing_mm],
            "fps": fps,
            "duration_s": duration_s,
            "reader": reader,
            "acquired": self.pseudonyms.date(who, acquired),
            "site": site or self.config.site,
            "scanner": scanner,
            "sex": _SEX.get(sex.strip().lower()) if sex else None,
            "age_band": age_band(age),
            "split": None,
            "source_split": source_split,
            "flags": sorted({*flags, *(() if person else ("no_patient_id",))}),
        }
        self.cover(paths)
        words = {person, study or "", series or "", identity or "", *identifiers}
        self._known[sample] = identifier_pattern(words)
        return sample

    def report(self, sample: str, text: str, source: str = "report") -> None:
        """A report's text as the tree report > section > sentence; blank text adds nothing."""
        rows = report_nodes(
            sample,
            self._clean(sample, text),
            source,
            headings=self.headings,
            first=self._nodes[sample],
        )
        self._nodes[sample] += len(rows)
        self._texts += rows

    def node(
        self,
        sample: str,
        *,
        level: str,
        text: str,
        source: str,
        parent: str | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
        order: int = 0,
        confidence: float | None = None,
    ) -> str:
        """One text node; returns its id, for its children's `parent`."""
        if level not in LEVELS:
            raise ValueError(f"level {level} is none of {', '.join(LEVELS)}")
        node = f"{sample}-{self._nodes[sample]}"
        self._nodes[sample] += 1
        row = text_row(
            sample, node, level, self._clean(sample, text), source=source, parent=parent,
            order=order, start_s=start_s, end_s=end_s, confidence=confidence,
        )  # fmt: skip
        self._texts.append(row)
        return node

    def label(self, sample: str, name: str, value: float | None, source: str) -> None:
        """A label: 1 present, 0 absent, -1 uncertain, None unknown; the last word on it holds."""
        if value not in (1, 0, -1, None):
            raise ValueError("a label is 1, 0, -1 or None")
        row = {"sample": sample, "name": name, "value": value, "source": source}
        self._labels[sample, name] = row

    def entity(
        self,
        sample: str,
        *,
        node: str | None,
        anatomy: str | None,
        observation: str | None,
        presence: float | None,
        laterality: str | None = None,
    ) -> None:
        """An anatomy and observation that a text node names."""
        row: Row = {"sample": sample, "node": node, "anatomy": anatomy, "observation": observation}
        self._entities.append({**row, "presence": presence, "laterality": laterality})

    def region(
        self,
        sample: str,
        *,
        name: str,
        kind: str,
        geometry: Sequence[float] | None = None,
        ref: str | None = None,
    ) -> None:
        """A box, interval or mask; `ref` is the mask's source id."""
        values = None if geometry is None else [float(v) for v in geometry]
        row = {"sample": sample, "name": name, "kind": kind, "geometry": values, "ref": ref}
        self._regions.append(row)

    # -- the end ----------------------------------------------------------------------------

    def at_finish(self, close: Callable[[], None]) -> None:
        """Call `close` when the kind is done, before unclaimed files are quarantined."""
        self._closers.append(close)

    def finish(self) -> tuple[dict[str, list[Row]], list[Row], dict[str, Any], Summary]:
        """Close the books: tables, sources, information for `manifest.json`, and the summary.

        Raises:
            ConfigError: Options were given to a kind that has none.
        """
        if self.config.options and not self._options_read:
            raise ConfigError("this kind takes no options", remedy="remove options from --set")
        for close in self._closers:
            close()
        for path in self._ledger.unsettled():
            self.reject(path, "walk", "unclaimed")
        samples = list(self._samples.values())
        self._flag_textless(samples)
        assignment = assign_splits(samples, self.config.split.policy, self.config.split.fractions)
        for row in samples:
            row["split"] = assignment.split[row["patient"]]
        labels = list(self._labels.values())
        tables = {
            "samples": samples,
            "texts": self._texts,
            "labels": labels,
            "entities": self._entities,
            "regions": self._regions,
            "rejects": self._rejects,
            "subsets": subsets(samples, labels),
        }
        counts = self._ledger.counts()
        info = {
            "counts": counts,
            "notes": dict(self.notes),
            "options": public_options(self.config),
            "split": {"policy": assignment.policy, "conflicts": assignment.conflicts},
        }
        sources = [
            {"source": source, "part": part, "path": path}
            for source, paths in self._sources.items()
            for part, path in enumerate(paths)
        ]
        return tables, sources, info, Summary.of(counts, samples, self._rejects)

    def _walk(self, skip: Sequence[Path]) -> Iterator[Path]:
        for entry in walk(self.root, skip):
            self._ledger.find(entry.path)
            if entry.ignored:
                self.ignore(entry.path, entry.ignored)
            elif entry.rejected:
                self.reject(entry.path, "walk", entry.rejected)
            else:
                yield entry.path

    def _refuse(self, source: str, stage: str, code: str, message: str) -> None:
        row = {"source": source, "stage": stage, "code": code, "message": message}
        self._rejects.append(row)

    def _domain(self, named: str | None) -> str:
        domain = named or self.domain
        if domain is None:
            raise ConfigError(
                "the samples' domain is not given", remedy="add --set domain=cxr or another one"
            )
        return domain

    def _clean(self, sample: str, text: str) -> str:
        return self._known[sample].sub(REMOVED, text)

    def _flag_textless(self, samples: Iterable[Row]) -> None:
        for row in samples:
            if not self._nodes[row["sample"]]:
                row["flags"] = sorted({*row["flags"], "no_text"})


def _digest(paths: Sequence[Path]) -> str:
    """SHA-256 of the bytes; of the files' digests in order where there are several."""
    try:
        digests = [digest_file(path) for path in paths]
    except OSError as error:
        raise Reject("unreadable") from error
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()
