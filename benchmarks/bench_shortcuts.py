"""Planted shortcuts: which of them the audit finds, and how often it cries wolf on clean phantoms.

python benchmarks/bench_shortcuts.py --seeds 60 --out benchmarks/results/DATE-shortcuts.md

The label of a cohort is a finding that the phantom draws (a nodule, X-ray and CT), or a coin
(video). A planted shortcut stands with 90 % of the positives and 10 % of the negatives, in training
and in test. `tests/integration/test_shortcuts.py` runs a part of it.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from scipy.stats import beta

from medvlp.cxr import phantom as cxr
from medvlp.cxr import phantom_findings as cxr_findings
from medvlp.evaluate.shortcuts.audit import Cohort, Shortcut, audit
from medvlp_video.phantom_scene import TISSUES, draw_canvas
from medvlp_volumetric import phantom as ct
from medvlp_volumetric import phantom_findings as ct_findings

View = NDArray[Any]
Rng = np.random.Generator
SIZE = 96
STRENGTH = 0.9
"""The share of positives, and of negatives, that a shortcut gets right."""

TEXTS = ("Cough.", "Fever and cough.", "Chest pain.", "Follow up.", "Shortness of breath, cough.")


class Sample(NamedTuple):
    """One sample, as a plant may change it."""

    view: View
    facts: dict[str, Any]
    words: str


Plant = Callable[[Sample, bool, Rng], Sample]
"""(sample, whether it carries the mark, draws) -> the sample with its share of the shortcut."""


def clean(domain: str, label: bool, rng: Rng) -> Sample:
    """A sample without shortcut: facts are drawn apart from the label."""
    view = {"cxr": _xray, "ct": _volume, "video": _clip}[domain](label, rng)
    facts = {
        "sex": str(rng.choice(["F", "M"])),
        "age_band": f"{10 * rng.integers(3, 9)}s",
        "view": str(rng.choice(["AP", "PA"])),
        "site": str(rng.choice(["A", "B", "C"])),
        "scanner": str(rng.choice(["one", "two", "three"])),
        "rows": int(rng.integers(900, 1100)),
        "columns": int(rng.integers(900, 1100)),
        "fps": float(rng.choice([25.0, 30.0])),
    }
    return Sample(view, facts, str(rng.choice(TEXTS)))


def _drawn(draw: Callable[[Rng], list[Any]], name: str, label: bool, rng: Rng) -> list[Any]:
    """Other findings as they come, whatever the label is, and the finding itself for positives.

    Drawn until it happens to be among them, positives would never be normal studies.
    """
    others = _until(draw, name, False, rng)
    own = [finding for finding in _until(draw, name, True, rng) if finding.name == name]
    return [*others, *own] if label else others


def _until(draw: Callable[[Rng], list[Any]], name: str, there: bool, rng: Rng) -> list[Any]:
    while True:
        findings = draw(rng)
        if any(finding.name == name for finding in findings) == there:
            return findings


def _xray(label: bool, rng: Rng) -> View:
    findings = _drawn(cxr_findings.draw_findings, "nodule", label, rng)
    canvas, _ = cxr.paint(findings, SIZE, rng)
    return np.asarray(cxr.expose(canvas, rng) / 16.0)


def _volume(label: bool, rng: Rng) -> View:
    """Slices in HU; liver lesions and other findings are drawn whatever the label is."""
    findings = _drawn(ct_findings.draw_findings, "lung_nodule", label, rng)
    return np.asarray(ct.acquire(ct.paint(findings, 16, 64, rng), rng), dtype=np.float32)


def _clip(label: bool, rng: Rng) -> View:
    """Eight moments of a camera that wanders over tissue while the light fades a little."""
    phase = str(rng.choice(sorted(TISSUES)))
    luma = draw_canvas(rng, phase, SIZE, rng.uniform(0.9, 1.1, 3))[0].astype(np.float32)
    play = luma.shape[0] - SIZE
    path = np.clip(np.cumsum(rng.normal(0, 2, (8, 2)), axis=0) + play / 2, 0, play).astype(int)
    fade = 1 - 0.02 * np.arange(8)
    return np.stack(
        [fade[i] * luma[y : y + SIZE, x : x + SIZE] for i, (y, x) in enumerate(path)]
    ) + rng.normal(0, 1, (8, SIZE, SIZE))


def picture(change: Callable[[View, bool, Rng], View]) -> Plant:
    """A plant that changes the view alone."""
    return lambda sample, marked, rng: sample._replace(view=change(sample.view, marked, rng))


def fact(name: str, present: Any, absent: Any) -> Plant:
    """A plant that sets a fact."""
    return lambda sample, marked, rng: sample._replace(
        facts=sample.facts | {name: present if marked else absent}
    )


def corner_marker(view: View, marked: bool, rng: Rng) -> View:
    """A lead square in the upper right corner."""
    view = view.copy()
    if marked:
        view[4:9, -9:-4] = view.max()
    return view


def _letter(view: View, letter: str, at: tuple[int, int]) -> View:
    shown = Image.fromarray(np.zeros(view.shape, np.uint8))
    ImageDraw.Draw(shown).text(at, letter, fill=255)
    return np.where(np.asarray(shown) > 100, view.max(), view)


def burned_in_text(view: View, marked: bool, rng: Rng) -> View:
    """The letter P, for portable."""
    return _letter(view, "P", (6, SIZE - 16)) if marked else view


def laterality_marker(view: View, marked: bool, rng: Rng) -> View:
    """The letter L or R at one place."""
    return _letter(view, "L" if marked else "R", (6, 3))


def frame_width(view: View, marked: bool, rng: Rng) -> View:
    """A black frame, two or four pixels wide."""
    width = 4 if marked else 2
    framed = np.zeros_like(view)
    framed[width:-width, width:-width] = view[width:-width, width:-width]
    return framed


def site_border(view: View, marked: bool, rng: Rng) -> View:
    """A grey strip at the foot, as one site's digitiser leaves it."""
    view = view.copy()
    if marked:
        view[-4:] = 0.6 * view.mean()
    return view


