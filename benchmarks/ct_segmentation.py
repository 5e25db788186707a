"""A few organs of real CT from two volumes' masks: a pre-trained encoder beside a random one.

    python benchmarks/ct_segmentation.py WORK [--shared FOLDER] [--steps 60] [--out FILE]

Reads `ct-totalseg` of the folder of real data: TotalSegmentator's examples. Three of its CT volumes
have masks of the same structures; they are of three scans, and of three people as far as can be
told. Each in turn is judged, by what learns from crops of the other two (and chooses its weights on
further crops of these, so that the volume that is judged has no part in anything). The encoder is
pre-trained in WORK on the CT phantom and its reports; the random one is the same architecture with
the same head, steps and crops. A volume of which a structure is not drawn tells nothing of it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import polars as pl
import yaml
from page import command, commit, publish
from tqdm import tqdm

from medvlp.archive.index import index_archive
from medvlp.evaluate.run import evaluate_protocol
from medvlp.train.fit import train_run
from medvlp_volumetric.read import read_volume

CROPS, CHOOSING = 6, 2
"""Of each volume that is learnt from, and those that choose the weights."""

KEPT = 0.7
"""Of each axis, in the smallest crop."""

CROPPED = "mean over structures, on crops of the volumes that were learnt from"
"""Beside the structures in the volume that is judged: what chose the weights."""

STRUCTURES = {"aorta": 52, "vertebrae_T12": 32, "liver": 5, "spleen": 1}
"""Structure -> its value in TotalSegmentator's label maps (version 2)."""

EXPERIMENT: dict[str, Any] = {
    "domain": "volumetric",
    "data": {
        "phantom": {"n": 160, "kind": "nifti", "settings": ["slices=64", "size=77", "masks=false",
                                                            "format=nifti"]},
        "batch_size": 8, "cache": "memory", "tokenizer": {"vocab_size": 800},
        "texts": {"levels": ["sentence"], "sources": ["impression"], "choose": "join"},
    },
    "preprocess": {"kind": "ct", "shape": [24, 48, 48], "spacing_mm": [5.0, 5.0, 5.0],
                   "more_windows_hu": [[-160.0, 240.0]]},
    "image": {"kind": "swin3d", "embed": 12, "depths": [1, 1, 1, 1], "heads": [1, 2, 4, 8],
              "window": [4, 4, 4]},
    "text": {"width": 64, "depth": 1, "heads": 4, "max_tokens": 64},
    "model": {"embed": 64},
    "objectives": [{"kind": "clip"}],
    "optim": {"lr": 0.001, "warmup_steps": 20},
    "trainer": {"steps": 200, "accelerator": "cpu", "valid_every": 200, "save_every": 200,
                "log_every": 20},
}  # fmt: skip
PROTOCOL: dict[str, Any] = {
    "name": "few", "version": 1, "domain": "volumetric", "bootstrap": {"draws": 0},
    "task": {
        "kind": "segmentation", "structures": list(STRUCTURES), "head": "unet", "width": 16,
        "encoder": "tuned", "tolerance_mm": 5.0, "controls": ["random-encoder"],
    },
}  # fmt: skip


@dataclass(frozen=True)
class Scan:
    """One CT volume on disk with what is drawn in it."""

    hu: nib.Nifti1Image
    masks: Mapping[str, np.ndarray]


def scans(folder: Path) -> dict[str, Scan]:
    """The volumes of which at least the aorta and a vertebra are drawn."""
    abdomen = nib.load(folder / "example_ct_sm.nii.gz")
    series = read_volume(sorted((folder / "example_ct_dicom").glob("*.dcm")))
    upper = nib.Nifti1Image(
        np.rint(series.hu_DHW.T).astype(np.int16), np.asarray(series.affine_whd)
    )
    drawn = nib.load(folder / "example_seg_dicom.nii.gz")
    chest = folder / "aorta_report" / "test_result" / "models"
    return {
        "abdomen": Scan(
            abdomen, _values(np.asarray(nib.load(folder / "example_seg.nii.gz").dataobj))
        ),
        "upper abdomen": Scan(upper, _values(_turned(drawn, upper))),
        "chest": Scan(
            nib.load(chest / "ct_cropped.nii.gz"),
            {
                name: np.asarray(nib.load(chest / f"{name}.nii.gz").dataobj) > 0
                for name in ("aorta", "vertebrae_T12")
            },
        ),
    }


def _values(label_map: np.ndarray) -> dict[str, np.ndarray]:
    return {name: label_map == value for name, value in STRUCTURES.items()}


def _turned(image: nib.Nifti1Image, like: nib.Nifti1Image) -> np.ndarray:
    """A label map in the order of axes of another file of the same voxels."""
    ours, theirs = (nib.io_orientation(one.affine) for one in (image, like))
    turned = image.as_reoriented(nib.orientations.ornt_transform(ours, theirs))
    if not np.allclose(turned.affine, like.affine, atol=0.05):
        raise SystemExit("the DICOM series and its label map do not lie on the same voxels")
    return np.asarray(turned.dataobj)


def crop(scan: Scan, seed: int) -> Scan:
    """A box of the volume, at least `KEPT` of each axis."""
    rng = np.random.default_rng(seed)
    shape = scan.hu.shape
    size = [int(np.ceil(n * rng.uniform(KEPT, 1))) for n in shape]
    start = [int(rng.integers(n - kept + 1)) for n, kept in zip(shape, size, strict=True)]
    box = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
    affine = np.array(scan.hu.affine)
    affine[:3, 3] += affine[:3, :3] @ start
    hu = nib.Nifti1Image(np.asarray(scan.hu.dataobj)[box].astype(np.int16), affine)
    return Scan(hu, {name: mask[box] for name, mask in scan.masks.items()})


