"""Surgical video methods at one budget: a study of eight methods and three seeds on a phantom.

    python benchmarks/surgical_methods.py OUT [--steps 800] [--patients 300] [--seeds 3]

Writes a phantom archive and its manifest, trains every method with every seed from
`configs/video/study.yaml`, evaluates all of them on the protocols in
`configs/evaluate/video-study/`, and prints one table. Run again after a stop, it goes on with what
is missing. It takes about an hour on two cores, so it is no part of `make bench`.

All methods have the same tower of frames and the same number of steps. What they learn from is what
narrated operations have: talk that is now and then early, late or about something else, phases with
their times, an abstract, and the list of an operation's steps in order but without their times. The
flat method contrasts clips, phases and whole operations with their own words, 3 : 1 : 1; SurgVLP
reads clips alone; the others read at all levels in the same turns, and the list of steps with the
whole operation. That a step is at a certain moment, none of them is told.
"""

from __future__ import annotations

from study import ROOT, Column, Options, evaluate, manifest_of, table, train_all, trainings

CONFIG = ROOT / "configs/video/study.yaml"
PHANTOM = ("seconds=40", "size=64", "fps=4")
PROTOCOLS = ROOT / "configs/evaluate/video-study"

CLIPS = "clip: {ratio: 3, texts: {levels: [clip], along: {levels: [phase], n: 1}}"
PHASES = "phase: {ratio: 1, texts: {levels: [phase], along: {levels: [clip], n: 4}}"
WHOLE = (
    "procedure: {ratio: 1, batch_size: 8, preprocess: {frames: 24}, "
    "texts: {levels: [procedure], along: {levels: [step], n: 12}}"
)
SILENT = (
    "silent: {ratio: 1, batch_size: 8, preprocess: {frames: 24}, "
    "texts: {levels: [report], required: false}"
)
"""Samples without a text: the phantom has no report."""

OWN = "texts: first"
"""A clip's own words; those of its phase go along."""

SURGVLP = f"{{kind: clip, {OWN}}}, {{kind: clip, to_texts: 0.75, {OWN}}}, {{kind: mil-nce}}"
SSL = "{kind: video-ssl, weight: 0.25}"
SIAMESE = "{kind: video-ssl, contrast: 0.0, siamese: 1.0, weight: 0.25}"
HIERARCHY = "{kind: hierarchy}"
PUBLISHED_DTW = (
    "{kind: procedural, weight: 0.1, soft_min: probability, scale: 0.01, negatives: [reverse], "
    "contrast: hinge}"
)
DTW = "{kind: procedural, weight: 1.0, gamma: 0.1, margin: 0.1}"


def _levels(*streams: tuple[str, str]) -> str:
    told = ", ".join(f"{stream}, objectives: [{names}]}}" for stream, names in streams)
    return f"data.mix={{by: step, streams: {{{told}}}}}"


OF_CLIPS = "clip, clip_2, mil-nce"
METHODS: dict[str, tuple[str, ...]] = {
    "flat": (
        "data.mix={by: step, streams: {clip: {ratio: 3, texts: {levels: [clip]}}, "
        "phase: {ratio: 1, texts: {levels: [phase]}}, procedure: {ratio: 1, batch_size: 8, "
        "preprocess: {frames: 24}, texts: {levels: [procedure]}}}}",
    ),
    "surgvlp": (_levels((CLIPS, OF_CLIPS)), f"objectives=[{SURGVLP}]"),
    "hecvl": (
        _levels((CLIPS, OF_CLIPS), (PHASES, "hierarchy"), (WHOLE, "hierarchy")),
        f"objectives=[{SURGVLP}, {HIERARCHY}]",
    ),
    "peskavlp-no-dtw": (
        _levels((CLIPS, f"{OF_CLIPS}, video-ssl"), (PHASES, "hierarchy"), (WHOLE, "hierarchy")),
        f"objectives=[{SURGVLP}, {SSL}, {HIERARCHY}]",
    ),
    "peskavlp-published": (
        _levels(
            (CLIPS, f"{OF_CLIPS}, video-ssl"),
            (PHASES, "hierarchy"),
            (WHOLE, "hierarchy, procedural"),
        ),
        f"objectives=[{SURGVLP}, {SSL}, {HIERARCHY}, {PUBLISHED_DTW}]",
    ),
    "peskavlp": (
        _levels(
            (CLIPS, f"{OF_CLIPS}, video-ssl"),
            (PHASES, "hierarchy"),
            (WHOLE, "hierarchy, procedural"),
        ),
        f"objectives=[{SURGVLP}, {SSL}, {HIERARCHY}, {DTW}]",
    ),
}
MEMORY = "{{kind: memory, size: 400, retrieved: 4, max_age: 200, retrieve: {}}}"
METHODS |= {
    name: (
        _levels((CLIPS, "clip, video-ssl"), (WHOLE, "clip, memory"), (SILENT, "memory")),
        f"objectives=[{{kind: clip, {OWN}}}, {SIAMESE}, {MEMORY.format(retrieve)}]",
    )
    for name, retrieve in (("ophclip-no-memory", "false"), ("ophclip", "true"))
}

AGAINST = (
    ("surgvlp", "flat"),
    ("hecvl", "surgvlp"),
    ("peskavlp-no-dtw", "hecvl"),
    ("peskavlp-published", "peskavlp-no-dtw"),
    ("peskavlp", "peskavlp-no-dtw"),
    ("ophclip", "ophclip-no-memory"),
)
PHASES_OF, RETRIEVAL, ORDER, MOMENTS = (
    PROTOCOLS / f"video-study-{name}.yaml" for name in ("phases", "retrieval", "order", "moments")
)
COLUMNS = (
    Column("phase F1", PHASES_OF, "f1_macro"),
    *(
        Column(f"{level} R@5", RETRIEVAL, "recall_at_5", f"image-to-text/{level}")
        for level in ("clip", "step", "phase", "procedure")
    ),
    Column("order", ORDER, "order_accuracy_macro"),
    *(
        Column(f"steps told from {wrong} ones", ORDER, "order_accuracy", f"step/{name}")
        for wrong, name in (("reversed", "reverse"), ("swapped", "swap"))
    ),
    Column("step found, tIoU 0.5", MOMENTS, "recall_at_1", "recording/tiou-0.5"),
)


def main() -> None:
    """Everything, one after the other."""
    options = Options.read(__doc__, METHODS, steps=800, patients=300)
    out = options.out
    shared = options.data(manifest_of(options, "video", "video", PHANTOM))
    common = (*options.budget(), *shared, f"optim.warmup_steps={options.steps // 20}")
    methods = options.methods
    bundles = train_all(trainings(out, CONFIG, common, methods, options.seeds), options.workers)
    protocols = list(dict.fromkeys(column.protocol for column in COLUMNS))
    evaluate(out, "suite", protocols, bundles, shared, options.workers)
    print("\n".join(table(out / "suite", COLUMNS, list(methods), options.seeds, AGAINST,
                          shared[:1])))  # fmt: skip


if __name__ == "__main__":
    main()
