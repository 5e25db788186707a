"""Real surgical frames and clips through the whole path, with a check within one recording.

    python benchmarks/surgical_real.py BUNDLE OUT [--shared FOLDER] [--page PAGE]

Reads `surg-cholect50` (176 frames of VID73) and `surg-cctpg-mp4` (7 clips) of the folder of real
data: indexes them, makes proxies of the clips, embeds both, tells the timeline of each recording,
searches them in words, and evaluates the phases of VID73. OUT keeps the pages to look at; they show
patients. BUNDLE is any bundle for video.

The check within VID73 is no test of a method: its frames are one patient's. A linear head is fitted
on the first half of each phase's labelled frames and asked for the second half, so it shows whether
features tell the scenes of this operation apart, and nothing about another; it has no interval.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from page import command, commit, medvlp, publish
from sklearn.metrics import accuracy_score, f1_score
from study import ROOT

from medvlp.data.items import Item, window_items
from medvlp.data.manifest import Manifest
from medvlp.evaluate.heads.frozen import choice_logits, fit_scale
from medvlp.evaluate.predict import Scorer
from medvlp.models.bundle import Bundle, load

PROTOCOL = ROOT / "configs/evaluate/video/cholect50-phases.yaml"
PROMPTS = ROOT / "configs/evaluate/prompts/cholect50-phases.yaml"
QUERIES = ("clipping the cystic duct", "dissecting with the hook", "the specimen bag")
TOLD = ("accuracy", "f1_present_macro")
ALL_TEST = "split.fractions={train: 0, valid: 0, test: 1}"
STRENGTH = 0.1
"""Inverse of the penalty of the head: one value, for there is nothing to choose it on."""

Floats = NDArray[np.floating]


def step(heading: str, *runs: Sequence[str | Path], keep: int = 3) -> list[str]:
    """A section of the page: what commands printed, in their last lines."""
    lines = [f"## {heading}", "", "```"]
    for arguments in runs:
        told, took_s = medvlp(*arguments)
        lines += [*told.splitlines()[-keep:], f"({arguments[0]}, {took_s:.0f} s)"]
    return [*lines, "```", ""]


def timelines(bundle: Path, out: Path, manifests: Sequence[Path]) -> list[str]:
    """The timeline of every recording, and one line about each."""
    lines = [
        "## Timelines", "",
        "| recording | seconds | frames seen | frames a second | p50 ms | p95 ms | ended |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for manifest in manifests:
        for number, sample in enumerate(sorted(Manifest.open(manifest).samples["sample"]), 1):
            folder = out / f"timeline-{manifest.name}-{number}"
            medvlp("timeline", sample, "--manifest", manifest, "--bundle", bundle,
                   "--prompts", PROMPTS, "--out", folder)  # fmt: skip
            told = json.loads((folder / "timeline.json").read_text())
            speed, latency_ms = told["speed"], told["speed"]["latency_ms"]
            lines.append(
                f"| {manifest.name} {number} | {told['recording']['duration_s']:.0f} | "
                f"{told['moments']['seen']} | {speed['moments_per_s']:.1f} | "
                f"{latency_ms['p50']:.0f} | {latency_ms['p95']:.0f} | "
                f"{told['ended'] or 'with the file'} |"
            )
    return [*lines, ""]


def labelled(manifest: Path) -> list[Item]:
    """The frames of VID73 of which one phase is true."""
    names = tuple(yaml.safe_load(PROMPTS.read_text())["labels"])
    items = window_items(Manifest.open(manifest), "test", 1.0, 1.0, names)
    shown = {int(path.stem) for path in items[0].source_paths if path.suffix == ".png"}
    return [
        item
        for item in items
        if item.span is not None and round(item.span[0]) in shown and np.nansum(item.labels_L) == 1
    ]


def features(bundle: Bundle, items: Sequence[Item]) -> dict[str, Floats]:
    """Each frame's features by the tower, and what needs no tower: its mean colour, its time."""
    scorer = Scorer(name="tower", control=None, bundle=bundle, cache=None)
    scorer = scorer.under({"frames": 1, "sampling": "center"})
    frame_NHWC = np.stack([stored[0] for stored in scorer.stored(items)]).astype(np.float32)
    return {
        "tower": scorer.features(items),
        "colour": np.concatenate([frame_NHWC.mean((1, 2)), frame_NHWC.std((1, 2))], axis=1),
        "time": np.array([[item.span[0]] for item in items if item.span is not None]),
    }


