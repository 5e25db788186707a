"""3D CT methods at one budget: a study of eight methods and three seeds on a phantom.

    python benchmarks/ct_methods.py OUT [--steps 240] [--patients 1600] [--seeds 3] [--workers 2]

Writes a phantom archive and its manifest, trains every method with every seed from
`configs/volumetric/study.yaml`, evaluates all of them on the protocols in
`configs/evaluate/ct-study/`, and prints one table. Run again after a stop, it goes on with what is
missing. It takes an hour and a half on two cores, so it is no part of `make bench`.

Three families, each with its own tower, so that within a family the objectives alone differ: slices
(mean of the slices, or RadCLIP's attention), a residual network (VELVET-Med, objective by
objective; its published Swin transformer learns too slowly from a thousand volumes to tell
objectives apart), a rotary transformer (COLIPRI and its contrast alone). A tower that aligns no
words with places points by its last map, 2 voxels a side in the residual network. Segmentation is
learnt from the masks of 5 % of the training patients, and from untrained towers of the same kinds.
"""

from __future__ import annotations

from study import ROOT, Column, Options, evaluate, manifest_of, table, train_all, trainings

CONFIG = ROOT / "configs/volumetric/study.yaml"
PHANTOM = ("slices=48", "size=48", "format=nifti")
PROTOCOLS = ROOT / "configs/evaluate/ct-study"

SLICES = (
    "preprocess={kind: ct-slices, size: [32, 32], fit: resize, slice_mm: 10.0, max_slices: 32, "
    "more_windows_hu: [[-160.0, 240.0]], augment: {shift: [0, 2, 2]}}"
)
ENCODER = "encoder: {kind: resnet, depths: [1, 1, 1], widths: [24, 48, 96], stem: 24}"
PRIMUS = (
    "preprocess.shape=[48, 48, 48]",
    "preprocess.augment.shift=[2, 3, 3]",
    "image={kind: primus, patch: [8, 8, 8], width: 72, depth: 3, heads: 3, drop_path: 0.0}",
    "optim.lr=0.0005",
)
TRIBERT = (
    "data.texts.mark_sentences=true",
    "text={kind: tribert, width: 96, depth: 1, heads: 4, max_tokens: 64, max_sentences: 8}",
)
CLIP = "{kind: clip, label_smoothing: 0.1, duplicates: leave-out}"
MAPS = "sentence_map: -2, word_map: -3, duplicates: leave-out"
"""Regions of 4 voxels a side and patches of 8."""

DECODER = "decoder: {depth: 1, width: 96, heads: 4, max_tokens: 64}"
SSL = (
    f"{{kind: fusion, matching: 1.0, masking: 1.0, writing: 0.0, {DECODER}}}, "
    "{kind: masked-text, fraction: 0.15}, "
    "{kind: volume-ssl, embed: 96, shape: [16, 16, 16], stages: 4}"
)
UNTRAINED = (
    *(f"trainer.{key}=1" for key in ("steps", "valid_every", "save_every")),
    "optim.warmup_steps=0", "optim.lr=1.0e-12",
)  # fmt: skip
"""A tower as it is drawn."""

METHODS: dict[str, tuple[str, ...]] = {
    "slices-mean": (SLICES, f"image={{kind: slices, {ENCODER}, pool: mean}}"),
    "radclip": (SLICES, f"image={{kind: slices, {ENCODER}, depth: 1, heads: 4}}"),
    "velvet-global": TRIBERT,
    "velvet+sentence": (
        *TRIBERT,
        f"objectives=[{CLIP}, {{kind: hierarchical, word: 0, {MAPS}}}]",
    ),
    "velvet+word": (*TRIBERT, f"objectives=[{CLIP}, {{kind: hierarchical, {MAPS}}}]"),
    "velvet+ssl": (*TRIBERT, f"objectives=[{CLIP}, {{kind: hierarchical, {MAPS}}}, {SSL}]"),
    "primus-clip": PRIMUS,
    "colipri": (
        *PRIMUS,
        f"objectives=[{CLIP}, {{kind: opposite-sentence, weight: 0.5, pairs: 4}}, "
        "{kind: fusion, matching: 0, writing: 1.0, "
        "decoder: {depth: 1, width: 72, heads: 3, max_tokens: 64}}, "
        "{kind: masked-volume, depth: 1, width: 72, heads: 3}]",
    ),
    "resnet-untrained": UNTRAINED,
    "primus-untrained": (*PRIMUS, *UNTRAINED),
}
AGAINST = (
    ("radclip", "slices-mean"),
    ("velvet+sentence", "velvet-global"),
    ("velvet+word", "velvet-global"),
    ("velvet+ssl", "velvet-global"),
    ("velvet+word", "velvet+sentence"),
    ("velvet+ssl", "velvet+word"),
    ("colipri", "primus-clip"),
    ("velvet-global", "resnet-untrained"),
    ("velvet+sentence", "resnet-untrained"),
    ("velvet+word", "resnet-untrained"),
    ("velvet+ssl", "resnet-untrained"),
    ("primus-clip", "primus-untrained"),
    ("colipri", "primus-untrained"),
)
ZERO_SHOT, RETRIEVAL, GROUNDING, SEGMENTATION = (
    PROTOCOLS / f"ct-study-{name}.yaml"
    for name in ("zero-shot", "retrieval", "grounding", "segmentation")
)
COLUMNS = (
    Column("zero-shot AUROC", ZERO_SHOT, "auroc_macro"),
    Column("report R@10", RETRIEVAL, "recall_at_10", "image-to-text/section"),
    Column("volume R@10", RETRIEVAL, "recall_at_10", "text-to-image/section"),
    Column("pointing in 3D", GROUNDING, "pointing_game_macro"),
    Column("grounding AUPRC", GROUNDING, "pixel_average_precision_macro"),
)
DICE = (Column("Dice from 5 % of the masks", SEGMENTATION, "dice_macro"),)


def main() -> None:
    """Everything, one after the other."""
    options = Options.read(__doc__, METHODS, steps=240, patients=1600)
    out = options.out
    manifest = manifest_of(options, "volumetric", "nifti", PHANTOM)
    shared = options.data(manifest)
    common = (*options.budget(), *shared, f"optim.warmup_steps={options.steps // 12}")
    methods = options.methods
    bundles = train_all(trainings(out, CONFIG, common, methods, options.seeds), options.workers)
    protocols = list(dict.fromkeys(column.protocol for column in COLUMNS))
    taught = [one for one in bundles if "untrained" not in one.parent.name]
    evaluate(out, "suite", protocols, taught, shared, options.workers)
    print("\n".join(table(out / "suite", COLUMNS, [n for n in methods if "untrained" not in n],
                          options.seeds, AGAINST, shared[:1])))  # fmt: skip
    whole = [one for one in bundles if not one.parent.name.startswith(("slices", "radclip"))]
    changes = (*shared, "task.controls=[]")
    evaluate(out, "segmentation", [SEGMENTATION], whole, changes, options.workers)
    names = [name for name in methods if not name.startswith(("slices", "radclip"))]
    changes = (shared[0], changes[-1])
    print("\n".join(table(out / "segmentation", DICE, names, options.seeds, AGAINST, changes)))


if __name__ == "__main__":
    main()
