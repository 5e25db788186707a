"""The page of `medvlp inspect`: verdicts, geometry, contact sheets; and the same as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from medvlp.archive.codes import explain
from medvlp.archive.examine import ACCEPT, Finding
from medvlp.archive.view import Curve
from medvlp.data.flags import name_of
from medvlp.outputs import write_text
from medvlp.report.canvas import PALETTE, canvas
from medvlp.report.page import render

_MOST_SHOWN = 200
_ACCEPTED = "It can be used."
_TONES = {"ACCEPT": "accept", "REJECT": "reject", "IGNORE": "ignore"}


def write_page(found: Sequence[Finding], page: Path, *, names: bool) -> None:
    """Write the page, self-contained; file names only if they are wanted."""
    shown = [f for f in found if f.view or f.record or not f.verdict.startswith("IGNORE")]
    # What needs attention comes first, then what can be seen.
    shown.sort(key=lambda f: (f.verdict == ACCEPT, not f.flags, f.view is None))
    parts = [_part(finding, i, names=names) for i, finding in enumerate(shown[:_MOST_SHOWN])]
    text = render(
        "inspection.html.j2", summary=_summary(found), parts=parts,
        left_out=len(found) - len(parts),
    )  # fmt: skip
    write_text(page, text)


def write_json(found: Sequence[Finding], file: Path, *, names: bool) -> None:
    """Write the findings as a list; file names only if they are wanted."""
    rows = [
        {
            "verdict": f.verdict,
            "message": f.message,
            "flags": list(f.flags),
            "domain": f.domain.name if f.domain else None,
            "source": f.source or None,
            "files": [str(path) for path in f.files] if names else len(f.files),
            "facts": dict(f.view.facts) if f.view else {},
            "record": dict(f.record),
        }
        for f in found
    ]
    write_text(file, json.dumps(rows, indent=1) + "\n")


def summary_table(found: Sequence[Finding], *, names: bool) -> Table:
    """For the terminal: verdicts and flags with their meaning; the files, if they are wanted."""
    table = Table(title="Inspected", box=None, title_justify="left")
    table.add_column("verdict or flag", no_wrap=True)
    table.add_column("n", justify="right")
    table.add_column("meaning")
    table.add_column("remedy", overflow="fold")
    for row in summary_rows(found):
        table.add_row(row["word"], f"{row['n']:,}", row["text"], row["remedy"])
    if names:
        table.add_section()
        for finding in found:
            for path in finding.files:
                table.add_row(finding.verdict, "", escape(str(path)), "")
    return table


def summary_rows(found: Sequence[Finding]) -> list[dict[str, Any]]:
    """How often each verdict and flag was given, with its meaning and remedy."""
    verdicts = Counter(f.verdict for f in found)
    told = (name_of(flag) for f in found if f.verdict == ACCEPT for flag in f.flags)
    flags = Counter(f"FLAG:{name}" for name in told)
    return [
        {
            "word": word,
            "n": n,
            "tone": _tone(word),
            "text": explain(word).text or _ACCEPTED,
            "remedy": explain(word).remedy,
        }
        for word, n in (*sorted(verdicts.items()), *sorted(flags.items()))
    ]


def _tone(verdict: str) -> str:
    return _TONES.get(verdict.partition(":")[0], "ignore")


def _summary(found: Sequence[Finding]) -> dict[str, Any]:
    tally = Counter(f.verdict.partition(":")[0] for f in found)
    return {
        "samples": tally[ACCEPT],
        "rejected": tally["REJECT"],
        "ignored": tally["IGNORE"],
        "rows": summary_rows(found),
    }


def _part(finding: Finding, index: int, *, names: bool) -> dict[str, Any]:
    view = finding.view
    title = finding.domain.title if finding.domain else "File"
    curves = view.curves if view else ()
    return {
        "id": f"part{index}",
        "title": f"{title}, {len(finding.files)} file{'s' if len(finding.files) != 1 else ''}",
        "verdict": finding.verdict,
        "tone": _tone(finding.verdict),
        "flags": finding.flags,
        "explained": finding.explained(),
        "message": finding.message,
        "facts": (*(view.facts if view else ()), *_measured(finding.record)),
        "pictures": view.pictures if view else (),
        "figures": [
            {"svg": _draw(curve, f"part{index}c{k}"), "caption": curve.caption}
            for k, curve in enumerate(curves)
        ],
        "trial": view is not None and finding.verdict != ACCEPT,
        "files": [str(path) for path in finding.files] if names else [],
        "record": json.dumps(dict(finding.record), indent=1) if finding.record else "",
    }


def _measured(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a series' quality record measured, in words."""
    found, volume = record.get("found") or {}, record.get("volume") or {}
    if record:
        yield "modality", str(record["modality"] or "unknown")
        yield "slices", f"{record['slices']}, {record['repeated']} more that repeat one"
    if volume:
        yield "slice distance", f"{volume['spacing_mm'][0]} mm"
    if found.get("gaps_mm"):
        low, high = min(found["gaps_mm"]), max(found["gaps_mm"])
        yield "distances found", f"{low} to {high} mm, usually {found['gap_mm']} mm"
    if found.get("missing"):
        yield "missing slices", ", ".join(map(str, found["missing"]))
    if found.get("tilt_deg"):
        yield "tilt", f"{found['tilt_deg']} degrees"
    values = record.get("values") or {}
    for name in ("air", "tissue"):
        if values.get(f"{name}_peak_hu") is not None:
            yield f"{name} peak", f"{values[f'{name}_peak_hu']:.0f} HU"


def _draw(curve: Curve, name: str) -> str:
    with canvas(name, 4.2, 2.4) as (figure, svg):
        axes = figure.subplots()
        axes.step(curve.x, curve.y, where="mid", color=PALETTE[0], lw=1.3)
        axes.fill_between(curve.x, curve.y, step="mid", color=PALETTE[0], alpha=0.2)
        axes.set_xlabel(curve.x_name)
        axes.set_ylabel(curve.y_name)
        axes.set_ylim(bottom=0)
    return svg[0]