def write(archive: Path, parts: Sequence[tuple[str, Scan]]) -> None:
    """Volumes with their split, laid out as TotalSegmentator's set is."""
    rows = [("image_id", "age", "gender", "split")]
    for number, (split, scan) in enumerate(parts, start=1):
        folder = archive / f"s{number:04d}"
        (folder / "segmentations").mkdir(parents=True)
        nib.save(scan.hu, folder / "ct.nii.gz")
        for name, mask in scan.masks.items():
            image = nib.Nifti1Image(mask.astype(np.uint8), scan.hu.affine)
            nib.save(image, folder / "segmentations" / f"{name}.nii.gz")
        rows.append((folder.name, "", "", split))
    with (archive / "meta.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=";").writerows(rows)


def run(
    work: Path, judged: str, known: Mapping[str, Scan], bundle: Path, steps: int
) -> dict[tuple[str, str], float]:
    """(model, structure) -> Dice in one volume, learnt from the others."""
    place = work / judged.replace(" ", "-")
    result = place / "out" / "few" / "metrics.json"
    if not result.exists():
        place.mkdir(parents=True, exist_ok=True)
        parts = [
            ("train" if seed < CROPS else "val", crop(scan, seed))
            for name, scan in known.items()
            if name != judged
            for seed in range(CROPS + CHOOSING)
        ]
        write(place / "archive", [*parts, ("test", known[judged])])
        index_archive(
            place / "archive", kind="totalsegmentator", out=place / "manifest",
            overrides=("duplicates=exact",),
        )  # fmt: skip
        budget = {"rates": [0.01], "steps": steps, "batch_size": 2, "checks": 3}
        protocol = {
            **PROTOCOL,
            "task": {**PROTOCOL["task"], "search": budget},
            "data": {"manifests": [str(place / "manifest")]},
        }
        (place / "few.yaml").write_text(yaml.safe_dump(protocol), encoding="utf-8")
        evaluate_protocol(place / "few.yaml", [bundle], place / "out", [])
    rows = json.loads(result.read_text(encoding="utf-8"))["rows"]
    trials = pl.read_parquet(result.with_name("trials.parquet")).filter("chosen")
    return {
        **{(row["model"], CROPPED): row["valid_score"] for row in trials.iter_rows(named=True)},
        **{(r["model"], r["name"]): r["value"] for r in rows if r["metric"] == "dice"},
    }


def table(found: Mapping[str, Mapping[tuple[str, str], float]], model: str) -> list[str]:
    """Every volume and structure, then what pre-training changed."""
    lines = [
        "| judged on | structure | pre-trained | random encoder | mean place |",
        "|---|---|---|---|---|",
    ]
    gaps: list[float] = []
    for judged, dice in found.items():
        for structure in (name for name in (CROPPED, *STRUCTURES) if (model, name) in dice):
            values = [dice.get((who, structure)) for who in (model, "random-encoder", "prevalence")]
            cells = " | ".join("" if value is None else f"{value:.3f}" for value in values)
            lines.append(f"| {judged} | {structure} | {cells} |")
            if structure != CROPPED:
                gaps.append(dice[model, structure] - dice["random-encoder", structure])
    ends = f"{min(gaps):+.3f} to {max(gaps):+.3f}"
    told = f"{statistics.mean(gaps):+.3f} (least to greatest {ends})"
    return [*lines, "", f"Pre-trained less random: mean of {len(gaps)} pairs {told}."]


def main() -> None:
    """Everything, one after the other; run again, it goes on with what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    here = Path(__file__).resolve().parents[2] / "shared"
    parser.add_argument("work", type=Path)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("MEDVLP_SHARED", here)))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    started = time.process_time()
    config = options.work / "experiment.yaml"
    config.write_text(yaml.safe_dump(EXPERIMENT), encoding="utf-8")
    train_run(config, [], options.work / "phantom-pre-trained")
    trained = time.process_time() - started
    known = scans(options.shared / "data" / "ct-totalseg")
    bundle = options.work / "phantom-pre-trained" / "bundle"
    found = {
        judged: run(options.work, judged, known, bundle, options.steps)
        for judged in tqdm(known, desc="volumes")
    }
    seconds = time.process_time() - started
    lines = [
        f"# Organs of real CT from two volumes' masks ({date.today()})",
        "",
        f"`{command()}`, commit {commit()}; one core, {trained:.0f} s for the pre-training and "
        f"{seconds - trained:.0f} s for the rest, of processor time.",
        "",
        f"Dice on a grid of 5 mm ({' x '.join(map(str, EXPERIMENT['preprocess']['shape']))}) in "
        "each of three scans of TotalSegmentator's examples, learnt from crops of the other two "
        f"({CROPS} of each, {options.steps} steps, a U-Net decoder of width 16 on a small Swin "
        "tower that learns along). `mean place` is the mean mask of the crops, whatever the scan "
        "shows. Structures out of the grid's view are left out. With three people there is no "
        "interval over people; the range over pairs is all that can be said.",
        "",
        *table(found, "phantom-pre-trained"),
    ]
    publish("\n".join(lines) + "\n", options.out)


if __name__ == "__main__":
    main()
