"""Fine-grained chest X-ray methods at one budget: the study of eleven methods and three seeds.

    python benchmarks/fine_grained.py OUT [--steps 1500] [--patients 1500] [--seeds 3] [--workers 2]

Writes a phantom archive and its manifest, takes the reports apart (`medvlp structure`), trains
every method with every seed from `configs/cxr/study.yaml`, evaluates all of them on the protocols
in `configs/evaluate/cxr-study/`, and prints one table. Run again after a stop, it goes on with what
is missing. It takes up to three hours on two cores, so it is no part of `make bench`.
"""

from __future__ import annotations

from pathlib import Path

from study import ROOT, Column, Options, evaluate, medvlp, table, train_all, trainings

CONFIG = ROOT / "configs/cxr/study.yaml"
PROTOCOLS = ROOT / "configs/evaluate/cxr-study"
REFERENCE = "clip"
MIX = "mixing={kind: medcutmix}"
MEDSLIP = (
    "{kind: medslip, width: 96, depth: 2, heads: 4, hidden: 192, dropout: 0.0, position: sine, "
    "negatives: unmentioned}"
)
TEXT_TRAINED = {
    "clip": "[{kind: clip}]",
    "dlilp": "[{kind: clip, weight: 0.1}, {kind: label-text}]",
    "gloria": "[{kind: clip}, {kind: local}]",
    "make": "[{kind: multi-text}]",
    "medslip": f"[{MEDSLIP}]",
}
METHODS: dict[str, tuple[str, ...]] = {
    "unimodal": ("objectives=[{kind: labels}]",),
    **{name: (f"objectives={objectives}",) for name, objectives in TEXT_TRAINED.items()},
    **{f"{name}+cutmix": (f"objectives={o}", MIX) for name, o in TEXT_TRAINED.items()},
}
ZERO_SHOT, GROUNDING, LATERALITY, POLARITY, PROBE = (
    PROTOCOLS / f"study-{name}.yaml"
    for name in ("zero-shot", "grounding", "laterality", "polarity", "probe")
)
COLUMNS = (
    Column("zero-shot AUROC", ZERO_SHOT, "auroc_macro"),
    Column("pointing game", GROUNDING, "pointing_game_macro"),
    Column("grounding AUPRC", GROUNDING, "pixel_average_precision_macro"),
    Column("laterality", LATERALITY, "robustness", "laterality"),
    Column("polarity", POLARITY, "robustness", "polarity"),
    Column("1 % probe AUROC", PROBE, "auroc_macro"),
)


def manifest_of(out: Path, patients: int) -> Path:
    """The phantom's manifest with the triples that the rules find in its reports."""
    archive, manifest = out / "archive", out / "manifest"
    if not manifest.exists():
        if not archive.exists():
            medvlp("phantom", "cxr", "--out", archive, "--n", str(patients), "--set", "size=128")
        medvlp("index", archive, "--kind", "dicom", "--config", archive / "index.yaml",
               "--set", "split.fractions={train: 0.7, valid: 0.1, test: 0.2}",
               "--out", manifest)  # fmt: skip
        medvlp("structure", manifest)
    return manifest


def main() -> None:
    """Everything, one after the other."""
    options = Options.read(__doc__, METHODS, steps=1500, patients=1500)
    out = options.out
    manifest = manifest_of(out, options.patients)
    shared = options.data(manifest)
    common = (*options.budget(), *shared)
    methods = options.methods
    runs = trainings(out, CONFIG, common, methods, options.seeds)
    bundles = train_all(runs, options.workers)
    evaluate(out, "suite", sorted(PROTOCOLS.glob("*.yaml")), bundles, shared, options.workers)
    pairs = [(name, REFERENCE) for name in methods if name != REFERENCE]
    print("\n".join(table(out / "suite", COLUMNS, [*methods], options.seeds, pairs, shared[:1])))


if __name__ == "__main__":
    main()
