"""Runs with the objectives on words, several texts, label prototypes and prompts, to the bundle."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import medvlp
from medvlp.data.preprocess import model_input
from medvlp.train.fit import train_run

POOL = {"visual": 16, "language": 16, "visual_chosen": 3, "language_chosen": 3}
EACH = [
    {"kind": "local"},
    {"kind": "multi-text", "own": "leave-out"},
    {"kind": "label-text"},
    {"kind": "unicl", "weight": 0.5},
    {"kind": "prompt-pool", **POOL},
]


@pytest.fixture
def changed(experiment_file: Path) -> Callable[..., Path]:
    """The small experiment with other objectives, over two texts a sample."""

    def change(objectives: list[dict[str, object]]) -> Path:
        values = yaml.safe_load(experiment_file.read_text())
        values["data"]["texts"] |= {"choose": "random", "n": 2}
        values["objectives"] = objectives
        experiment_file.write_text(yaml.safe_dump(values))
        return experiment_file

    return change


def test_all_of_them_learn_together_with_micro_batches(
    changed: Callable[..., Path], tmp_path: Path, read_losses: Callable[[Path], list[float]]
) -> None:
    file = changed(EACH)
    plain = ["text.dropout=0", "trainer.steps=6", "optim.weight_decay=0"]
    train_run(file, plain, tmp_path / "whole")
    train_run(file, [*plain, "trainer.micro_batch=3"], tmp_path / "micro")
    whole, micro = read_losses(tmp_path / "whole"), read_losses(tmp_path / "micro")
    assert np.isfinite(whole).all()
    assert micro == pytest.approx(whole, rel=1e-3)
    bundle = medvlp.load(tmp_path / "whole/bundle")
    assert bundle.answers == ("left",)
    assert set(bundle.objectives) == {"local", "multi-text", "label-text", "unicl", "prompt-pool"}


def test_the_bundle_reads_label_names_with_its_own_trained_text_tower(
    changed: Callable[..., Path], bright_manifest: Path, tmp_path: Path
) -> None:
    file = changed([{"kind": "clip", "weight": 0.1}, {"kind": "label-text", "prototypes": "text"}])
    # The average of the weights is what the bundle holds, and what must read the names.
    train_run(file, ["trainer.steps=40", "optim.lr=0.01", "optim.ema={decay: 0.9}"], tmp_path / "r")
    bundle = medvlp.load(tmp_path / "r/bundle")
    head = bundle.objectives["label-text"]
    ids = bundle.tokenizer(["left"], return_tensors="pt")
    files = [bright_manifest.parent / f"{i}.png" for i in range(16, 24)]
    with torch.inference_mode():
        read = bundle.model.text(ids.input_ids, ids.attention_mask.bool()).pooled_MD
        image = model_input(bundle.preprocess, [bundle.preprocess.read((f,)) for f in files])
        pooled = head.projection(bundle.model.image(image).pooled_BD)
        cosine = torch.cosine_similarity(pooled, read)
        expected = (head.log_scale.exp() * cosine).sigmoid()
    torch.testing.assert_close(head.prototype_LD, read, rtol=1e-5, atol=1e-6)
    scores = bundle.label_scores(files)[:, 0]
    np.testing.assert_allclose(scores, expected.numpy(), atol=1e-5)
    assert scores[1::2].min() > scores[0::2].max()


def test_prototypes_alone_are_the_supervised_control(
    changed: Callable[..., Path], tmp_path: Path
) -> None:
    file = changed([{"kind": "clip", "weight": 0.1}, {"kind": "label-text"}])
    options = ["trainer.steps=3", "control=supervised-unimodal"]
    train_run(file, options, tmp_path / "run")
    bundle = medvlp.load(tmp_path / "run/bundle")
    assert bundle.info.provenance["control"] == "supervised-unimodal"
    assert bundle.answers == ("left",)
    assert set(bundle.objectives) == {"label-text"}