def brightness(view: View, marked: bool, rng: Rng) -> View:
    """A tenth of the range brighter."""
    return view + (0.15 * np.ptp(view) if marked else 0)


def contrast(view: View, marked: bool, rng: Rng) -> View:
    """A third of the contrast lost."""
    return view.mean() + (0.65 if marked else 1) * (view - view.mean())


def noise(view: View, marked: bool, rng: Rng) -> View:
    """More grain."""
    return view + rng.normal(0, 0.03 * np.ptp(view) if marked else 1e-6, view.shape)


def jpeg(view: View, marked: bool, rng: Rng) -> View:
    """JPEG of quality 40 or 95."""
    low, high = view.min(), view.max()
    stream = io.BytesIO()
    grey = (255 * (view - low) / (high - low)).astype(np.uint8)
    Image.fromarray(grey).save(stream, "JPEG", quality=40 if marked else 95)
    return low + np.asarray(Image.open(stream)) / 255.0 * (high - low)


def smooth(view: View, marked: bool, rng: Rng) -> View:
    """A smoother reconstruction."""
    return np.asarray(gaussian_filter(view, 0.8)) if marked else view


def stripe(view: View, marked: bool, rng: Rng) -> View:
    """A dead line of the detector, anywhere."""
    view = view.copy()
    if marked:
        view[int(rng.integers(20, SIZE - 20))] += 0.12 * np.ptp(view)
    return view


def reversed_time(view: View, marked: bool, rng: Rng) -> View:
    """The last moment first."""
    return view[::-1] if marked else view


def hu_offset(view: View, marked: bool, rng: Rng) -> View:
    """A scanner that is 40 HU off."""
    return view + (40 if marked else 0)


def table_line(view: View, marked: bool, rng: Rng) -> View:
    """The table, in the air below the patient, in every slice."""
    view = view.copy()
    if marked:
        view[:, 57, 10:-10] += 150
    return view


def aspect(sample: Sample, marked: bool, rng: Rng) -> Sample:
    """A narrower detector: fewer columns."""
    if not marked:
        return sample
    cut = SIZE // 8
    return sample._replace(
        view=sample.view[:, cut:-cut],
        facts=sample.facts | {"columns": int(0.75 * sample.facts["columns"])},
    )


def caption(sample: Sample, marked: bool, rng: Rng) -> Sample:
    """A word in the indication."""
    return sample._replace(words=f"{sample.words} {'Portable.' if marked else 'Standing.'}")


