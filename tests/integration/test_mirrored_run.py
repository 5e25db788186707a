"""A run that mirrors: every batch's texts still name the side on which its images are bright."""

from pathlib import Path

import pytest
import torch
import yaml

import medvlp
from medvlp.errors import ConfigError
from medvlp.train.experiment import load_experiment
from medvlp.train.fit import train_run
from medvlp.train.prepare import PairData, prepare

MIRROR = ["preprocess.augment.mirror=0.5", "data.sides=en", "data.labels=[]"]


def test_texts_follow_the_image(experiment_file: Path, tmp_path: Path) -> None:
    experiment = load_experiment(experiment_file, MIRROR)
    prepared = prepare(experiment, tmp_path / "run")
    data = PairData(experiment, prepared, 0)
    contract = experiment.preprocess.build()
    mirrored = []
    for batch in data.train_dataloader():
        ready = batch.ready(contract)
        texts = prepared.tokenizer.batch_decode(batch.text_BNT[:, 0], skip_special_tokens=True)
        bright = ready.image[..., 18:].mean((1, 2, 3)) > ready.image[..., :14].mean((1, 2, 3))
        assert ["left" in text for text in texts] == bright.tolist()
        mirrored += batch.drawn_BK[:, -1].tolist()
    assert 0.3 < torch.tensor(mirrored).mean() < 0.7
    for batch in data.val_dataloader():
        assert batch.drawn_BK is None


def test_a_run_trains_and_its_bundle_knows_the_contract(
    experiment_file: Path, tmp_path: Path
) -> None:
    train_run(experiment_file, [*MIRROR, "trainer.steps=2"], tmp_path / "run")
    bundle = medvlp.load(tmp_path / "run" / "bundle")
    assert bundle.preprocess.config.augment.mirror == 0.5


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["data.sides=null"], r"mirror: left and right must change .* set data\.sides=en"),
        (["data.labels=[left]"], r"data\.labels has left and not right"),
    ],
)
def test_what_cannot_change_sides_refuses_the_run(
    experiment_file: Path, tmp_path: Path, overrides: list[str], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        prepare(load_experiment(experiment_file, [*MIRROR, *overrides]), tmp_path / "run")


def test_words_that_no_report_has_refuse_the_run(experiment_file: Path, tmp_path: Path) -> None:
    words = tmp_path / "de.yaml"
    words.write_text(yaml.safe_dump({"pairs": [["links", "rechts"]]}))
    experiment = load_experiment(experiment_file, [*MIRROR, f"data.sides={words}"])
    with pytest.raises(ConfigError, match=r"no text of the training split names a side"):
        prepare(experiment, tmp_path / "run")
