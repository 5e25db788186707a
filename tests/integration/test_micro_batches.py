"""`trainer.micro_batch` from a configuration: the run of whole batches, on one rank and on two."""

import os
import socket
import subprocess
import sys
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
    values["trainer"] |= {"steps": 6, "valid_every": 3, "save_every": 3, "accumulate": 2}
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


RANK = """
import os, shutil, sys
from pathlib import Path
from medvlp.train.fit import train_run

file, folder = Path(sys.argv[1]), Path(sys.argv[2])
micro, sharded = "trainer.micro_batch=3", "trainer.strategy=fsdp"
runs = {"ddp": [micro], "fsdp": [sharded], "fsdp-micro": [sharded, micro], "again": [sharded]}
for name, options in runs.items():
    if name == "again" and os.environ["RANK"] == "0":
        # As if the second half of the run had never been.
        (folder / "again/checkpoints").mkdir(parents=True)
        for part in ("config.yaml", "versions.json", "data.json", "metrics.csv", "tokenizer"):
            copy = shutil.copytree if part == "tokenizer" else shutil.copy
            copy(folder / "fsdp" / part, folder / "again" / part)
        checkpoints = [folder / run / "checkpoints" for run in ("fsdp", "again")]
        shutil.copy(checkpoints[0] / "previous.safetensors", checkpoints[1] / "last.safetensors")
    train_run(file, ["trainer.devices=2", *options], folder / name)
"""


def train_on_two_ranks(file: Path, folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(file), str(folder)],
            env={
                **os.environ,
                **rendezvous,
                "RANK": rank,
                "LOCAL_RANK": rank,
                "LOCAL_WORLD_SIZE": "2",
                "TORCHELASTIC_RUN_ID": "test",
                "OMP_NUM_THREADS": "1",
            },
        )
        for rank in "01"
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]


@pytest.mark.soak
def test_two_ranks_sharded_or_in_micro_batches_train_as_one(file: Path, tmp_path: Path) -> None:
    train_run(file, [], tmp_path / "one")
    train_on_two_ranks(file, tmp_path)
    for name in ("ddp", "fsdp", "fsdp-micro"):
        assert_same_run(tmp_path / "one", tmp_path / name)
    # A sharded run's checkpoint is one rank's, and the second half follows from the first's.
    states = [
        read_checkpoint(tmp_path / name / "checkpoints/last.safetensors")
        for name in ("one", "fsdp", "again")
    ]
    shapes = [
        {i: {n: v.shape for n, v in moments.items()} for i, moments in state.items()}
        for state in (s["optimizer_states"][0]["state"] for s in states)
    ]
    assert shapes[0] == shapes[1]
    assert all(
        torch.equal(value, states[2]["state_dict"][name])
        for name, value in states[1]["state_dict"].items()
    )
