"""`medvlp inspect`: what indexing says of files, sample by sample, and what is seen in them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medvlp.archive.codes import explain
from medvlp.archive.index import index_archive
from medvlp.archive.series.policy import INTERPOLATED, RESAMPLED
from medvlp.archive.series.qc import Described
from medvlp.archive.stage.child import Children
from medvlp.archive.stage.reading import Item, Reading
from medvlp.archive.verdict import Verdict
from medvlp.archive.view import View
from medvlp.archive.walk import walk
from medvlp.data.manifest import QUALITY, Manifest
from medvlp.data.paths import absolute
from medvlp.data.seal import INFO
from medvlp.domain import Domain, Ref, domains, get_domain
from medvlp.errors import InputError
from medvlp.progress import track

ACCEPT = "ACCEPT"
_DESCRIBE = Ref("medvlp.archive.series.qc:describe_series")
_OTHER = "IGNORE:other_modality"
_WORKERS = 2
_TRIALS = {"REJECT:spacing_gap": (INTERPOLATED,), "REJECT:gantry_tilt": (RESAMPLED,)}
"""Refused series that can be shown as they would be if they were repaired."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What indexing says of one sample, or of one file that makes none."""

    files: Item
    verdict: str
    """``ACCEPT``, ``REJECT:code`` or ``IGNORE:code``."""

    message: str = ""
    flags: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    """A series' quality record."""

    source: str = ""
    """The opaque id of its files, where they stand in a manifest."""

    domain: Domain | None = None
    view: View | None = None

    def explained(self) -> list[tuple[str, str, str]]:
        """(verdict or flag, meaning, remedy) of the verdict and of every flag."""
        words = [f"FLAG:{flag}" for flag in self.flags]
        if self.verdict != ACCEPT:
            words.insert(0, self.verdict)
        known = [(word, explain(word)) for word in words]
        return [(word, meaning.text, meaning.remedy) for word, meaning in known]


def examine(
    path: Path, *, source: str | None = None, settings: Sequence[str] = (), views: int = 12
) -> list[Finding]:
    """Examine a file, a folder, or what a manifest was made from.

    Args:
        path: A file or folder as the hospital has it, or a manifest.
        source: Only this source id of the manifest.
        settings: Options of `medvlp index --kind dicom`, such as ``options.missing=split``.
        views: Samples to make pictures of, at most.

    Raises:
        InputError: There is no such path, or nothing in it.
    """
    path = absolute(path)  # as all paths are that readings bring back
    if not path.exists():
        raise InputError("no such file or folder", remedy="correct the path")
    if (path / INFO).is_file():
        found = findings_of(Manifest.open(path), source)
    elif source is not None:
        raise InputError("a source id needs its manifest", remedy="give the manifest as PATH")
    else:
        found = _of_files(path, settings)
    if not found:
        raise InputError("nothing is there to inspect", remedy="name a folder that holds files")
    return _with_views(found, views)


def findings_of(manifest: Manifest, source: str | None = None) -> list[Finding]:
    """What a manifest says of its samples, then of what was quarantined or ignored.

    Raises:
        InputError: The manifest does not know `source`.
    """
    records = _records(manifest)
    found = [_accepted(manifest, row, records) for row in manifest.samples.iter_rows(named=True)]
    series = [_refused_series(manifest, r) for r in records.values() if not r["sample"]]
    told = {path for finding in series for path in finding.files}
    files = (
        _refused_file(manifest, row)
        for row in manifest.rejects.iter_rows(named=True)
        if row["stage"] != "row"
    )
    found += series + [finding for finding in files if not told.issuperset(finding.files)]
    if source is not None:
        found = [finding for finding in found if finding.source == source]
        if not found:
            raise InputError(
                f"{manifest.path.name} has no source {source[:40]}",
                remedy="take an id from the column source of its samples or rejects",
            )
    return found


def _records(manifest: Manifest) -> dict[str, Mapping[str, Any]]:
    """Quality records by their sample or, where a series was refused, by its source."""
    file = manifest.path / QUALITY
    if not file.is_file():
        return {}
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {record["sample"] or record["source"]: record for record in records}


def _accepted(
    manifest: Manifest, row: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]
) -> Finding:
    return Finding(
        files=manifest.paths(row["source"]),
        verdict=ACCEPT,
        flags=tuple(row["flags"]),
        record=records.get(row["sample"], {}),
        source=row["source"],
        domain=get_domain(row["domain"]),
    )


