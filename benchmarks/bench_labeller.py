"""The finding labeller against phantoms' truth, hand labels of CT reports, and Open-I's terms.

    python benchmarks/bench_labeller.py [--shared FOLDER] [--out FILE.md]

The words were written with the 621 training reports of the CT set in view; the 155 of its other
part were first labelled when the figures were computed. Open-I's terms are weak labels: an indexer
chose some per report. Sets that are absent are left out. No report text is printed.
"""

import argparse
import csv
import os
import re
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medvlp.cxr import phantom_findings as cxr_phantom
from medvlp.cxr.phantom_words import STYLE as CXR_STYLE
from medvlp.data.findings import load_findings
from medvlp.phantom.patients import patient_generator
from medvlp.phantom.report import write_report
from medvlp.progress import track
from medvlp_volumetric import phantom_findings as ct_phantom
from medvlp_volumetric.phantom_words import STYLE as CT_STYLE

DRAWS = 1000
PHANTOMS = {
    "cxr": (cxr_phantom, CXR_STYLE, {"view": "PA", "ratio": "0.55"}),
    "volumetric": (ct_phantom, CT_STYLE, {"thickness": "5"}),
}
TERMS = {
    "cardiomegaly": ("cardiomegaly",),
    "atelectasis": ("pulmonary atelectasis",),
    "pleural_effusion": ("pleural effusion",),
    "nodule": ("nodule", "mass"),
    "granuloma": ("calcified granuloma", "granuloma", "granulomatous disease"),
    "emphysema": ("emphysema", "pulmonary emphysema", "pulmonary disease, chronic obstructive",
                  "lung, hyperlucent"),
    "edema": ("pulmonary edema", "pulmonary congestion"),
    "pneumonia": ("pneumonia",),
    "consolidation": ("consolidation",),
    "pneumothorax": ("pneumothorax",),
    "hiatal_hernia": ("hernia, hiatal",),
    "scoliosis": ("scoliosis",),
    "fracture": ("fractures, bone",),
}  # fmt: skip
"""Findings and the Open-I terms (first part of a heading) that stand for them."""


def f1(truth_N: np.ndarray, found_N: np.ndarray, weight_RN: np.ndarray) -> np.ndarray:
    """(R,) F1 of each draw; 0 where a draw has none of the class at all."""
    hits = weight_RN @ (truth_N & found_N)
    either = weight_RN @ (truth_N.astype(float) + found_N)
    return 2 * hits / np.maximum(either, 1e-12)


def table(names: Sequence[str], truth_NL: np.ndarray, found_NL: np.ndarray) -> list[str]:
    """Precision, recall and F1 with intervals over reports drawn with replacement."""
    n = len(truth_NL)
    rng = np.random.default_rng(0)
    weights = np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), DRAWS)])
    values = np.stack([f1(t, f, weights) for t, f in zip(truth_NL.T, found_NL.T, strict=True)])
    lines = ["", "| finding | positives | precision | recall | F1 |", "|---|---|---|---|---|"]
    for name, t, f, value_R in zip(names, truth_NL.T, found_NL.T, values, strict=True):
        hits = (t & f).sum()
        precision, recall = hits / max(f.sum(), 1), hits / max(t.sum(), 1)
        lines.append(f"| {name} | {t.sum()} | {precision:.3f} | {recall:.3f} | {told(value_R)} |")
    lines.append(f"| **macro mean** | | | | **{told(values.mean(axis=0))}** |")
    pooled = f1(truth_NL.ravel(), found_NL.ravel(), np.repeat(weights, len(names), axis=1))
    lines.append(f"| **micro** | {truth_NL.sum()} | | | **{told(pooled)}** |")
    return lines


def told(value_R: np.ndarray) -> str:
    low, high = np.quantile(value_R[1:], [0.025, 0.975])
    return f"{value_R[0]:.3f} ({low:.3f} to {high:.3f})"


