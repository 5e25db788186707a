"""Killed and preempted runs go on as if nothing had happened: short here, long in `make soak`."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import bench_checkpoint
import polars as pl
import pytest

from medvlp.train.checkpoint import read_checkpoint
from medvlp.train.fit import train_run
from medvlp.train.saving import Checkpoints
from medvlp.train.signals import Preempted

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
COLUMNS = ["step", "loss", "lr", "valid_loss"]

KILLS = """
import os, random, sys, tempfile
from pathlib import Path
import bench_resume as bench
draw = random.Random(7)
kills = int(sys.argv[1])
share, more = divmod(kills, len(bench.VARIANTS))
landed = 0
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    config = folder / "experiment.yaml"
    bench.in_a_child(lambda: bench.write_config(folder, int(sys.argv[2])))
    for k, variant in enumerate(sys.argv[3:] or bench.VARIANTS):
        tried = bench.Variant(folder, config, variant)
        tried.kill(1 if sys.argv[3:] else share + (k < more), draw)
        assert tried.counts["differing"] == tried.counts["stuck"] == 0, (variant, tried.counts)
        landed += tried.counts["kills"]
print(landed)
"""


def kills(*words: str) -> int:
    """In a process of its own: children are forked before PyTorch has started threads."""
    done = subprocess.run(
        [sys.executable, "-c", KILLS, *words],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(BENCHMARKS), *filter(None, sys.path)]),
        },
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
def test_a_kill_changes_nothing() -> None:
    assert kills("1", "20", "saved by a thread") == 1


@pytest.mark.soak
def test_fifty_kills_change_nothing() -> None:
    assert kills("50", "60") == 50


@pytest.mark.soak
def test_two_hundred_kills_during_saving_leave_a_sound_checkpoint(tmp_path: Path) -> None:
    counts = bench_checkpoint.kill_loop(tmp_path, 200, peer=False, mib=2)
    assert (counts["kills"], counts["unreadable"], counts["orphans"]) == (200, 0, 0)
    assert counts["interrupted"] > 20


@pytest.mark.soak
def test_two_hundred_damages_are_noticed(tmp_path: Path) -> None:
    assert bench_checkpoint.damage_loop(tmp_path, 200, peer=False) == 200


def ask(monkeypatch, hook: str, step: int, number: int) -> None:
    """A signal that arrives before the hook of a step."""
    original = getattr(Checkpoints, hook)

    def asked(self, trainer, *rest):
        if trainer.global_step == step:
            os.kill(os.getpid(), number)
        original(self, trainer, *rest)

    monkeypatch.setattr(Checkpoints, hook, asked)


@pytest.mark.parametrize(
    ("hook", "step", "number"),
    [
        ("on_train_batch_end", 3, signal.SIGTERM),
        ("on_train_batch_end", 4, signal.SIGUSR1),
        ("on_validation_batch_end", 4, signal.SIGTERM),
        ("on_validation_batch_end", 8, signal.SIGUSR1),
    ],
)
def test_a_preempted_run_goes_on_as_if_it_had_not_been(
    experiment_file: Path, tmp_path: Path, monkeypatch, hook: str, step: int, number: int
) -> None:
    straight, halted = tmp_path / "straight", tmp_path / "halted"
    train_run(experiment_file, [], straight)
    with monkeypatch.context() as patch:
        ask(patch, hook, step, number)
        with pytest.raises(Preempted, match=f"step {step} is saved") as stopped:
            train_run(experiment_file, [], halted)
    assert stopped.value.exit_code == 128 + number
    assert signal.getsignal(number) == signal.SIG_DFL
    assert read_checkpoint(halted / "checkpoints/last.safetensors")["global_step"] == step
    train_run(experiment_file, [], halted)
    tables = [pl.read_csv(run / "metrics.csv").select(COLUMNS) for run in (straight, halted)]
    assert tables[0].equals(tables[1])
    last = [(run / "bundle/model.safetensors").read_bytes() for run in (straight, halted)]
    assert last[0] == last[1]


@pytest.mark.parametrize("works", [True, False])
def test_slurm_is_told_to_requeue(
    experiment_file: Path, tmp_path: Path, monkeypatch, works: bool
) -> None:
    fake = tmp_path / "bin" / "scontrol"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/told\nexit {0 if works else 1}\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    ask(monkeypatch, "on_train_batch_end", 3, signal.SIGUSR1)
    said = "job 77 is requeued" if works else "job 77 is NOT requeued"
    with pytest.raises(Preempted, match=said):
        train_run(experiment_file, [], tmp_path / "run")
    assert (tmp_path / "told").read_text() == "requeue 77\n"


def test_a_damaged_last_checkpoint_costs_steps_and_nothing_else(
    experiment_file: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    straight, halted = tmp_path / "straight", tmp_path / "halted"
    options = ["trainer.save_every=1"]
    train_run(experiment_file, options, straight)
    with monkeypatch.context() as patch:
        ask(patch, "on_train_batch_end", 7, signal.SIGTERM)
        with pytest.raises(Preempted):
            train_run(experiment_file, options, halted)
    last = halted / "checkpoints/last.safetensors"
    content = bytearray(last.read_bytes())
    content[random.Random(0).randrange(len(content))] ^= 4
    last.write_bytes(content)
    (halted / "checkpoints/.last.safetensors.1.tmp").write_bytes(content)
    train_run(experiment_file, options, halted)
    assert "going on from the checkpoint before it, step 6" in capsys.readouterr().err
    tables = [pl.read_csv(run / "metrics.csv").select(COLUMNS) for run in (straight, halted)]
    assert tables[0].equals(tables[1])
    assert not list(halted.rglob("*.tmp"))