PLANTS: dict[str, tuple[str, Plant]] = {
    "corner marker": ("cxr", picture(corner_marker)),
    "burned-in letter P": ("cxr", picture(burned_in_text)),
    "laterality marker": ("cxr", picture(laterality_marker)),
    "frame width": ("cxr", picture(frame_width)),
    "site-specific border": ("cxr", picture(site_border)),
    "brightness": ("cxr", picture(brightness)),
    "contrast": ("cxr", picture(contrast)),
    "noise level": ("cxr", picture(noise)),
    "JPEG quality": ("cxr", picture(jpeg)),
    "smooth or sharp": ("cxr", picture(smooth)),
    "stripe": ("cxr", picture(stripe)),
    "image size and aspect": ("cxr", aspect),
    "scanner": ("cxr", fact("scanner", "one", "two")),
    "view": ("cxr", fact("view", "AP", "PA")),
    "sex": ("cxr", fact("sex", "F", "M")),
    "age band": ("cxr", fact("age_band", "70s", "40s")),
    "caption word": ("cxr", caption),
    "HU offset": ("ct", picture(hu_offset)),
    "table line": ("ct", picture(table_line)),
    "frame rate": ("video", fact("fps", 50.0, 25.0)),
    "time order": ("video", picture(reversed_time)),
}


@cache
def base(domain: str, seed: int, count: int) -> tuple[tuple[bool, Sample], ...]:
    """Clean samples of a domain, half of them positive."""
    made = []
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        label = bool(rng.random() < 0.5)
        made.append((label, clean(domain, label, rng)))
    return tuple(made)


def cohorts(
    domain: str, seed: int, count: int, plant: Plant | None = None
) -> tuple[Cohort, Cohort]:
    """Training and test, each of `count` patients with one sample."""
    samples = base(domain, seed, 2 * count)
    rows = []
    for i, (label, sample) in enumerate(samples):
        rng = np.random.default_rng([seed, i, 1])
        marked = label if rng.random() < STRENGTH else not label
        rows.append((label, sample if plant is None else plant(sample, marked, rng)))
    return _cohort(rows[:count], "a"), _cohort(rows[count:], "b")


def _cohort(rows: list[tuple[bool, Sample]], name: str) -> Cohort:
    return Cohort(
        views=[sample.view for _, sample in rows],
        facts=pl.DataFrame([sample.facts for _, sample in rows]),
        words=[sample.words for _, sample in rows],
        label_N=np.array([label for label, _ in rows]),
        patient=[f"{name}{i}" for i in range(len(rows))],
    )


COUNTS = {"cxr": 200, "ct": 120, "video": 150}
"""Patients of training, and of test."""


def planted(name: str, seed: int = 0) -> list[Shortcut]:
    """The audit of a cohort with a planted shortcut."""
    domain, plant = PLANTS[name]
    train, test = cohorts(domain, seed, COUNTS[domain], plant)
    return audit(train, test, label="nodule", seed=seed)


def untouched(domain: str, seed: int) -> list[Shortcut]:
    """The audit of a clean cohort."""
    train, test = cohorts(domain, seed, COUNTS[domain])
    return audit(train, test, label="nodule", seed=seed)


def upper(hits: int, count: int) -> float:
    """The 95 % upper bound of a share (Clopper and Pearson)."""
    return 1.0 if hits == count else float(beta.ppf(0.95, hits + 1, count - hits))


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="clean cohorts of each domain")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    start = time.time()
    lines = [
        "| planted | found | detectors that flag it | best AUROC (interval) |",
        "|---|---|---|---|",
    ]
    caught = 0
    for name in PLANTS:
        found = planted(name)
        flags = [one.detector for one in found if one.flagged]
        caught += bool(flags)
        best = found[0]
        lines.append(
            f"| {name} | {'yes' if flags else 'no'} | {', '.join(flags)} | {best.detector} "
            f"{best.auroc:.3f} ({best.low:.3f} to {best.high:.3f}) |"
        )
        print(lines[-1], flush=True)
    lines.append(f"\n{caught} of {len(PLANTS)} planted shortcuts found.\n")
    lines += ["| clean | cohorts | with an alarm | at most (95 %) | largest AUROC |",
              "|---|---|---|---|---|"]  # fmt: skip
    for domain in COUNTS:
        alarms, largest = 0, 0.0
        for seed in range(100, 100 + args.seeds):
            found = untouched(domain, seed)
            alarms += any(one.flagged for one in found)
            largest = max(largest, found[0].auroc)
            base.cache_clear()
        lines.append(
            f"| {domain} | {args.seeds} | {alarms} | {upper(alarms, args.seeds):.3f} | "
            f"{largest:.3f} |"
        )
        print(lines[-1], flush=True)
    lines.append(f"\n{time.time() - start:.0f} s in all.")
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(["# Planted shortcuts", "", *lines]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
