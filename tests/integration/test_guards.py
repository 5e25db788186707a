"""Bad numbers and bad samples in training: what reaches the weights, and who is told what."""

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml

from medvlp.data.dataset import PairDataset
from medvlp.errors import RunError
from medvlp.train import guards
from medvlp.train.checkpoint import read_checkpoint
from medvlp.train.fit import train_run
from medvlp.train.guards import Guard
from medvlp.train.saving import Checkpoints
from medvlp.train.task import Task

PLACES = [
    "image nan", "image inf", "loss nan", "loss inf", "first batch", "text tower",
    "gradient nan", "gradient inf", "gradient norm", "last step",
]  # fmt: skip


@contextmanager
def damaged(manifest: Path, *numbers: int) -> Iterator[None]:
    """Some of the manifest's pictures, cut off."""
    files = [manifest.parent / f"{i}.png" for i in numbers]
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content[:40])
    try:
        yield
    finally:
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content)


def digest(trainer, module) -> str:
    """All that an update may change: weights, running statistics, moments."""
    seen = hashlib.sha256()
    optimizer = trainer.optimizers[0].state_dict()["state"]
    for values in (module.state_dict(), *optimizer.values()):
        for name in sorted(values):
            seen.update(values[name].detach().reshape(-1).view(torch.uint8).numpy().tobytes())
    return seen.hexdigest()


