"""A full head-to-head: chest X-ray models against each other and the controls, on many protocols.

    python benchmarks/head_to_head.py OUT [--shared ../shared] [--steps 200] [--patients 900]

Trains small models on a phantom (CLIP, SigLIP, a vision transformer, another seed, and the two
controls that are trained), evaluates them on phantom protocols, then on the real NIH subset where
`--shared` has it, and leaves tables and one page in OUT. Takes about a quarter of an hour on two
cores, so it is no part of `make bench`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
VIT = "{kind: vit, size: 64, patch: 8, width: 96, depth: 4, heads: 4}"
MODELS = {
    "clip": [],
    "clip-seed-1": ["seed=1"],
    "siglip": ["objectives=[{kind: siglip}]", "model.init_temperature=0.1", "model.init_bias=-10"],
    "clip-vit": [f"image={VIT}"],
    "image-blind": ["control=image-blind"],
    "supervised-unimodal": ["control=supervised-unimodal", "objectives=[{kind: labels}]"],
}
PROTOCOLS = (
    "cxr-phantom.yaml",
    "cxr-phantom-retrieval.yaml",
    "cxr-phantom-grounding.yaml",
    "cxr-phantom-probe.yaml",
    "robustness/cxr-phantom-polarity.yaml",
    "robustness/cxr-phantom-laterality.yaml",
    "robustness/cxr-phantom-corruption.yaml",
    "robustness/cxr-phantom-adversarial.yaml",
)
SETS = ("cxr-nih-1024", "cxr-nih-64")


def medvlp(*arguments: str | Path) -> None:
    """One command, its words passed on."""
    command = [sys.executable, "-m", "medvlp.cli", *map(str, arguments)]
    start = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT)
    print(
        f"-- {' '.join(map(str, arguments[:2]))}: {time.perf_counter() - start:.0f} s", flush=True
    )


def train(out: Path, patients: int, steps: int) -> list[Path]:
    """The models' bundles; those that are there already are taken."""
    bundles = []
    for name, settings in MODELS.items():
        run = out / "runs" / name
        # The commands go on where a run was stopped, and say so where it is complete.
        medvlp(
            "train", CONFIGS / "demo/cxr.yaml", f"data.phantom.n={patients}",
            f"trainer.steps={steps}", f"trainer.valid_every={steps}",
            f"trainer.save_every={steps}", *settings, "--out", run,
        )  # fmt: skip
        bundles.append(run / "bundle")
    return bundles


def compare(out: Path, name: str, protocols: list[Path], bundles: list[Path], *more: str) -> None:
    """Run a suite and build its page."""
    suite = {
        "name": name, "version": 1, "protocols": [str(p) for p in protocols],
        "bundles": [str(b.resolve()) for b in bundles], "overrides": list(more),
    }  # fmt: skip
    file = out / f"{name}.yaml"
    file.write_text(yaml.safe_dump(suite), encoding="utf-8")
    medvlp("evaluate", file, "--out", out / name)
    medvlp("report", out / name)


def nih(out: Path, data: Path) -> list[Path]:
    """Manifests of the real subset, under one key."""
    made: list[Path] = []
    for folder in SETS:
        manifest = out / "manifests" / folder
        key = ["--key", f"{made[0]}.private/key"] if made else []
        if not manifest.exists():
            medvlp("index", data / folder, "--kind", "nih-cxr14", "--out", manifest,
                   "--set", "split.policy=hash", *key)  # fmt: skip
        made.append(manifest)
    return made


def main() -> None:
    """Everything, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--patients", type=int, default=900)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    bundles = train(out, options.patients, options.steps)
    compare(out, "phantom", [CONFIGS / "evaluate" / p for p in PROTOCOLS], bundles)
    data = options.shared / "data"
    if not data.is_dir():
        print("skipped: the real NIH subset is absent (--shared)")
        return
    manifests = nih(out, data)
    listed = ", ".join(str(m) for m in manifests)
    labelled = [bundle for bundle in bundles if bundle.parent.name != "supervised-unimodal"]
    compare(
        out, "nih", [CONFIGS / "evaluate/cxr-nih.yaml"], labelled, f"data.manifests=[{listed}]"
    )  # fmt: skip


if __name__ == "__main__":
    main()
