"""The 18 labels of CT-RATE from report text, against the labels that people gave by hand.

    python benchmarks/ct_labels.py --part train|val [--shared FOLDER]

Reads `reports-ct-ctclip` of the folder of real data. The words of
`volumetric/medvlp_volumetric/vocabulary/en.yaml` were written with the train part in view. Prints a
table; no report text.
"""

import argparse
import csv
import os
import time
from pathlib import Path

import numpy as np
from bench_labeller import DRAWS, f1, told

from medvlp.data.structure.extract import load_extractor
from medvlp.data.structure.labels import labels_of
from medvlp.progress import track


def kappa(truth_N: np.ndarray, found_N: np.ndarray, weight_RN: np.ndarray) -> np.ndarray:
    """(R,) Cohen's kappa of each draw; 0 where chance alone would agree on everything."""
    total_R = weight_RN.sum(axis=1)
    agree_R = weight_RN @ (truth_N == found_N) / total_R
    truth_R, found_R = weight_RN @ truth_N / total_R, weight_RN @ found_N / total_R
    chance_R = truth_R * found_R + (1 - truth_R) * (1 - found_R)
    return (agree_R - chance_R) / np.maximum(1 - chance_R, 1e-12)


def label(path: Path) -> tuple[list[str], np.ndarray, np.ndarray, float]:
    """Names, (N,L) hand labels, (N,L) labels from the text, and reports read a second."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    extractor = load_extractor("volumetric")
    known = extractor.vocabulary.observations.values()
    names = [name for name in rows[0] if any(name in o.labels for o in known)]
    started = time.process_time()
    found = [
        labels_of(extractor.report(row["report_text"]), extractor.vocabulary)
        for row in track(rows, f"Reading {path.name}")
    ]
    speed = len(rows) / (time.process_time() - started)
    truth_NL = np.array([[row[name] == "1" for name in names] for row in rows])
    found_NL = np.array([[labels.get(name, 0) for name in names] for labels in found])
    return names, truth_NL, found_NL, speed


def table(names: list[str], truth_NL: np.ndarray, found_NL: np.ndarray) -> list[str]:
    """F1 and kappa of each label with intervals over reports drawn with replacement."""
    n = len(truth_NL)
    rng = np.random.default_rng(0)
    weights = np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), DRAWS)])
    lines = ["| label | positives | precision | recall | F1 | kappa |", "|---|---|---|---|---|---|"]
    scores, agreements = [], []
    for name, t, f in zip(names, truth_NL.T, found_NL.T, strict=True):
        scores.append(f1(t, f, weights))
        agreements.append(kappa(t, f, weights))
        hits = (t & f).sum()
        rates = f"{hits / max(f.sum(), 1):.3f} | {hits / max(t.sum(), 1):.3f}"
        lines.append(
            f"| {name} | {t.sum()} | {rates} | {told(scores[-1])} | {told(agreements[-1])} |"
        )
    mean = f"{told(np.mean(scores, axis=0))} | {told(np.mean(agreements, axis=0))}"
    return [*lines, f"| **mean** | {truth_NL.sum()} | | | {mean} |"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    here = Path(__file__).resolve().parents[2] / "shared"
    shared = Path(os.environ.get("MEDVLP_SHARED", here))
    parser.add_argument("--part", choices=("train", "val"), default="train")
    parser.add_argument("--shared", type=Path, default=shared)
    options = parser.parse_args()
    path = options.shared / "data" / "reports-ct-ctclip" / f"{options.part}_nodates.csv"
    names, truth_NL, found_NL, speed = label(path)
    doubted = [
        f1(t, f, np.ones((1, len(t))))[0] for t, f in zip(truth_NL.T, found_NL.T != 0, strict=True)
    ]
    print(f"{len(truth_NL)} reports, {speed:.0f} a second of one core. Doubt counts as absent;")
    print(f"were it counted as present, mean F1 would be {np.mean(doubted):.3f}.\n")
    print("\n".join(table(names, truth_NL, found_NL == 1)))


if __name__ == "__main__":
    main()