def _refused_series(manifest: Manifest, record: Mapping[str, Any]) -> Finding:
    reader = next((d for d in domains().values() if record["modality"] in d.modalities), None)
    return Finding(
        files=manifest.paths(record["source"]),
        verdict=record["verdict"],
        message=record["message"],
        flags=tuple(record["flags"]),
        record=record,
        source=record["source"],
        domain=reader,
    )


def _refused_file(manifest: Manifest, row: Mapping[str, Any]) -> Finding:
    word = "IGNORE" if row["stage"] == "ignored" else "REJECT"
    return Finding(
        files=manifest.paths(row["source"]),
        verdict=f"{word}:{row['code']}",
        message=row["message"] or "",
        source=row["source"],
    )


def _of_files(path: Path, settings: Sequence[str]) -> list[Finding]:
    """Each file by its ending: its domain's own reader, or the reader of DICOM trees."""
    owned = {entry.path: d for entry in walk(path) if (d := _owner(entry.path)) is not None}
    found = list(_look([Finding(files=(f,), verdict=ACCEPT, domain=d) for f, d in owned.items()]))
    if path in owned:
        return found
    with tempfile.TemporaryDirectory(prefix="medvlp-inspect-") as folder:
        out = Path(folder) / "manifest"
        # Of a single file everything is wanted, also whether two decoders agree.
        first = ("options.cross_check=1",) if path.is_file() else ()
        index_archive(path, kind="dicom", out=out, overrides=[*first, *settings], allow_empty=True)
        listed = findings_of(Manifest.open(out))
    listed = [_bare(f) for f in listed if not set(f.files) & owned.keys()]
    others = [f for f in listed if f.verdict == _OTHER]
    rest = [f for f in listed if f.verdict != _OTHER]
    return found + rest + _with_geometry(others)


def _bare(finding: Finding) -> Finding:
    """Without what a look at files alone cannot know: ids that last, reports."""
    flags = tuple(flag for flag in finding.flags if flag != "no_text")
    return replace(finding, source="", flags=flags)


def _with_geometry(files: Sequence[Finding]) -> list[Finding]:
    """Files of a modality that no domain reads, as series with their geometry."""
    paths = tuple(sorted(path for finding in files for path in finding.files))
    if not paths:
        return []
    reading = Reading(
        read=Ref("medvlp.archive.series.qc:describe_series"), result=Described, version=1
    )
    with Children(1) as child:
        ((_, answer),) = child.run(reading, [paths])
    if isinstance(answer, Verdict):
        return list(files)
    return [
        Finding(
            files=tuple(paths[i] for i in places),
            verdict=_OTHER,
            message=str(record["message"]),
            flags=tuple(record["flags"]),
            record=record,
        )
        for places, record in answer.series
    ]


def _owner(path: Path) -> Domain | None:
    name = path.name.lower()
    return next((d for d in domains().values() if d.suffixes and name.endswith(d.suffixes)), None)


def _with_views(found: Sequence[Finding], most: int) -> list[Finding]:
    """The findings; the first `most` of those with something to see have their views."""
    shown = [f for f in found if f.verdict == ACCEPT or f.verdict in _TRIALS][:most]
    seen = {f.files: f for f in _look([f for f in shown if f.view is None])}
    kept = {f.files for f in shown}
    return [seen.get(f.files, f if f.files in kept else replace(f, view=None)) for f in found]


def _look(found: Sequence[Finding]) -> Iterator[Finding]:
    """Each finding with its view, or with the verdict that reading its files came to."""
    groups: dict[tuple[str, tuple[str, ...]], dict[Item, Finding]] = {}
    for finding in found:
        if finding.domain is not None and finding.domain.view is not None:
            flags = (*finding.flags, *_TRIALS.get(finding.verdict, ()))
            groups.setdefault((finding.domain.name, flags), {})[finding.files] = finding
    with Children(_WORKERS) as children:
        for (name, flags), members in groups.items():
            view = get_domain(name).view
            assert view is not None
            reading = Reading(read=view, result=View, version=1, settings={"flags": list(flags)})
            answers = children.run(reading, list(members))
            for files, answer in track(answers, "Making pictures", total=len(members)):
                yield _seen(members[files], answer)


def _seen(finding: Finding, answer: View | Verdict) -> Finding:
    if isinstance(answer, View):
        flags = tuple(dict.fromkeys((*finding.flags, *answer.flags)))
        return replace(finding, view=answer, flags=finding.flags if finding.record else flags)
    if finding.verdict != ACCEPT:
        return finding
    return replace(finding, verdict=str(answer), message=answer.message)