class Poison:
    """Injects what is not finite; each place has its step, with a clean one before and after."""

    def __init__(self, monkeypatch) -> None:  # noqa: C901 - one function a place
        self.place = ""
        self.states: list[str] = []
        transfer, step, judge = (
            Task.transfer_batch_to_device, Task.training_step, Guard.on_before_optimizer_step,
        )  # fmt: skip
        save = Checkpoints.on_train_batch_end

        def on_device(task, batch, device, index):
            batch = transfer(task, batch, device, index)
            k = task.global_step
            self.place = PLACES[k // 2] if task.training and k % 2 else ""
            if self.place.startswith("image"):
                batch.image[1] = float(self.place.split()[1])
            return batch

        def losses(task, batch, index):
            out = step(task, batch, index)
            if self.place.startswith("loss") or (self.place == "last step" and index % 2):
                out["loss"] = out["loss"] * float(self.place.split()[1].replace("step", "inf"))
            if self.place == "first batch" and index % 2 == 0:
                out["loss"] = out["loss"] + torch.nan
            if self.place == "text tower":
                for weight in task.model.text.parameters():
                    out["loss"] = out["loss"] + weight.sum() * torch.nan
            return out

        def gradients(guard, trainer, module, optimizer):
            kind = {"gradient nan": torch.nan, "gradient inf": torch.inf, "gradient norm": 1e38}
            if self.place in kind:
                next(p for p in module.parameters() if p.grad is not None).grad += kind[self.place]
            judge(guard, trainer, module, optimizer)

        def record(callback, trainer, module, outputs, batch, index):
            if index % 2:
                self.states.append(digest(trainer, module))
            save(callback, trainer, module, outputs, batch, index)

        monkeypatch.setattr(Task, "transfer_batch_to_device", on_device)
        monkeypatch.setattr(Task, "training_step", losses)
        monkeypatch.setattr(Guard, "on_before_optimizer_step", gradients)
        monkeypatch.setattr(Checkpoints, "on_train_batch_end", record)


def test_nothing_that_is_not_finite_reaches_the_weights(
    experiment_file: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(guards, "MOST_SKIPPED", 99)
    poison = Poison(monkeypatch)
    options = [
        "trainer.steps=20", "trainer.accumulate=2", "trainer.valid_every=100", "prompts=null",
        "image={kind: resnet, depths: [1, 1], widths: [8, 16], stem: 8, norm: batch}",
    ]  # fmt: skip
    run = tmp_path / "run"
    train_run(experiment_file, options, run)
    changed = [a != b for a, b in zip(poison.states, poison.states[1:], strict=False)]
    # Steps 2, 4, ... are poisoned, the others are not.
    assert changed == [False, True] * 9 + [False]
    state = read_checkpoint(run / "checkpoints/last.safetensors")
    assert all(torch.isfinite(value).all() for value in state["state_dict"].values())
    listed = pl.read_csv(run / "bad_samples.csv")
    assert sorted(listed["step"].unique()) == list(range(2, 21, 2))
    by_step = {step: group for (step,), group in listed.group_by("step")}
    # The image that is not finite is found in both batches of the step; else all are named.
    assert [by_step[step].height for step in (2, 4, 6, 10, 14)] == [2, 2, 16, 8, 16]
    assert set(by_step[14]["code"]) == {"nonfinite_gradient"}
    assert set(by_step[2]["code"]) == {"nonfinite_loss"}


def test_the_third_stops_the_run_and_it_stops_again(
    experiment_file: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    Poison(monkeypatch)
    run = tmp_path / "run"
    options = ["trainer.steps=20", "trainer.save_every=5", "trainer.valid_every=100"]
    for _ in range(2):
        with pytest.raises(RunError, match=r"step 6: loss not finite; samples s\d\d, .* 3 times"):
            train_run(experiment_file, options, run)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert told[0].startswith("medvlp: step 2: loss not finite; samples s")
    assert told[1].endswith("update skipped (2 of 3)")
    # The second attempt began after the step that was saved.
    assert pl.read_csv(run / "bad_samples.csv")["step"].unique().sort().to_list() == [2, 4, 6]


def test_a_diverging_run_stops(experiment_file: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"step \d+: (loss|gradient) not finite"):
        train_run(experiment_file, ["optim.lr=1e30", "optim.clip_norm=null"], tmp_path / "run")


def test_an_unreadable_sample_is_replaced_listed_and_in_the_end_too_much(
    experiment_file: Path, bright_manifest: Path, tmp_path: Path, capsys
) -> None:
    run = tmp_path / "run"
    with damaged(bright_manifest, 3):
        options = ["data.workers=1", "data.cache=null", "trainer.steps=6"]
        train_run(experiment_file, options, run)
        listed = pl.read_csv(run / "bad_samples.csv")
        assert set(listed["sample"]) == {"s03"}
        assert listed.height == 3  # once in each of three epochs
        told = capsys.readouterr().err
        assert told.count("\n") == 3
        assert "s03 (" in told
        assert "cannot be read; replaced" in told
        with pytest.raises(RunError, match=r"s03 \(.*\) cannot be read; 4 of \d+ samples drawn"):
            train_run(experiment_file, options[:2], tmp_path / "longer")
    assert "3.png" not in told


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stop_iteration_in_a_reader_ends_no_epoch(
    experiment_file: Path, tmp_path: Path, monkeypatch, workers: int
) -> None:
    stored = PairDataset._stored

    def stop(dataset, item):
        if item.sample in ("s05", "s20"):  # one of training, one of validation
            raise StopIteration
        return stored(dataset, item)

    monkeypatch.setattr(PairDataset, "_stored", stop)
    run = tmp_path / "run"
    options = [f"data.workers={workers}", "trainer.steps=3", "trainer.valid_every=3"]
    train_run(experiment_file, [*options, "prompts=null"], run)
    table = pl.read_csv(run / "metrics.csv")
    assert table["step"].to_list() == [1, 2, 3]
    listed = pl.read_csv(run / "bad_samples.csv")
    assert set(listed["code"]) == {"StopIteration"}
    assert set(listed["sample"]) == {"s05", "s20"}
    state = read_checkpoint(run / "checkpoints/last.safetensors")["callbacks"]
    (counts,) = [state[name] for name in state if name.startswith("Guard")]
    assert counts == {"skipped": 0, "drawn": 3 * 8 + 8, "unreadable": listed.height}


@pytest.mark.parametrize("where", ["training_step", "validation_step"])
def test_a_stop_iteration_in_the_model_is_no_end_of_data(
    experiment_file: Path, tmp_path: Path, monkeypatch, where: str
) -> None:
    def stop(task, batch, index):
        raise StopIteration

    monkeypatch.setattr(Task, where, stop)
    expected = "training ended at step 0" if where == "training_step" else "validation ended after"
    with pytest.raises(RunError, match=expected):
        train_run(experiment_file, [], tmp_path / "run")


@pytest.mark.soak
def test_two_ranks_replace_the_samples_that_one_replaces(
    experiment_file: Path,
    bright_manifest: Path,
    tmp_path: Path,
    medvlp_process: Callable[..., subprocess.Popen[str]],
    read_losses: Callable[[Path], list[float]],
) -> None:
    values = yaml.safe_load(experiment_file.read_text())
    values["text"]["dropout"] = 0.0
    values["data"]["cache"] = None
    values["trainer"] |= {"steps": 4, "valid_every": 100}
    experiment_file.write_text(yaml.safe_dump(values))
    runs = []
    with damaged(bright_manifest, 3):
        for devices in (1, 2):
            runs.append(tmp_path / f"ranks{devices}")
            process = medvlp_process(
                "train", str(experiment_file), f"trainer.devices={devices}", "--out", str(runs[-1])
            )
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors
            assert errors.count("cannot be read; replaced") == 2
    one, two = (pl.read_csv(run / "bad_samples.csv") for run in runs)
    assert one.equals(two)
    assert read_losses(runs[1]) == pytest.approx(read_losses(runs[0]), rel=1e-5)
    assert json.loads((runs[0] / "data.json").read_text())["items"]["train"] == 16
