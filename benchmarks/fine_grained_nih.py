"""The same methods on real pixels: the NIH subset, classification and its radiologists' boxes.

    python benchmarks/fine_grained_nih.py OUT --shared ../shared [--steps 2000] [--workers 2]

Trains on the 1,000 images of 64 pixels, less those of patients who also stand in the other set;
evaluates on the 104 images of 1,024 pixels with their 31 boxes. NIH never released its reports:
sentences are made from labels, so that who is trained on text is trained on labels in other words.
Methods that need sided findings (MeDSLIP, MedCutMix) have nothing to learn here.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path

from fine_grained import COLUMNS as ALL_COLUMNS
from fine_grained import CONFIG, METHODS, REFERENCE
from study import ROOT, evaluate, medvlp, table, train_all, trainings

from medvlp.data.prompts import load_prompts

PROMPTS = ROOT / "configs/evaluate/prompts/cxr-nih.yaml"
NAMES = ("unimodal", "clip", "dlilp", "gloria", "make")
COLUMNS = ALL_COLUMNS[:3]
OVERRIDES = (f"task.prompts={PROMPTS}",)


def without(source: Path, other: Path, out: Path) -> Path:
    """A copy of a set without the images of patients who also stand in another one."""
    if out.exists():
        return out
    with (other / "labels.csv").open(newline="") as file:
        known = {row["Patient ID"] for row in csv.DictReader(file)}
    with (source / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    part = out.with_name(f".{out.name}")
    shutil.rmtree(part, ignore_errors=True)
    kept = [row for row in rows if row["Patient ID"] not in known]
    for row in kept:
        place = part / row["path"]
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / row["path"], place)
    with (part / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(kept)
    part.rename(out)
    print(f"{len(rows) - len(kept)} images of patients who stand in both sets left out")
    return out


def manifests(out: Path, data: Path) -> tuple[Path, Path]:
    """The manifest that is trained on, and the one that is tested on, under one key."""
    test, learn = out / "test", out / "learn"
    source = without(data / "cxr-nih-64", data / "cxr-nih-1024", out / "nih-64")
    for manifest, folder, fractions, more in (
        (test, data / "cxr-nih-1024", "{train: 0.0, valid: 0.0, test: 1.0}", []),
        (learn, source, "{train: 0.9, valid: 0.1, test: 0.0}", ["--key", f"{test}.private/key"]),
    ):
        if not manifest.exists():
            medvlp("index", folder, "--kind", "nih-cxr14", "--out", manifest,
                   "--set", "split.policy=hash", "--set", f"split.fractions={fractions}",
                   *more)  # fmt: skip
    return learn, test


def main() -> None:
    """Everything, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    data = options.shared / "data"
    if not data.is_dir():
        print("skipped: the real NIH subset is absent (--shared)")
        return
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    learn, test = manifests(out, data)
    labels = ", ".join(load_prompts(PROMPTS).names)
    common = (
        "data.phantom=null", f"data.manifests=[{learn}]", f"data.cache={out / 'cache'}",
        "data.entities={}", f"data.labels=[{labels}]", "data.texts={levels: [sentence], n: 3}",
        "preprocess.resize=squash", f"prompts={PROMPTS}",
        *(f"trainer.{key}={options.steps}" for key in ("steps", "valid_every", "save_every")),
    )  # fmt: skip
    methods = {name: METHODS[name] for name in NAMES}
    bundles = train_all(trainings(out, CONFIG, common, methods, options.seeds), options.workers)
    overrides = (f"data.manifests=[{test}]", *OVERRIDES)
    protocols = list(dict.fromkeys(column.protocol for column in COLUMNS))
    evaluate(out, "suite", protocols, bundles, overrides, options.workers)
    pairs = [(name, REFERENCE) for name in NAMES if name != REFERENCE]
    print("\n".join(table(out / "suite", COLUMNS, NAMES, options.seeds, pairs, overrides)))


if __name__ == "__main__":
    main()
