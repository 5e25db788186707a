"""`medvlp forget`: a patient's withdrawal, wherever it has to reach, and the proof of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from medvlp.archive.privacy.rewrite import Opened
from medvlp.archive.privacy.stored import StoredReadings
from medvlp.archive.privacy.withdraw import withdraw
from medvlp.archive.privacy.withdrawals import Withdrawals
from medvlp.data.whole_files import ENTRY
from medvlp.errors import InputError
from medvlp.plain_files import read_json
from medvlp.progress import track

_OLD_ENTRY = re.compile(r"[0-9a-f]{64}\.npy")
_ARRAYS = {".npy", ".b2nd", ".proxy"}
"""Files that hold numbers or pictures alone; their names are searched."""

_LARGEST_TEXT = 64 << 20


def forget(manifest: Path, people: Sequence[str], places: Sequence[Path]) -> str:
    """Take patients out of a manifest and of what was made from it.

    Each folder is changed whole or not at all; a command that was interrupted is repeated.

    Args:
        manifest: The manifest.
        people: The patients' raw numbers or their pseudonyms.
        places: Caches of arrays or proxies, indexes of `medvlp embed`, predictions folders and run
            folders.

    Returns:
        What was taken out of which, and which bundles cannot unlearn.

    Raises:
        InputError: No patient is named, a place is not there, or links in it lead out of all.
    """
    if not people:
        raise InputError("no patient is named", remedy="write one number or pseudonym a line")
    manifest = manifest.resolve()
    places = _checked(places)
    done = withdraw(manifest, people)
    told = ", ".join(f"{name} {n:,}" for name, n in sorted(done.rows.items()) if n)
    lines = [
        f"{manifest.name}: {done.found} of {done.patients} patients are known and withdrawn "
        f"({told or 'no row was theirs'})"
    ]
    if done.found < done.patients:
        lines.append(
            f"{done.patients - done.found} are not known here: see that their numbers are spelled "
            "as in the archive; imports to come will leave them out"
        )
    held = Opened.of(manifest).withdrawals
    for place in places:
        lines += _clean(place, held, done.old_digests)
    return "\n".join(lines)


def check_forgotten(manifest: Path, places: Sequence[Path]) -> str:
    """Search a manifest and what was made from it for everything that was withdrawn.

    Table cells, texts, names of files and the ledger are searched for each pseudonym and file
    digest that a tombstone fits; withdrawn.json itself names nobody.

    Raises:
        InputError: Something of a withdrawn patient is still there, or a place cannot be searched.
    """
    manifest = manifest.resolve()
    places = _checked(places)
    opened = Opened.of(manifest)
    searched = found = 0
    where: list[str] = []
    for place in (manifest, opened.manifest.private, *places):
        files = [path for path in sorted(place.rglob("*")) if path.is_file()]
        for file in track(files, "Searching", total=len(files)):
            names = set().union(*(opened.withdrawals.found_in(t) for t in _texts(file, place)))
            searched += 1
            found += len(names)
            where += [place.name] if names else []
    readings = StoredReadings(opened.manifest.private).held(opened.withdrawals)
    if found or readings:
        found, where = found + readings, where + [opened.manifest.private.name] * bool(readings)
        raise InputError(
            f"{found} withdrawn pseudonyms or digests stand in {len(where)} files of "
            f"{', '.join(sorted(set(where)))}",
            remedy="run medvlp forget again with these places",
        )
    stones = len(opened.withdrawals.stones)
    return f"{searched:,} files searched for {stones:,} withdrawn pseudonyms and digests: 0 found"


def _checked(places: Sequence[Path]) -> list[Path]:
    """The places themselves, where links to them were named.

    Raises:
        InputError: One is no folder, is a manifest, or holds links, behind which nothing is found.
    """
    found = [place.resolve() for place in places]
    for place in found:
        if not place.is_dir():
            raise InputError(f"{place.name} is no folder", remedy="name existing folders")
        if (place / "manifest.json").is_file():
            raise InputError(
                f"{place.name} is a manifest of its own", remedy="run medvlp forget on it by itself"
            )
        if away := [path for path in place.rglob("*") if _leads_away(path, found)]:
            raise InputError(
                f"{place.name} holds {len(away)} links to files, or to what would be missed",
                remedy="name the folders they lead to as well, or take the links away",
            )
    return found


def _leads_away(path: Path, places: Sequence[Path]) -> bool:
    """Whether a link leads out of all places, where nobody looks, or to another folder's file."""
    if not path.is_symlink():
        return False
    real = path.resolve()
    return real.is_file() or not any(real.is_relative_to(place) for place in places)


