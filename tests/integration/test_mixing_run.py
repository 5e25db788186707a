"""Training with MedCutMix: what a run writes, exact resuming, and controls."""

import dataclasses
import signal
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from PIL import Image

import medvlp
from medvlp.data.manifest import write_manifest
from medvlp.data.tokenizer import token_ids
from medvlp.train.checkpoint import read_checkpoint
from medvlp.train.experiment import load_experiment
from medvlp.train.fit import build_model, train_run
from medvlp.train.prepare import PairData, prepare
from medvlp.train.saving import Checkpoints
from medvlp.train.task import Task

SIDES = ("left", "right")
# Observation, anatomy, and what the two kinds of sample say of it.
SAID = {
    "effusion": ("pleura", ("{Side} pleural effusion.", "No pleural effusion.")),
    "cardiomegaly": ("heart", ("The heart is enlarged.", "Heart size is normal.")),
    "opacity": ("lung", ("{Side} lung opacity.", "{Side} lung opacity.")),
}
MIXING = {"kind": "medcutmix", "weight": 0.5, "share": 0.75}


@pytest.fixture(scope="module")
def told_manifest(tmp_path_factory) -> Path:
    """X-rays of 24 patients with three sentences each, whose entities are known."""
    root = tmp_path_factory.mktemp("told")
    rng = np.random.default_rng(0)
    tables = {name: [] for name in ("samples", "texts", "labels", "entities")}
    sources = []
    for i in range(24):
        sample, side, kind = f"s{i:02d}", SIDES[i % 2], i // 2 % 2
        pixels = rng.integers(0, 60, (32, 32)).astype(np.uint8)
        pixels[:, 16 * (side == "left") : 16 * (side == "left") + 16] += 120
        Image.fromarray(pixels).save(root / f"{i}.png")
        sources.append({"source": f"src{i}", "part": 0, "path": str(root / f"{i}.png")})
        tables["samples"].append(
            {
                "sample": sample, "domain": "cxr", "patient": f"p{i:02d}", "source": f"src{i}",
                "sha256": f"{i:064x}", "kind": "image", "split": "train" if i < 16 else "valid",
            }
        )  # fmt: skip
        for order, (observation, (anatomy, words)) in enumerate(SAID.items()):
            node = f"{sample}n{order}"
            text = words[kind].format(Side=side.capitalize())
            sided = anatomy != "heart" and not text.startswith("No")
            tables["texts"].append(
                {
                    "sample": sample, "node": node, "level": "sentence", "source": "findings",
                    "order": order, "text": text,
                }
            )  # fmt: skip
            present = observation == "opacity" or not kind
            tables["entities"].append(
                {
                    "sample": sample, "node": node, "anatomy": anatomy, "observation": observation,
                    "presence": float(present), "laterality": side if sided else None,
                }
            )  # fmt: skip
            tables["labels"].append(
                {"sample": sample, "name": observation, "value": float(present), "source": "table"}
            )
    write_manifest(root / "manifest", tables, sources, {"key_id": "t", "counts": {}}, key=b"k" * 32)
    return root / "manifest"


@pytest.fixture
def mixing_file(experiment_file: Path, told_manifest: Path) -> Path:
    values = yaml.safe_load(experiment_file.read_text())
    values["data"] |= {
        "manifests": [str(told_manifest)],
        "labels": list(SAID),
        "texts": {"levels": ["sentence"], "choose": "all", "n": 3},
        "entities": {
            "anatomies": ["left pleura", "right pleura", "heart", "left lung", "right lung"],
            "observations": list(SAID),
        },
    }
    values["image"]["depth"] = 2
    values["objectives"] = [{"kind": "clip", "duplicates": "share"}, {"kind": "labels"}]
    values["mixing"] = MIXING
    del values["prompts"]
    experiment_file.write_text(yaml.safe_dump(values))
    return experiment_file


def test_a_stopped_run_goes_on_exactly(mixing_file: Path, tmp_path: Path, monkeypatch) -> None:
    straight, halted = tmp_path / "straight", tmp_path / "halted"
    train_run(mixing_file, [], straight)
    original = Checkpoints.on_train_batch_end

    def ask(self, trainer, *rest):
        self.signals.asked = signal.SIGINT if trainer.global_step == 3 else 0
        original(self, trainer, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_batch_end", ask)
        with pytest.raises(KeyboardInterrupt):
            train_run(mixing_file, [], halted)
    train_run(mixing_file, [], halted)
    tables = [
        pl.read_csv(run / "metrics.csv").drop("samples_per_s", "data_wait")
        for run in (straight, halted)
    ]
    assert tables[0].equals(tables[1])
    states = [
        read_checkpoint(run / "checkpoints/last.safetensors")["state_dict"]
        for run in (straight, halted)
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

    table = tables[0]
    assert 0 < table["mixed"].mean() < 0.75
    assert table["refused_contradiction"].sum() > 0
    assert table["refused_side"].sum() > 0
    plain = table["clip"] + table["labels"]
    expected = 0.5 * plain + 0.5 * table["mixed_loss"]
    assert table["loss"].to_list() == pytest.approx(expected.to_list(), rel=1e-5)
    assert (plain - table["mixed_loss"]).abs().max() > 1e-3
    assert medvlp.load(straight / "bundle").info.provenance["mixing"]["share"] == 0.75


def task_and_batch(file: Path, run: Path, *overrides: str):
    experiment = load_experiment(file, overrides)
    prepared = prepare(experiment, run)
    task = Task(experiment, build_model(experiment, prepared), token_ids(prepared.tokenizer))
    batch = next(iter(PairData(experiment, prepared, 0).train_dataloader()))
    return task, batch.ready(task.contract(batch))


def test_validation_and_a_batch_of_one_patient_see_the_plain_loss(
    mixing_file: Path, tmp_path: Path
) -> None:
    task, batch = task_and_batch(mixing_file, tmp_path / "run")
    assert batch.place_BNA.sum() > 0
    task.eval()
    plain = task.losses(batch)
    assert plain.keys() == {"loss", "clip", "labels"}
    torch.testing.assert_close(plain["loss"], plain["clip"] + plain["labels"])
    task.train()
    task.model.eval()  # no dropout
    alone = dataclasses.replace(batch, patient_B=torch.zeros(8, dtype=torch.long))
    assert torch.equal(task.losses(alone)["loss"], plain["loss"])
    assert not torch.equal(task.losses(batch)["loss"], plain["loss"])
    task.losses(batch)["loss"].backward()
    gradients = [p.grad for p in task.parameters() if p.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_the_supervised_control_mixes_nothing(mixing_file: Path, tmp_path: Path) -> None:
    task, batch = task_and_batch(mixing_file, tmp_path / "run", "control=supervised-unimodal")
    assert task.mixer is None
    assert task.losses(batch).keys() == {"loss", "labels"}


@pytest.mark.soak
def test_two_ranks_mix_alike_whether_the_towers_are_sharded_or_not(
    mixing_file: Path, tmp_path: Path, medvlp_process
) -> None:
    losses = []
    for strategy in ("ddp", "fsdp"):
        run = tmp_path / strategy
        options = ("trainer.devices=2", f"trainer.strategy={strategy}", "trainer.steps=4")
        process = medvlp_process("train", str(mixing_file), *options, "--out", str(run))
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        table = pl.read_csv(run / "metrics.csv")
        assert table["mixed"].sum() > 0
        losses.append(table["loss"].to_list() + table["mixed_loss"].to_list())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
