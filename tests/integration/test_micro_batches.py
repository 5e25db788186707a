"""`trainer.micro_batch` from a configuration: the run of whole batches, on one rank and on two."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml

from medvlp.errors import ConfigError
from medvlp.train.checkpoint import read_checkpoint
from medvlp.train.fit import train_run

OBJECTIVES = [{"kind": "clip"}, {"kind": "labels", "weight": 0.5}]


@pytest.fixture
def file(experiment_file: Path) -> Path:
    values = yaml.safe_load(experiment_file.read_text())
    values["text"]["dropout"] = 0.0
    values["objectives"] = OBJECTIVES
    # Plain steps in size: AdamW would blow rounding errors of vanishing gradients up.
    values["optim"] = {"lr": 0.001, "weight_decay": 0.0, "warmup_steps": 2}
    values["trainer"] |= {"steps": 6, "valid_every": 3, "save_every": 6, "accumulate": 2}
    experiment_file.write_text(yaml.safe_dump(values))
    return experiment_file


def assert_same_run(one: Path, other: Path) -> None:
    tables = [pl.read_csv(run / "metrics.csv") for run in (one, other)]
    assert tables[0].columns == tables[1].columns
    for name in ("loss", "clip", "labels", "valid_loss"):
        first, second = (table[name].drop_nulls().to_list() for table in tables)
        assert second == pytest.approx(first, rel=2e-5)
    weights = [
        read_checkpoint(run / "checkpoints/last.safetensors")["state_dict"] for run in (one, other)
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-4)


def test_micro_batches_train_as_whole_batches(file: Path, tmp_path: Path) -> None:
    train_run(file, [], tmp_path / "whole")
    train_run(file, ["trainer.micro_batch=3"], tmp_path / "micro")
    assert_same_run(tmp_path / "whole", tmp_path / "micro")
    batch_norm = "image={kind: resnet, depths: [1], widths: [8], stem: 8}"
    with pytest.raises(ConfigError, match="batch norm"):
        train_run(file, ["trainer.micro_batch=3", batch_norm], tmp_path / "norm")


@pytest.mark.slow
def test_two_ranks_with_micro_batches_train_as_one_without(
    file: Path, tmp_path: Path, medvlp_process: Callable[..., object]
) -> None:
    train_run(file, [], tmp_path / "one")
    two = ("trainer.devices=2", "trainer.micro_batch=3", "--out", str(tmp_path / "two"))
    process = medvlp_process("train", str(file), *two)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert_same_run(tmp_path / "one", tmp_path / "two")