def _clean(place: Path, held: Withdrawals, digests: frozenset[str]) -> Iterator[str]:
    """Clean whatever lies in a place; a line on each folder that was changed or cannot be."""
    old = sum(bool(_OLD_ENTRY.fullmatch(path.name)) for path in place.rglob("*.npy"))
    if old:
        yield f"{place.name}: {old} entries of an older medvlp do not say whose they are: delete it"
    entries = [path for path in place.rglob("*") if ENTRY.match(path.name)]
    gone = [path for path in entries if held.holds_name(path.name[:64])]
    for path in gone:
        path.unlink()
    if entries:
        yield f"{place.name}: {len(gone)} of {len(entries)} cached arrays and proxies removed"
    for marker, clean in (("items.parquet", _clean_index), ("predictions.parquet", _clean_scores)):
        for file in sorted(place.rglob(marker)):
            yield _staged(file.parent, lambda folder, c=clean: c(folder, held))  # type: ignore[misc]
    for file in sorted(place.rglob("data.json")):
        if set(read_json(file).get("manifests", ())) & digests:
            yield (
                f"{file.parent.name}: trained on this manifest; a bundle cannot unlearn, so train "
                "it again or take it out of use if the patient was in the training split"
            )


def _staged(folder: Path, change: Callable[[Path], str]) -> str:
    """Change a copy of a folder, which then takes its place."""
    stage = folder.with_name(f".{folder.name}.next")
    old = folder.with_name(f".{folder.name}.old")
    for left in (stage, old):
        shutil.rmtree(left, ignore_errors=True)
    try:
        shutil.copytree(folder, stage, symlinks=True)
        line = change(stage)
        folder.rename(old)
        stage.rename(folder)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    descriptor = os.open(folder.parent, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    shutil.rmtree(old)
    return f"{folder.name}: {line}"


def _kept(frame: pl.DataFrame, held: Withdrawals) -> pl.Series:
    """Which rows name nobody who has withdrawn."""
    names = [n for n in ("sample", "source", "patient") if n in frame.columns]
    unique = {v for n in names for v in frame[n].unique().to_list() if v}
    gone = [value for value in unique if held.found_in(str(value))]
    mask = pl.Series([True] * frame.height, dtype=pl.Boolean)
    for name in names:
        mask &= ~frame[name].fill_null("").is_in(gone)
    return mask


def _clean_index(folder: Path, held: Withdrawals) -> str:
    items = pl.read_parquet(folder / "items.parquet")
    mask = _kept(items, held)
    kept = items.filter(mask)
    kept.with_columns(item=pl.int_range(kept.height, dtype=pl.Int64)).write_parquet(
        folder / "items.parquet"
    )
    for name in ("embeddings.npy", "slabs.npy"):
        if (folder / name).is_file():
            values = np.load(folder / name, allow_pickle=False)
            np.save(folder / name, values[mask.to_numpy()], allow_pickle=False)
    rejects = folder / "rejects.parquet"
    if rejects.is_file():
        refused = pl.read_parquet(rejects)
        refused.filter(_kept(refused, held)).write_parquet(rejects)
    info = read_json(folder / "index.json")
    text = json.dumps({**info, "items": kept.height}, indent=1)
    (folder / "index.json").write_text(text, encoding="utf-8")
    return f"{items.height - kept.height} of {items.height} embeddings removed"


def _clean_scores(folder: Path, held: Withdrawals) -> str:
    from medvlp.evaluate.protocol import load_protocol
    from medvlp.evaluate.record import METRICS, STUDY, metrics_of, write_study

    gone: Counter[str] = Counter()
    removed = pl.DataFrame()
    for file in sorted(folder.glob("*.parquet")):
        frame = pl.read_parquet(file)
        mask = _kept(frame, held)
        gone[file.name] = frame.height - int(mask.sum())
        removed = frame.filter(~mask) if file.name == "predictions.parquet" else removed
        _without_answers(frame.filter(mask), held).write_parquet(file)
    if not gone.total():
        return "no prediction was theirs"
    _clean_examples(folder / "examples", removed)
    for made in ("report.html", "report.json"):
        (folder / made).unlink(missing_ok=True)
    told = read_json(folder / STUDY) if (folder / STUDY).is_file() else None
    evaluated = (folder / METRICS).is_file()
    (folder / METRICS).unlink(missing_ok=True)
    if told is None:
        return f"{gone['predictions.parquet']} predictions removed"
    since = told["counts"].get("withdrawn_since", 0) + gone["predictions.parquet"]
    told["counts"]["withdrawn_since"] = since
    write_study(folder, told)
    if not evaluated:  # a cell of a suite, which has no metrics of its own
        return f"{gone['predictions.parquet']} predictions removed"
    _, text = metrics_of(load_protocol(folder / "protocol.yaml"), folder)
    (folder / METRICS).write_text(text, encoding="utf-8")
    return f"{gone['predictions.parquet']} predictions removed, metrics computed again"


def _without_answers(frame: pl.DataFrame, held: Withdrawals) -> pl.DataFrame:
    """The rows without those among a query's answers that name somebody who has withdrawn."""
    if "answers" not in frame.columns or frame.is_empty():
        return frame
    names = frame["answers"].explode().drop_nulls().unique().to_list()
    gone = [name for name in names if held.found_in(name)]
    kept = pl.col("answers").list.eval(pl.element().filter(~pl.element().is_in(gone)))
    return frame.with_columns(kept)


def _clean_examples(folder: Path, removed: pl.DataFrame) -> None:
    """Remove the pictures that were drawn for removed predictions."""
    if not (folder / "examples.json").is_file():
        return
    entries = read_json(folder / "examples.json")
    keys = {(r["model"], r["name"], r["score"]) for r in removed.iter_rows(named=True)}
    kept = [e for e in entries if (e["model"], e["name"], e["score"]) not in keys]
    for entry in entries:
        if entry not in kept:
            for name in ("picture", "overlay"):
                # The last part alone: the list of a changed folder may name files elsewhere.
                (folder / Path(entry[name]).name).unlink(missing_ok=True)
    (folder / "examples.json").write_text(json.dumps(kept, indent=1), encoding="utf-8")


def _texts(file: Path, place: Path) -> Iterator[str]:
    """All words of a file that may name somebody: its name, and cells or bytes."""
    yield str(file.relative_to(place))
    if file.suffix == ".parquet":
        frame = pl.read_parquet(file)
        for name, kind in frame.schema.items():
            cells = frame[name].explode() if kind == pl.List(pl.String) else frame[name]
            if cells.dtype == pl.String:
                yield "\n".join(value for value in cells.unique().to_list() if value)
    elif file.suffix == ".sqlite":
        yield from _rows(file)
        yield file.read_bytes().decode("latin-1")
    elif file.name != "withdrawn.json" and file.suffix not in _ARRAYS:
        with file.open("rb") as stream:
            yield stream.read(_LARGEST_TEXT).decode("latin-1")


def _rows(file: Path) -> Iterator[str]:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
        for item, result in db.execute("SELECT item, result FROM readings"):
            yield item
            if result is not None:
                yield zlib.decompress(result).decode("utf-8", "surrogatepass")


def read_people(file: Path | None, stream: Any) -> list[str]:
    """Patients' numbers or pseudonyms, one a line, from a file or from standard input.

    Never from the command line, where every user of the machine could read them.

    Raises:
        InputError: The file is not there, or is no UTF-8 text.
    """
    try:
        text = stream.read() if file is None else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            "the list of patients cannot be read as UTF-8 text",
            remedy="name a text file with one number or pseudonym a line",
        ) from error
    # Spreadsheets begin their text with a mark of the byte order, which is no part of a number.
    lines = text.removeprefix("\ufeff").splitlines()
    return [line.strip() for line in lines if line.strip()]
