"""Metrics again from predictions that were written before: the same bytes, or a reason why not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from medvlp.errors import InputError
from medvlp.evaluate.protocol import load_protocol
from medvlp.evaluate.record import METRICS, PREDICTED, STUDY, metrics_of
from medvlp.evaluate.run import told_lines
from medvlp.outputs import whole_file
from medvlp.progress import track

DIFFERENT = 5
"""Exit code of a check that found other metrics."""


def recompute(folder: Path, out: Path | None, *, check: bool) -> tuple[str, int]:
    """Compute the metrics of every evaluated protocol at or below `folder` from its files alone.

    Args:
        folder: A protocol's predictions folder, or a folder of such.
        out: Takes ``<protocol>/metrics.json``; by default they stand in the folders themselves.
        check: Only compare with the `metrics.json` that is there, and write nothing.

    Returns:
        Lines for the terminal, and the exit code: 0, or `DIFFERENT` if a check found a difference.

    Raises:
        InputError: There is no evaluated protocol, or a file was changed since.
    """
    found = list(_evaluated(folder))
    if not found:
        raise InputError(
            f"{folder.name}: no evaluated protocol in this folder (looked for {STUDY})",
            remedy="name the --out folder of medvlp evaluate",
        )
    lines, differing = [], 0
    for place in track(found, "metrics"):
        protocol = load_protocol(place / "protocol.yaml")
        rows, text = metrics_of(protocol, place)
        if check:
            same = _reads(place / METRICS) == text
            differing += not same
            lines.append(f"{protocol.name}: {METRICS} {'is the same' if same else 'differs'}")
        else:
            target = place if out is None else out / protocol.name
            with whole_file(target / METRICS) as file:
                file.write(text)
            lines.append(told_lines(protocol, rows, target, json.loads(text)["leaks"]))
    return "\n".join(lines), DIFFERENT if differing else 0


def _evaluated(folder: Path) -> Iterator[Path]:
    for study in sorted(folder.rglob(STUDY)) if folder.is_dir() else ():
        # A hidden folder is a run that is not finished; a suite's cells are joined beside them.
        inner = study.relative_to(folder).parts
        hidden = "cells" in inner or any(part.startswith(".") for part in inner)
        if not hidden and (study.parent / PREDICTED).is_file():
            yield study.parent


def _reads(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