def within(bundle: Bundle, manifest: Path) -> list[str]:
    """The check within VID73."""
    items = labelled(manifest)
    truth_NL = np.stack([item.labels_L for item in items])
    choice_N = truth_NL.argmax(1)
    first_N = np.zeros(len(items), bool)
    for label in np.unique(choice_N):
        rows = np.flatnonzero(choice_N == label)
        first_N[rows[: len(rows) // 2]] = True
    lines = [
        "## Phases within VID73", "",
        f"{len(items)} labelled frames of {len(np.unique(choice_N))} phases, one patient: the head "
        f"learns from {first_N.sum()}, the first half of each phase in time, and is asked for the "
        f"other {(~first_N).sum()}. **No split by patient and no interval**: it says nothing about "
        "another operation.", "",
        "| features | accuracy | F1, mean of the phases |", "|---|---|---|",
    ]  # fmt: skip
    most = np.bincount(choice_N[first_N]).argmax()
    calls = {"most frequent phase": np.full((~first_N).sum(), most)}
    for name, feature_ND in features(bundle, items).items():
        scale = fit_scale(feature_ND[first_N].astype(np.float32))
        known, asked = (scale(feature_ND[rows].astype(np.float32)) for rows in (first_N, ~first_N))
        (logit_NL,) = choice_logits(known, truth_NL[first_N], [asked], STRENGTH)
        calls[name] = logit_NL.argmax(1)
    for name, call_N in calls.items():
        true_N = choice_N[~first_N]
        f1 = f1_score(true_N, call_N, labels=np.unique(true_N), average="macro", zero_division=0)
        lines.append(f"| {name} | {accuracy_score(true_N, call_N):.3f} | {f1:.3f} |")
    return [*lines, ""]


def words(bundle: Path, manifest: Path, out: Path) -> list[str]:
    """The phases of VID73 asked for in words, by the named protocol."""
    medvlp("evaluate", PROTOCOL, f"data.manifests=[{manifest}]", "--bundle", bundle,
           "--out", out / "evaluation")  # fmt: skip
    rows = json.loads((out / "evaluation" / PROTOCOL.stem / "metrics.json").read_text())["rows"]
    lines = ["| model | metric | value | interval |", "|---|---|---|---|"]
    for row in rows:
        if row["metric"] in TOLD and row["name"] == "all" and row["value"] is not None:
            told = "none" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
            lines.append(f"| {row['model']} | {row['metric']} | {row['value']:.3f} | {told} |")
    return ["## Phases of VID73 in words", "", *lines, ""]


def main() -> None:
    """Everything, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--page", type=Path)
    told = parser.parse_args()
    data = told.shared.resolve() / "data"
    out, bundle = told.out.resolve(), told.bundle.resolve()
    if not (data / "surg-cholect50").is_dir():
        print("skipped: the folder with real data is absent (--shared)")
        return
    out.mkdir(parents=True)
    frames, clips, proxies = out / "frames", out / "clips", out / "proxies"
    indexes = {name: out / f"index-{name}" for name in ("frames", "clips")}
    lines = [
        f"# Real surgical frames and clips, {date.today()}", "",
        f"`{command()}`, {platform.machine()}, cpu, on top of commit {commit()}. The bundle was "
        "trained on made-up operations: what it says of real ones means nothing. What is shown is "
        "that real files go through.", "",
        *step(
            "Index",
            ("index", data / "surg-cholect50", "--kind", "cholect50", "--set", ALL_TEST,
             "--out", frames, "--json"),
            ("index", data / "surg-cctpg-mp4", "--kind", "video", "--out", clips, "--json"),
            keep=1,
        ),
        *step(
            "Proxies of the clips to learn from",
            ("cache", "build", ROOT / "configs/video/study.yaml", "data.phantom=null",
             f"data.manifests=[{clips}]", "data.texts={levels: [clip], required: false}",
             "objectives=[{kind: video-ssl}]", f"data.proxies={{folder: {proxies}}}",
             f"data.cache={out / 'cache'}"),
        ),
        *step(
            "Embeddings",
            *(("embed", bundle, manifest, "--out", indexes[manifest.name])
              for manifest in (frames, clips)),
            keep=1,
        ),
        *timelines(bundle, out, (frames, clips)),
        *step(
            "Search",
            *(("search", query, "--index", indexes[manifest.name], "--k", "3", "--manifest",
               manifest, "--html", out / f"search-{manifest.name}-{number}.html")
              for number, query in enumerate(QUERIES, 1) for manifest in (frames, clips)),
            keep=7,
        ),
        *words(bundle, frames, out),
        *within(load(bundle), frames),
    ]  # fmt: skip
    publish("\n".join(lines), told.page)


if __name__ == "__main__":
    main()
