"""The main job on real, public, de-identified data, through the commands that a user would type.

python benchmarks/main_job.py --shared ../shared --out benchmarks/results/DATE-main-job.md

Small sets: the numbers show that the path works on real input, and nothing about a method. It
trains, so it is no part of `make bench`.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import secrets
import tempfile
import time
from pathlib import Path

from page import commit, medvlp

HARDWARE = "2-core x86-64, 24 GiB, no GPU"
CONFIGS = Path(__file__).resolve().parent.parent / "configs"
INDEXES: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("cxr-nih-1024", "nih-cxr14", "cxr-nih-1024", ("split.policy=hash",)),
    ("cxr-nih-64", "nih-cxr14", "cxr-nih-64", ("split.policy=hash",)),
    ("reports-iu", "open-i", "reports-iu/NLMCXR_reports.tgz", ()),
    (
        "reports-ct-ctclip",
        "table",
        "reports-ct-ctclip/train_nodates.csv",
        (
            "domain=volumetric",
            "columns.patient=AccessionNo",
            "columns.study=AccessionNo",
            "columns.text=report_text",
        ),
    ),
    ("ct-totalseg (NIfTI)", "nifti", "ct-totalseg", ()),
    ("ct-totalseg (DICOM)", "dicom", "ct-totalseg/example_ct_dicom", ()),
    ("ct-cip", "dicom", "ct-cip/ct-64Dicom", ()),
    ("dicom2nifti-awkward", "dicom", "dicom2nifti-awkward", ()),
    ("surg-cholect50", "cholect50", "surg-cholect50", ()),
    ("surg-cctpg-mp4", "video", "surg-cctpg-mp4", ()),
)
"""Name, kind, place below shared/data, settings."""


def index_all(data: Path, work: Path) -> list[str]:
    """Section a: every set that holds images or reports, under one key."""
    key = work / "key"
    key.write_text(secrets.token_hex(32))
    key.chmod(0o600)
    lines = [
        "| set | kind | found | accepted | quarantined | ignored | seconds |",
        "|" + "---|" * 7,
    ]
    for name, kind, place, settings in INDEXES:
        words = ["index", str(data / place), "--kind", kind, "--out", str(work / _folder(name))]
        words += ["--key", str(key), "--json"]
        for setting in settings:
            words += ["--set", setting]
        printed, seconds = medvlp(*words)
        counts = json.loads(printed.strip().splitlines()[-1])
        figures = " | ".join(
            f"{counts[c]:,}" for c in ("found", "accepted", "quarantined", "ignored")
        )
        lines.append(f"| {name} | {kind} | {figures} | {seconds:.1f} |")
        medvlp("verify", work / _folder(name))
    return [*lines, "", "Each manifest then passed `medvlp verify`."]


def nih(work: Path, steps: int) -> list[str]:
    """Section b: pre-training on real X-rays with label-made sentences; zero-shot on held-out."""
    sets = f"data.manifests=[{work / 'cxr-nih-1024'}, {work / 'cxr-nih-64'}]"
    run = work / "nih"
    settings = [sets, f"data.cache={work / 'cache'}", "data.workers=0", f"trainer.steps={steps}"]
    settings += ["optim.warmup_steps=30", f"trainer.valid_every={steps // 4}"]
    _, seconds = medvlp("train", CONFIGS / "cxr" / "nih.yaml", *settings, "--out", run)
    protocol = str(CONFIGS / "evaluate" / "cxr-nih.yaml")
    medvlp("evaluate", protocol, "--bundle", run / "bundle", "--out", work / "p", sets)
    rows = json.loads((work / "p" / "cxr-nih" / "metrics.json").read_text())["rows"]
    facts = json.loads((run / "data.json").read_text())
    lines = [
        f"`medvlp train configs/cxr/nih.yaml` ({steps} steps, {seconds:.0f} s), both NIH sets "
        f"under one key, split by hashed patient over their union; items {facts['items']}.",
        "",
        "| model | metric | name | value | 95 % interval | n |",
        "|" + "---|" * 6,
    ]
    for row in rows:
        if row["metric"] in ("auroc", "auroc_macro") and row["value"] is not None:
            if row["control"] and row["name"] != "all":
                continue
            interval = f"{row['low']:.3f} to {row['high']:.3f}" if row["low"] is not None else "-"
            lines.append(
                f"| {row['model']} | {row['metric']} | {row['name']} | {row['value']:.3f} | "
                f"{interval} | {row['n']} |"
            )
    return lines


def open_i(work: Path, steps: int) -> list[str]:
    """Section c: a tokenizer and a text tower trained on the real Open-I reports."""
    run = work / "text"
    settings = [f"data.manifests=[{work / 'reports-iu'}]", f"trainer.steps={steps}"]
    settings += [f"trainer.valid_every={steps // 3}", "trainer.precision=fp32"]
    _, seconds = medvlp("train", CONFIGS / "cxr" / "text-open-i.yaml", *settings, "--out", run)
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    held = [(int(r["step"]), float(r["valid_loss"])) for r in rows if r["valid_loss"]]
    facts = json.loads((run / "data.json").read_text())
    size = len(json.loads((run / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"])
    told = "; ".join(f"step {s}: {v:.3f} (perplexity {math.exp(v):.0f})" for s, v in held)
    return [
        f"`medvlp train configs/cxr/text-open-i.yaml`, {steps} steps, {seconds:.0f} s: reports "
        f"{facts['items']}, tokenizer of {size:,} entries trained on the training split alone.",
        f"Masked-token loss on held-out patients, {told}; a uniform guess is {math.log(size):.3f}.",
    ]


def _folder(name: str) -> str:
    return name.replace(" ", "-").replace("(", "").replace(")", "")


def main() -> None:
    """Run all sections and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--nih-steps", type=int, default=60)
    parser.add_argument("--text-steps", type=int, default=40)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    data = args.shared / "data"
    if not data.is_dir():
        print("skipped: the folder with real data is absent (--shared)")
        return
    os.environ["COLUMNS"] = "100"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        lines = [
            "# The main job on real input",
            "",
            f"{time.strftime('%Y-%m-%d')}, commit {commit()}, {HARDWARE}. Command: "
            "`python benchmarks/main_job.py --shared ../shared --out ...`. Small-data results: "
            "they show that the path works on real files, not how good a method is.",
            "",
            "## a. Index",
            "",
            *index_all(data, work),
            "",
            "## b. Chest X-ray: NIH, sentences made from labels",
            "",
            *nih(work, args.nih_steps),
            "",
            "## c. Text tower on 3,955 Open-I reports",
            "",
            *open_i(work, args.text_steps),
            "",
            "## d. Real CT against nibabel and SimpleITK",
            "",
            "See the geometry page (`benchmarks/bench_geometry.py`).",
            "",
            "## e. Surgical frames and clips",
            "",
            "See the page of real surgical frames and clips (`benchmarks/surgical_real.py`).",
        ]
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
