"""The intake: where a source kind hands in files, samples, text, labels and verdicts."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from medvlp.archive.duplicates.find import found_copies, groups, write_copies
from medvlp.archive.filing import Filing
from medvlp.archive.measure import digest_files
from medvlp.archive.options import IndexConfig, public_options
from medvlp.archive.privacy.pseudonyms import Pseudonyms, age_band
from medvlp.archive.privacy.scrub import scrub
from medvlp.archive.privacy.withdrawals import Withdrawals
from medvlp.archive.spool import Rows
from medvlp.archive.stage.ledger import Ledger
from medvlp.archive.summary import Summary
from medvlp.archive.verdict import Ignore, Reject
from medvlp.config import validate
from medvlp.data.sections import Headings, load_headings
from medvlp.data.splits import assign_splits, subsets
from medvlp.data.tables import LEVELS, NO_PATIENT_ID, TEXT_ONLY
from medvlp.data.text import report_nodes, text_row
from medvlp.data.views import view_word
from medvlp.errors import ConfigError

R = TypeVar("R")
Row = dict[str, Any]

_SEX = {"m": "M", "male": "M", "f": "F", "female": "F", "o": "O", "other": "O"}


class Intake(Filing):
    """Collects one manifest's rows; it takes raw identifiers and keeps pseudonyms only.

    Args:
        root: The folder or file that is indexed; walked at once.
        config: The options.
        pseudonyms: The key's pseudonyms.
        domain: The domain of the kind, if it belongs to one.
        skip: Folders under the root that are no part of the archive (an earlier manifest).
        ledger: Where states and readings are kept; by default nothing outlives the run.
        assemble: Called when all of a reading is done, before its results are handed out.
        withdrawn: Whose data are not taken in.
    """

    def __init__(
        self,
        root: Path,
        config: IndexConfig,
        pseudonyms: Pseudonyms,
        domain: str | None = None,
        skip: Sequence[Path] = (),
        ledger: Ledger | None = None,
        assemble: Callable[[], None] = lambda: None,
        withdrawn: Withdrawals | None = None,
    ) -> None:
        super().__init__(root, config, pseudonyms, skip, ledger, assemble, withdrawn)
        self.domain = domain or config.domain
        self.headings: Headings = load_headings(config.headings)
        self.notes: Counter[str] = Counter()
        """Counts worth knowing that are about no file: ``reports_without_study``, ..."""

        self.remarks: dict[str, str] = {}
        """Words about the whole source for `manifest.json`, such as the digest of a selection; they
        name nobody."""

        self._root: dict[str, str] = {}
        """Pseudonym under the whole key -> under its oldest link, where the key was rotated."""

        self._scrubbed: Counter[str] = Counter()
        self._options_read = False

    def options(self, schema: type[R]) -> R:
        """The kind's own settings, checked.

        Raises:
            ConfigError: An unknown setting or a wrong type.
        """
        self._options_read = True
        checked: R = validate(schema, self.config.options, "options")
        return checked

    def accept(
        self,
        paths: Sequence[Path],
        *,
        kind: str,
        patient: str | None,
        domain: str | None = None,
        study: str | None = None,
        study_order: int | None = None,
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
        pixels_digest: str | None = None,
        fingerprint: str | None = None,
    ) -> str:
        """Take in one sample from `paths`, and return its pseudonymous id.

        Args:
            paths: Its files, in order.
            kind: As in `tables.SAMPLES`.
            patient: Raw patient number; without one the study stands for the patient.
            domain: The domain, where neither kind nor options say it.
            study: Raw study identifier.
            study_order: The study's place among its patient's, where the source counts them.
            series: Raw series identifier.
            identity: Raw identifier of the sample; by default the digest of its bytes.
            sha256: Digest of the bytes, if it is known already.
            acquired: Date, stored shifted.
            age: Years or DICOM's age string, stored as a band.
            sex: M, F, O or the words.
            site: Where, by default `config.site`.
            scanner: Maker and model.
            modality: Such as DX or CT.
            view: Such as PA; kept as the word of `medvlp.data.views` that it stands for, if any.
            laterality: L, R or B.
            shape: In array order.
            spacing_mm: In array order.
            fps: Frames a second.
            duration_s: Seconds.
            reader: Which decoder reads it.
            source_split: The split's name in the source.
            flags: Remarks.
            identifiers: Further raw words that name the patient (names as ``Family^Given``,
                numbers, dates, places); where they stand in the sample's texts they are replaced.
            pixels_digest: Equal where the decoded pixels are; by default `sha256`.
            fingerprint: Of `fingerprint.fingerprint`; blank where there is nothing to see, so that
                equal pixels mean nothing either.

        Raises:
            Reject: ``duplicate_sample``: the same sample was taken in before.
            Ignore: ``withdrawn``: the patient has withdrawn.
        """
        if not self.books.any_sample():
            self._refuse_unread_options()
        digest = sha256 or digest_files(paths)
        key = identity or digest
        sample = self.pseudonyms.sample(key)
        if self.books.has_sample(sample):
            raise Reject("duplicate_sample")
        person = patient.strip() if patient else ""
        who = person or study or key
        if self.withdrawn.holds(who):
            raise Ignore("withdrawn")
        if (root := self.pseudonyms.root(who)) != (name := self.pseudonyms.patient(who)):
            self._root[name] = root
        row = {
            "sample": sample,
            "domain": self._domain(domain),
            "patient": name,
            "study": self.pseudonyms.study(study or key),
            "study_order": study_order,
            "series": self.pseudonyms.series(series) if series else None,
            "source": self.source(list(paths)),
            "sha256": digest,
            "kind": kind,
            "modality": modality,
            "view": view_word(view) or view or None,
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
            "flags": sorted({*flags, *(() if person else (NO_PATIENT_ID,))}),
        }
        self.cover(paths)
        if fingerprint != "" and kind != TEXT_ONLY:
            self.books.add_print(sample, pixels_digest or digest, fingerprint or "")
        self.books.add_sample(row, [w for w in (person, study, series, *identifiers) if w])
        return sample

    def report(
        self, sample: str, text: str, source: str = "report", identifiers: Iterable[str] = ()
    ) -> None:
        """A report's text as the tree report > section > sentence; blank text adds nothing.

        Args:
            sample: Its sample.
            text: The words.
            source: Where they come from.
            identifiers: What the report's own header names; replaced, too, where it stands in it.
        """
        rows = report_nodes(
            sample,
            self._clean(sample, text, identifiers),
            source,
            headings=self.headings,
            first=self.books.nodes(sample),
        )
        self.books.add_nodes(sample, rows)

    def flag(self, sample: str, *flags: str) -> None:
        """Add remarks to a sample that was taken in."""
        for flag in flags:
            self.books.add_flag(sample, flag)

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
        node = f"{sample}-{self.books.nodes(sample)}"
        row = text_row(
            sample, node, level, self._clean(sample, text), source=source, parent=parent,
            order=order, start_s=start_s, end_s=end_s, confidence=confidence,
        )  # fmt: skip
        self.books.add_nodes(sample, [row])
        return node

    def label(self, sample: str, name: str, value: float | None, source: str) -> None:
        """A label: 1 present, 0 absent, -1 uncertain, None unknown; the last word on it holds."""
        if value not in (1, 0, -1, None):
            raise ValueError("a label is 1, 0, -1 or None")
        self.books.add_label(sample, name, value, source)

    def entity(
        self,
        sample: str,
        *,
        node: str | None,
        anatomy: str | None,
        observation: str | None,
        presence: float | None,
        laterality: str | None = None,
        severity: str | None = None,
        source: str,
    ) -> None:
        """An anatomy and observation that a text node, or a table, names."""
        row: Row = {"sample": sample, "node": node, "anatomy": anatomy, "observation": observation}
        row |= {"presence": presence, "laterality": laterality}
        row |= {"severity": severity, "source": source}
        self.books.add("entities", [row])

    def region(
        self,
        sample: str,
        *,
        name: str,
        kind: str,
        geometry: Sequence[float] | None = None,
        ref: str | None = None,
    ) -> None:
        """A box, interval or mask; `ref` is the mask's source id, or the text node of a box."""
        values = None if geometry is None else [float(v) for v in geometry]
        row = {"sample": sample, "name": name, "kind": kind, "geometry": values, "ref": ref}
        self.books.add("regions", [row])

    def record(self, series: str, values: Mapping[str, Any]) -> None:
        """Keep what was found of a series, taken in or refused, as a line of ``qc.jsonl``.

        Args:
            series: Its pseudonym, or the source id where it has none.
            values: JSON values that name nobody.
        """
        self.books.add_record({"series": series, **values})

    def finish(self) -> tuple[Mapping[str, Sequence[Row]], Rows[Row], dict[str, Any], Summary]:
        """Close the books: tables, sources, information for `manifest.json`, and the summary.

        Raises:
            ConfigError: Options were given to a kind that has none.
        """
        self._refuse_unread_options()
        self._settle_rest()
        self.books.flag_textless()
        split = self.config.split
        # The oldest link of the key decides, so that rotating the key moves nobody.
        people = self.books.patients().with_columns(pl.col("patient").replace(self._root))
        near = self.config.duplicates != "exact"
        copies = found_copies(self.books, people, near=near, workers=self.config.workers)
        linked = groups(copies, people) if self.config.duplicates == "group" else {}
        assignment = assign_splits(people, split.policy, split.fractions, linked)
        names = {root: name for name, root in self._root.items()}
        self.books.set_splits(assignment.split.with_columns(pl.col("patient").replace(names)))
        self.notes += write_copies(self.books, copies)
        people = self.books.patients().with_columns(pl.col("patient").replace(self._root))
        self.books.add("subsets", subsets(people, self.books.told_labels()))
        counts = self._ledger.counts()
        info = {
            "counts": counts,
            "notes": dict(self.notes),
            "remarks": dict(self.remarks),
            "scrubbed": dict(sorted(self._scrubbed.items())),
            "options": public_options(self.config),
            "split": {"policy": assignment.policy, "conflicts": assignment.conflicts},
        }
        tables = self.books.tables()
        summary = Summary.of(counts, tables["samples"], tables["rejects"], self.notes)
        return tables, self.books.sources(), info, summary

    def _refuse_unread_options(self) -> None:
        """What the kind did not ask for before its first sample, it would pass over in silence."""
        unread = [
            name
            for name in ("reports", "labels", "regions", "entities")
            if (path := getattr(self.config, name)) is not None and path not in self._located
        ]
        if self.config.options and not self._options_read:
            unread.append("options")
        if unread:
            raise ConfigError(
                f"this kind takes no {', '.join(unread)}",
                remedy="remove them from --set or --config",
            )

    def _domain(self, named: str | None) -> str:
        domain = named or self.domain
        if domain is None:
            raise ConfigError(
                "the samples' domain is not given", remedy="add --set domain=cxr or another one"
            )
        return domain

    def _clean(self, sample: str, text: str, own: Iterable[str] = ()) -> str:
        wanted = self.config.scrub
        known = {*self.books.known(sample), *own} if wanted != "patterns" else ()
        scrubbed = scrub(text, known, patterns=wanted != "header")
        self._scrubbed += scrubbed.counts
        return scrubbed.text
