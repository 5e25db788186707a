"""Published surgical methods (configs/video), made small: each trains, and its bundle opens."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import medvlp
from medvlp.data.manifest import write_manifest
from medvlp.train.experiment import load_experiment
from medvlp.train.fit import train_run

CONFIGS = Path(__file__).resolve().parents[2] / "configs/video"
RESNET = "{kind: resnet, depths: [1, 1], widths: [16, 24], stem: 8}"
WITHIN = "{levels: [step], n: 3}"
SMALL = [
    "data.cache=memory", "data.batch_size=4", "data.workers=0", "data.tokenizer={vocab_size: 400}",
    "preprocess.size=32", "model.embed=24",
    "trainer={steps: 3, accelerator: cpu, log_every: 1, valid_every: 3, save_every: 3}",
]  # fmt: skip
BERT = "{kind: bert, width: 24, depth: 4, heads: 2, max_tokens: 40, layers: [-4, -3, -2, -1]}"
CAMMA = [f"image.frame={RESNET}", f"text={BERT}"]


def streams(*names, frames=4):
    """Each in turn, in batches of two, from texts of any source."""
    values = [f"data.mix.streams.{name}.ratio=1" for name in names]
    for name in names[1:]:
        values += [f"data.mix.streams.{name}.batch_size=2",
                   f"data.mix.streams.{name}.preprocess={{frames: {frames}}}"]  # fmt: skip
    return values


LEVELS = [
    *streams("clip", "phase", "procedure"),
    f"data.mix.streams.clip.texts={{levels: [clip], along: {WITHIN}}}",
    f"data.mix.streams.phase.texts={{levels: [phase], along: {WITHIN}}}",
    "data.mix.streams.procedure.texts={levels: [procedure], along: {levels: [phase], n: 8}}",
]
OWN = {
    "surgvlp": [*CAMMA, f"data.texts={{levels: [clip], along: {WITHIN}}}"],
    "hecvl": [*CAMMA, *LEVELS],
    "peskavlp": [*CAMMA, *LEVELS],
    "surgclip": [
        "image={kind: timesformer, size: 32, patch: 16, width: 24, depth: 1, heads: 2, frames: 4}",
        "preprocess.frames=4", "text={kind: bert, width: 24, depth: 1, heads: 2, pool: cls}",
        "optim.warmup_steps=1",
    ],
    "ophclip": [*CAMMA, *streams("clip", "video", "silent"), "data.mix.schedule=[]"],
}  # fmt: skip


PARTS = {"procedure": 1, "phase": 2, "step": 4, "clip": 8}
"""In how many equal parts a text of each level speaks of a recording."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Six recordings of eight seconds, a frame a second, with texts of all levels."""
    root = tmp_path_factory.mktemp("surgery")
    rng = np.random.default_rng(0)
    samples, texts, sources = [], [], []
    for i in range(6):
        for second in range(8):
            (root / f"{i}").mkdir(exist_ok=True)
            pixels = rng.integers(0, 255, (40, 60, 3), np.uint8)
            Image.fromarray(pixels).save(root / f"{i}/{second:03d}.png")
        sources.append({"source": f"src{i}", "part": 0, "path": str(root / f"{i}")})
        samples.append(
            {
                "sample": f"s{i}", "domain": "video", "patient": f"p{i}", "source": f"src{i}",
                "sha256": f"{i:064x}", "kind": "video", "split": "train" if i < 4 else "valid",
            }
        )  # fmt: skip
        texts += [
            {
                "sample": f"s{i}", "node": f"s{i}{level}{k}", "level": level, "source": "told",
                "order": k, "start_s": 8 * k / parts, "end_s": 8 * (k + 1) / parts,
                "text": f"the {level} number {k} of surgeon {i}",
            }
            for level, parts in PARTS.items()
            for k in range(parts)
        ]  # fmt: skip
    info = {"key_id": "test", "counts": {}}
    tables = {"samples": samples, "texts": texts, "labels": [], "subsets": []}
    write_manifest(root / "manifest", tables, sources, info, key=b"k" * 32)
    return root / "manifest"


@pytest.mark.parametrize(
    "name",
    [
        *(
            pytest.param(name, marks=pytest.mark.soak)
            for name in ("surgvlp", "hecvl", "peskavlp", "ophclip")
        ),
        "surgclip",
    ],
)
def test_a_method_trains_and_its_bundle_opens(name, made, tmp_path, read_losses):
    given = [*SMALL, *OWN[name], f"data.manifests=['{made}']"]
    if name == "ophclip":
        given += [f"data.mix.streams.{n}.manifests=['{made}']" for n in ("clip", "video", "silent")]
        given.append("data.mix.streams.silent.texts.levels=[report]")  # which it does not have
    torch.manual_seed(0)
    train_run(CONFIGS / f"{name}.yaml", given, tmp_path / "run")
    losses = read_losses(tmp_path / "run")
    header = (tmp_path / "run/metrics.csv").read_text().splitlines()[0]
    for objective in load_experiment(CONFIGS / f"{name}.yaml").weights:
        assert objective in header
    assert len(losses) == 3
    assert np.isfinite(losses).all()
    bundle = medvlp.load(tmp_path / "run/bundle")
    frames = np.random.default_rng(0).integers(0, 255, (8, 40, 60, 3), np.uint8)
    image_E, text_E = bundle.embed_image(frames)[0], bundle.embed_text("the duct is clipped")[0]
    assert np.linalg.norm(text_E) == pytest.approx(1, abs=1e-5)
    length = np.linalg.norm(image_E)
    if bundle.model.config.image_mean == "units":
        assert 0 < length < 1 - 1e-3
    else:
        assert length == pytest.approx(1, abs=1e-5)
