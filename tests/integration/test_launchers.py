"""Runs that torchrun or SLURM start: the same losses as one process, and one requeue."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import medvlp
from medvlp.errors import ConfigError, ManifestError, RunError
from medvlp.train.experiment import load_experiment
from medvlp.train.fit import train_run
from medvlp.train.run_folder import claim

# Norms over single samples, no dropout: what a rank computes does not depend on how many there are.
SAME = ["text.dropout=0", "trainer.valid_every=100"]
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_NNODES": "1",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "127.0.0.1",
    "SLURM_JOB_NODELIST": "127.0.0.1",
}

Losses = Callable[[Path], list[float]]


@pytest.mark.soak
def test_torchrun_gives_the_losses_of_one_process(
    experiment_file: Path, tmp_path: Path, read_losses: Losses
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    train_run(experiment_file, SAME, one)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        *("-m", "medvlp.cli", "train", str(experiment_file), *SAME, "trainer.devices=2"),
        *("--out", str(two)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("Bundle:") == 1
    assert read_losses(two) == pytest.approx(read_losses(one), abs=1e-5)
    assert len(read_losses(two)) == 10
    medvlp.load(two / "bundle")


@pytest.mark.parametrize(
    "environment",
    [
        {"TORCHELASTIC_RUN_ID": "a", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2", "RANK": "0"},
        {"TORCHELASTIC_RUN_ID": "a", "LOCAL_WORLD_SIZE": "1", "WORLD_SIZE": "2", "RANK": "0"},
        {**SLURM, "SLURM_PROCID": "0"},
        {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0"},
    ],
    ids=["torchrun", "torchrun-nodes", "slurm", "slurm-ntasks"],
)
def test_processes_that_the_configuration_does_not_expect_are_refused(
    experiment_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="started 2 processes"):
        train_run(experiment_file, [], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_only_the_number_of_devices_may_change(experiment_file: Path, tmp_path: Path) -> None:
    claim(tmp_path / "run", load_experiment(experiment_file))
    claim(tmp_path / "run", load_experiment(experiment_file, ["trainer.devices=2"]))
    other = ["trainer.devices=2", "seed=4"]
    with pytest.raises(RunError, match=r"differing: seed;"):
        claim(tmp_path / "run", load_experiment(experiment_file, other))


def test_a_run_that_could_not_begin_keeps_no_folder(experiment_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    mistyped = [f"data.manifests=[{tmp_path / 'mistyped'}]"]
    with pytest.raises(ManifestError):
        train_run(experiment_file, mistyped, run)
    assert not run.exists()
    with pytest.raises(ConfigError, match="towre"):
        train_run(experiment_file, ["optim.freeze=[{part: towre}]"], run)
    assert not run.exists()
    (tmp_path / "scratch").mkdir()
    (tmp_path / "latest").symlink_to(tmp_path / "scratch")
    with pytest.raises(ManifestError):
        train_run(experiment_file, mistyped, tmp_path / "latest")
    assert not list((tmp_path / "scratch").iterdir())
    # One that was claimed before stays, whatever has become of its manifests meanwhile.
    claim(run, load_experiment(experiment_file, mistyped))
    with pytest.raises(ManifestError):
        train_run(experiment_file, mistyped, run)
    assert (run / "config.yaml").is_file()


def finish(ranks: list[subprocess.Popen[str]], timeout: float) -> tuple[list[int], list[str]]:
    """Wait for processes; exit codes, and what they said on stderr."""
    told = [rank.communicate(timeout=timeout)[1] for rank in ranks]
    return [rank.returncode for rank in ranks], told


@pytest.mark.soak
@pytest.mark.parametrize("warned", [1, 2], ids=["batch-script-warns-one", "srun-warns-all"])
def test_slurm_warns_and_starts_the_job_again(
    experiment_file: Path, tmp_path: Path, read_losses: Losses, warned: int
) -> None:
    """What srun sets and sends, without SLURM; ``scontrol`` writes down how it is called."""
    calls = tmp_path / "calls"
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    scontrol.chmod(0o755)
    path = f"{scontrol.parent}{os.pathsep}{os.environ['PATH']}"

    def start(run: Path) -> list[subprocess.Popen[str]]:
        settings = [*SAME, "trainer.devices=2", "trainer.steps=200", "trainer.save_every=200"]
        command = [sys.executable, "-m", "medvlp.cli", "train", str(experiment_file), *settings]
        return [
            subprocess.Popen(
                [*command, "--out", str(run)],
                env={**os.environ, **SLURM, "PATH": path, "OMP_NUM_THREADS": "1",
                     "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]  # fmt: skip

    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert finish(start(straight), 300)[0] == [0, 0]
    assert not calls.exists()
    ranks = start(stopped)
    while not (stopped / "metrics.csv").is_file() or len(read_losses(stopped)) < 20:
        assert ranks[0].poll() is None
        time.sleep(0.1)
    for rank in ranks[:warned]:
        rank.send_signal(signal.SIGUSR1)
    codes, told = finish(ranks, 60)
    assert codes == [128 + signal.SIGUSR1] * 2, told
    assert "job 4711 is requeued" in " ".join(told[0].split())
    assert calls.read_text() == "requeue 4711\n"
    assert len(read_losses(stopped)) < 200
    assert finish(start(stopped), 300)[0] == [0, 0]
    assert read_losses(stopped) == read_losses(straight)
