"""`medvlp zeroshot`: files of any kind against prompts, streamed."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from medvlp.data.prompts import PromptSet, load_prompts, prompts_from_labels
from medvlp.errors import InputError
from medvlp.evaluate.files import BATCH, as_given, find_sources, open_bundle, refused
from medvlp.models.bundle import Bundle
from medvlp.models.inputs import Source
from medvlp.outputs import whole_file
from medvlp.progress import track

NOTHING_READ = 4
"""Exit code where not one input could be read."""

SHOWN_ROWS = 10
SHOWN_LABELS = 6


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The prompt set that is scored, and which of its labels are shown."""

    prompts: PromptSet
    names: tuple[str, ...]

    @property
    def columns(self) -> list[int]:
        """Where `names` stand among the prompt set's labels."""
        return [self.prompts.names.index(name) for name in self.names]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One sample's result."""

    number: int
    """Counts from 1; heatmaps are named by it."""

    place: str
    """The sample's file or folder; see `as_given`."""

    source: Source
    code: str = ""
    """Why it could not be read; empty if it was."""

    probability_L: NDArray[np.float32] | None = None
    logit_L: NDArray[np.float32] | None = None
    present: tuple[bool | None, ...] = ()
    """By the bundle's thresholds; None where it has none."""


def zeroshot_files(
    bundle: Path,
    inputs: Sequence[Path],
    *,
    prompts: Path | None,
    labels: str | None,
    csv: Path | None,
    json_file: Path | None,
    heatmaps: Path | None,
    console: Console,
) -> int:
    """Score every sample in `inputs`; one that cannot be read is listed with its reason code.

    Args:
        bundle: The bundle's folder.
        inputs: Files and folders of the bundle's domain.
        prompts: A prompt file; by default the bundle's own prompts.
        labels: Comma-separated labels among the bundle's own (any words, if it has none).
        csv: File for one line a sample: probabilities by label.
        json_file: File for one JSON object a line: probabilities, logits, decisions.
        heatmaps: Folder for what `write_heatmaps` writes per sample and label.
        console: Takes the first rows and the counts.

    Returns:
        0 if at least one sample was read, else 4.

    Raises:
        BundleError: The bundle is damaged.
        ConfigError: The prompt file is empty or wrong.
        InputError: An input does not exist, a label is unknown, or there are no prompts.
    """
    model = open_bundle(bundle)
    asked = choose_prompts(model.prompts, prompts, labels)
    sources = find_sources(inputs, model.info.domain)
    places = as_given(sources, inputs)
    first: list[Row] = []
    bad: list[Row] = []
    with ExitStack() as stack:
        sinks = _sinks(stack, asked.names, csv, json_file)
        rows = score_sources(model, asked, sources, places)
        for row in track(rows, "scoring", total=len(sources)):
            for sink in sinks:
                sink.write(row)
            if heatmaps is not None and not row.code:
                write_heatmaps(model, asked, row, heatmaps)
            first += [row] if len(first) < SHOWN_ROWS else []
            bad += [row] if row.code else []
    _show(console, asked, first, bad, len(sources))
    return 0 if len(bad) < len(sources) else NOTHING_READ


def choose_prompts(own: PromptSet | None, file: Path | None, labels: str | None) -> Asked:
    """What the user asks for, from a prompt file, label names, or the bundle's own prompts.

    Labels pick from the bundle's own prompt set, whose calibration then still holds.

    Raises:
        ConfigError: The prompt file is empty or wrong.
        InputError: Both are given, a label is unknown, or there are no prompts at all.
    """
    if file is not None and labels is not None:
        raise InputError("--prompts and --labels are both given", remedy="give one of them")
    if file is not None:
        own = load_prompts(file)
    elif labels is not None:
        wanted = [label.strip() for label in labels.split(",")]
        if own is None:
            own = prompts_from_labels(wanted)
        return Asked(prompts=own, names=_matched(wanted, own.names))
    if own is None:
        raise InputError("the bundle brings no prompts", remedy="give --labels or --prompts FILE")
    return Asked(prompts=own, names=own.names)