def of_phantoms(count: int) -> list[str]:
    lines = [
        "",
        "## Phantom reports",
        "",
        "A finding is right if its label is what was drawn: 1, 0 where denied, -1 where doubted;",
        "0 or none where the report is silent.",
        "",
        "| domain | reports | pairs | right | share |",
        "|---|---|---|---|---|",
    ]
    for domain, (catalogue, style, extra) in PHANTOMS.items():
        findings = load_findings(domain)
        right = 0
        for i in track(range(count), f"{domain} phantom reports"):
            drawn = catalogue.draw_findings(patient_generator(domain, 11, i, "findings"))
            rng = patient_generator(domain, 11, i, "report")
            text, denied = write_report(rng, style, drawn, **extra)
            found = findings.label(text)
            truth = {f.name: int(f.presence) for f in drawn}
            for name in catalogue.NAMES:
                silent = name not in truth and name not in denied
                right += found[name] in ({0, None} if silent else {truth.get(name, 0)})
        pairs = count * len(catalogue.NAMES)
        lines.append(f"| {domain} | {count} | {pairs} | {right} | {right / pairs:.4f} |")
    return lines


def of_ct(folder: Path) -> list[str]:
    findings = load_findings("volumetric")
    lines = []
    for part, heading in (("train", "seen while writing the words"), ("val", "not seen")):
        with (folder / f"{part}_nodates.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        columns = list(rows[0])[2:]
        names = [column.lower().replace(" ", "_") for column in columns]
        started = time.monotonic()
        found = [findings.label(row["report_text"]) for row in track(rows, f"CT {part}")]
        seconds = time.monotonic() - started
        truth_NL = np.array([[row[column] == "1" for column in columns] for row in rows])
        found_NL = np.array([[f[name] == 1 for name in names] for f in found])
        doubted_NL = np.array([[f[name] in (1, -1) for name in names] for f in found])
        macro = np.mean([f1(t, f, np.ones((1, len(rows))))[0]
                         for t, f in zip(truth_NL.T, doubted_NL.T, strict=True)])  # fmt: skip
        lines += ["", f"## CT reports, {part} part ({heading})", "",
                  f"{len(rows)} reports, {len(rows) / seconds:.0f} a second. Uncertain counts as "
                  f"absent; were it counted as present, macro F1 would be {macro:.3f}.",
                  *table(names, truth_NL, found_NL)]  # fmt: skip
    return lines


def of_open_i(archive: Path) -> list[str]:
    findings = load_findings("cxr")
    truth, found = [], []
    with tarfile.open(archive) as tar:
        for member in track([m for m in tar if m.isfile()], "Open-I"):
            handle = tar.extractfile(member)
            data = b"" if handle is None else handle.read()
            # "Opacity/lung/base": the first word is the finding, the rest where and how.
            terms = {
                term.split("/")[0].strip().lower()
                for term in re.findall(r"<major>(.*?)</major>", data.decode("utf-8"))
            }
            text = report_text(data)
            if "no indexing" in terms or not terms or not text.strip():
                continue
            label = findings.label(text)
            truth.append([bool(terms.intersection(words)) for words in TERMS.values()])
            found.append([label[name] == 1 for name in TERMS])
    return ["", "## Open-I, weak labels", "", f"{len(truth)} reports with terms.",
            *table(list(TERMS), np.array(truth), np.array(found))]  # fmt: skip


def report_text(data: bytes) -> str:
    """Findings and impression with their headings."""
    parts = re.findall(r'<AbstractText Label="(\w+)">(.*?)</AbstractText>', data.decode("utf-8"))
    return "\n".join(f"{name}: {text}" for name, text in parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    here = Path(__file__).resolve().parents[2] / "shared"
    shared = Path(os.environ.get("MEDVLP_SHARED", here))
    parser.add_argument("--shared", type=Path, default=shared)
    parser.add_argument("--reports", type=int, default=1000, help="phantom reports a domain")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = ["# Finding labeller", "", "Command: `python benchmarks/bench_labeller.py`.",
             "Intervals: 95 %, reports drawn with replacement, 1,000 draws.",
             *of_phantoms(options.reports)]  # fmt: skip
    ct = options.shared / "data" / "reports-ct-ctclip"
    open_i = options.shared / "data" / "reports-iu" / "NLMCXR_reports.tgz"
    lines += of_ct(ct) if ct.is_dir() else []
    lines += of_open_i(open_i) if open_i.is_file() else []
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