def _matched(wanted: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    by_key = {_key(name): name for name in known}
    unknown = [label for label in wanted if _key(label) not in by_key]
    if unknown:
        raise InputError(
            f"label {unknown[0]!r} is none of the bundle's",
            remedy=f"choose from {', '.join(known)}; or write a --prompts file",
        )
    return tuple(dict.fromkeys(by_key[_key(label)] for label in wanted))


def _key(label: str) -> str:
    return " ".join(label.casefold().replace("_", " ").split())


def score_sources(
    model: Bundle, asked: Asked, sources: Sequence[Source], places: Sequence[str]
) -> Iterator[Row]:
    """One row a sample, in order; only a batch of samples is in memory at a time."""
    columns = asked.columns
    embedded = model.iter_embed([source.paths for source in sources], BATCH)
    for i, (source, place, one) in enumerate(zip(sources, places, embedded, strict=True)):
        if one.embedding_E is None:
            yield Row(number=i + 1, place=place, source=source, code=one.code or "unreadable")
            continue
        scores = model.score(one.embedding_E[None], asked.prompts)
        probability_L = scores.probability_NL[0, columns]
        limits = np.full(len(columns), np.nan)
        if scores.thresholds_L is not None:
            limits = scores.thresholds_L[columns]
        yield Row(
            number=i + 1,
            place=place,
            source=source,
            probability_L=probability_L,
            logit_L=scores.logits_NL[0, columns],
            present=tuple(
                None if np.isnan(limit) else bool(p >= limit)
                for p, limit in zip(probability_L, limits, strict=True)
            ),
        )


class _CsvSink:
    def __init__(self, file: Any, names: Sequence[str]) -> None:
        self.writer = csv.writer(file)
        self.width = len(names)
        self.writer.writerow(["row", "input", "status", *names])

    def write(self, row: Row) -> None:
        values = [""] * self.width
        if row.probability_L is not None:
            values = [f"{p:.6f}" for p in row.probability_L]
        self.writer.writerow([row.number, row.place, row.code or "read", *values])


class _JsonSink:
    def __init__(self, file: Any, names: Sequence[str]) -> None:
        self.file = file
        self.names = names

    def write(self, row: Row) -> None:
        record: dict[str, Any] = {
            "row": row.number,
            "input": row.place,
            "status": row.code or "read",
        }
        if row.probability_L is not None and row.logit_L is not None:
            record["probability"] = dict(zip(self.names, row.probability_L.tolist(), strict=True))
            record["logit"] = dict(zip(self.names, row.logit_L.tolist(), strict=True))
            record["present"] = dict(zip(self.names, row.present, strict=True))
        self.file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _sinks(
    stack: ExitStack, names: Sequence[str], csv_file: Path | None, json_file: Path | None
) -> list[_CsvSink | _JsonSink]:
    sinks: list[_CsvSink | _JsonSink] = []
    if csv_file is not None:
        sinks.append(_CsvSink(stack.enter_context(whole_file(csv_file)), names))
    if json_file is not None:
        sinks.append(_JsonSink(stack.enter_context(whole_file(json_file)), names))
    return sinks


def write_heatmaps(model: Bundle, asked: Asked, row: Row, folder: Path) -> None:
    """The place of each label's first positive prompt, in files named by the row's number.

    An overlay (``.png``) each and, of volumes that lie in a patient, the map on the volume's own
    voxels (``.nii.gz``) and a sheet of the slices that matter (``-montage.png``).
    """
    texts = [asked.prompts.labels[name].positive[0] for name in asked.names]
    for i, heatmap in enumerate(model.heatmaps(row.source.paths, texts)):
        stem = f"{row.number:05d}-{i + 1:02d}-{_file_word(asked.names[i])}"
        heatmap.save_overlay(folder / f"{stem}.png")
        if heatmap.underlay is not None:
            heatmap.save_nifti(folder / f"{stem}.nii.gz")
            heatmap.save_montage(folder / f"{stem}-montage.png")


def _file_word(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())[:40]


def _show(
    console: Console, asked: Asked, first: Sequence[Row], bad: Sequence[Row], total: int
) -> None:
    names = asked.names[:SHOWN_LABELS]
    table = Table("row", Column("input", overflow="fold"), *map(escape, names))
    for row in first:
        cells = [escape(row.code)] if row.probability_L is None else []
        cells += [_cell(row, i) for i in range(len(names) if not cells else 0)]
        table.add_row(str(row.number), escape(row.place), *cells)
    console.print(table)
    if any(flag is not None for row in first for flag in row.present):
        console.print("* above the threshold that was fitted on validation data")
    more = [f"{total - len(first)} more rows"] if total > len(first) else []
    more += [f"{hidden} more labels"] if (hidden := len(asked.names) - len(names)) > 0 else []
    if more:
        console.print(f"not shown: {', '.join(more)} (see --csv, --json)")
    console.print(f"read {total - len(bad)} of {total}")
    if bad:
        console.print(f"refused {len(bad)}: {escape(refused(row.code for row in bad))}")
    for row in bad[:SHOWN_ROWS]:
        console.print(f"  row {row.number}: {escape(row.code)}", soft_wrap=True)


def _cell(row: Row, i: int) -> str:
    assert row.probability_L is not None
    return f"{row.probability_L[i]:.3f}{'*' if row.present[i] else ''}"
