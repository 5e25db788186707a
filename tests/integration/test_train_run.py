import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml
from transformers import ResNetConfig, ResNetModel

import medvlp
from medvlp.data.batch import Batch
from medvlp.data.manifest import Manifest
from medvlp.data.tokenizer import token_ids
from medvlp.errors import ConfigError, RunError
from medvlp.models.bundle_footprint import read_footprint
from medvlp.models.text import TextTowerConfig
from medvlp.train.checkpoint import read_checkpoint
from medvlp.train.experiment import load_experiment
from medvlp.train.fit import build_model, train_run
from medvlp.train.prepare import prepare
from medvlp.train.saving import Checkpoints
from medvlp.train.task import Task

Losses = Callable[[Path], list[float]]


def test_a_run_folder_holds_what_repeats_it(
    experiment_file: Path, tmp_path: Path, read_losses: Losses
) -> None:
    run = tmp_path / "run"
    message = train_run(experiment_file, ["trainer.steps=6"], run)
    assert message == f"Bundle: {run / 'bundle'}"
    expected = {"config.yaml", "versions.json", "data.json", "metrics.csv", "curves.png"}
    assert expected <= {p.name for p in run.iterdir()}
    assert list((run / "tensorboard").glob("events*"))
    assert not [p for p in run.rglob("*") if p.suffix in (".ckpt", ".pt", ".pkl", ".tmp")]
    table = pl.read_csv(run / "metrics.csv")
    times = ["samples_per_s", "data_wait"]
    assert table.columns == ["step", "loss", "clip", "lr", *times, "valid_loss"]
    assert table["data_wait"].is_between(0, 1).all()
    assert table["data_wait"].max() > 0
    assert table["step"].to_list() == list(range(1, 7))
    assert table.filter(pl.col("valid_loss").is_not_null())["step"].to_list() == [4, 6]
    again = tmp_path / "again"
    train_run(run / "config.yaml", [], again)
    assert read_losses(again) == read_losses(run)
    assert train_run(experiment_file, ["trainer.steps=6"], run).startswith("run is complete")


def test_the_bundle_is_the_trained_model_and_calibrated(
    experiment_file: Path, bright_manifest: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    steps = ["trainer.steps=100", "text.dropout=0", "optim.lr=0.01", "optim.weight_decay=0"]
    train_run(experiment_file, steps, run)
    bundle = medvlp.load(run / "bundle")
    assert bundle.info.calibration.prompts == bundle.prompts.digest
    # What it learnt from and was calibrated on can be known again, and no more.
    samples = Manifest.open(bright_manifest).samples
    used = samples.filter(pl.col("split") != "test")
    footprint = read_footprint(run / "bundle")
    assert footprint.samples == used.height
    assert len(footprint.digests["patient"]) == used["patient"].n_unique()
    assert read_footprint(bright_manifest) is None
    files = [bright_manifest.parent / f"{i}.png" for i in range(16, 24)]
    scores = bundle.zero_shot(files).logits_NL[:, 0]
    assert scores[1::2].mean() > scores[0::2].mean() + 0.5
    blind = tmp_path / "blind"
    train_run(experiment_file, [*steps, "control=image-blind"], blind)
    valid = [pl.read_csv(r / "metrics.csv")["valid_loss"].drop_nulls().min() for r in (run, blind)]
    assert valid[0] < valid[1] - 0.1


@pytest.mark.parametrize(("stop", "accumulate"), [(5, 1), (4, 1), (5, 2)])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    experiment_file: Path, tmp_path: Path, read_losses: Losses, monkeypatch, stop, accumulate
) -> None:
    # Step 4 is validated and step 5 is not: the two ways in which a step is saved.
    options = [f"trainer.accumulate={accumulate}"]
    straight, halted = tmp_path / "straight", tmp_path / "halted"
    train_run(experiment_file, options, straight)
    original = Checkpoints.on_train_batch_end

    def ask_at(self, trainer, *rest):
        self.signals.asked = signal.SIGINT if trainer.global_step == stop else 0
        original(self, trainer, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_batch_end", ask_at)
        with pytest.raises(KeyboardInterrupt):
            train_run(experiment_file, options, halted)
    assert read_checkpoint(halted / "checkpoints/last.safetensors")["global_step"] == stop
    # The row of a step that is to be validated yet waits in the checkpoint.
    assert len(read_losses(halted)) == stop - (stop == 4)
    train_run(experiment_file, options, halted)
    columns = ["step", "loss", "lr", "valid_loss"]
    both = [pl.read_csv(run / "metrics.csv").select(columns) for run in (straight, halted)]
    assert both[0].equals(both[1])
    weights = [
        read_checkpoint(run / "checkpoints/last.safetensors")["state_dict"]
        for run in (straight, halted)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_another_configuration_is_refused_with_the_keys(
    experiment_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train_run(experiment_file, ["trainer.steps=2"], run)
    with pytest.raises(RunError, match=r"differing: optim\.lr, trainer\.steps"):
        train_run(experiment_file, ["optim.lr=0.1", "trainer.steps=3"], run)
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").touch()
    with pytest.raises(RunError, match="no run folder"):
        train_run(experiment_file, [], full)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["data.labels=[lft]"], "lft: no such label"),
        (["data.subset=3%"], "no such subset"),
        (["data.texts.levels=[report]"], "no image of the training split"),
        (["data.views=lateral"], "data.views=lateral leaves out"),
        (["data.batch_size=17"], "exceeds the 16 items"),
    ],
)
def test_what_the_data_cannot_give_is_said(
    experiment_file: Path, tmp_path: Path, overrides: list[str], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        train_run(experiment_file, overrides, tmp_path / "run")


def test_bf16_labels_and_start_from_a_bundle(
    experiment_file: Path, tmp_path: Path, read_losses: Losses
) -> None:
    first = tmp_path / "first"
    objectives = "objectives=[{kind: clip}, {kind: labels, weight: 0.5}]"
    train_run(experiment_file, ["trainer.precision=bf16", objectives], first)
    row = pl.read_csv(first / "metrics.csv").row(0, named=True)
    assert row["loss"] == pytest.approx(row["clip"] + 0.5 * row["labels"], rel=1e-4)
    second = tmp_path / "second"
    train_run(experiment_file, [f"init={first / 'bundle'}", "trainer.steps=2"], second)
    assert read_losses(second)[0] < read_losses(first)[0]


def test_what_is_not_frozen_trains_in_training_mode(
    experiment_file: Path, tmp_path: Path, monkeypatch
) -> None:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    ResNetModel(ResNetConfig(layer_type="basic", **sizes)).save_pretrained(tmp_path / "resnet")
    step, resting = Task.training_step, []

    def record(task: Task, batch: Batch, index: int) -> object:
        resting.append({n for n, m in task.named_modules() if not m.training})
        return step(task, batch, index)

    monkeypatch.setattr(Task, "training_step", record)
    # However a tower comes: as it is loaded, or left in evaluation by whoever built it.
    build = TextTowerConfig.build
    monkeypatch.setattr(TextTowerConfig, "build", lambda *args: build(*args).eval())
    options = [
        f"image={{kind: resnet, pretrained: {tmp_path / 'resnet'}}}", "trainer.steps=6",
        "trainer.valid_every=2", "prompts=null", "optim.freeze=[{part: image.stem, until: 3}]",
    ]  # fmt: skip
    train_run(experiment_file, options, tmp_path / "run")
    assert [bool(names) for names in resting] == [True] * 3 + [False] * 3
    assert all(name.startswith("model.image.backbone.embedder") for name in resting[0])


def test_averaged_weights_keep_the_running_statistics_that_fit_them(
    experiment_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = [
        "image={kind: resnet, depths: [1, 1], widths: [8, 16], stem: 8, norm: batch}",
        "trainer.steps=4", "prompts=null", "optim.ema={decay: 0.5}",
    ]  # fmt: skip
    train_run(experiment_file, options, run)
    state = read_checkpoint(run / "checkpoints/best.safetensors")["state_dict"]
    exported = medvlp.load(run / "bundle").model.state_dict()
    means = [name for name in exported if name.endswith(("running_mean", "running_var"))]
    assert means
    for name in means:
        averaged = state[f"average.model/{name.replace('.', '/')}"]
        torch.testing.assert_close(exported[name], averaged)
        assert not torch.allclose(averaged, state[f"model.{name}"])
    # A checkpoint of before these were averaged: they begin where the weights' own stand.
    old = {name: value for name, value in state.items() if "/running_" not in name}
    experiment = load_experiment(run / "config.yaml", [])
    prepared = prepare(experiment, tmp_path / "again")
    tokens = token_ids(prepared.tokenizer)
    task = Task(experiment, build_model(experiment, prepared), tokens)
    task.load_state_dict(old)
    for name in means:
        begun = task.average.get_buffer(f"model/{name.replace('.', '/')}")
        assert torch.equal(begun, state[f"model.{name}"])


def test_a_bundle_owns_up_to_what_its_start_had_learnt_from(
    experiment_file: Path, tmp_path: Path
) -> None:
    short, paths = ["trainer.steps=2", "data.batch_size=4"], []
    for name, more in [("a", ["data.footprint=false"]), ("b", []), ("c", [])]:
        init = [f"init={paths[-1]}"] if paths else []
        train_run(experiment_file, [*short, *more, *init], tmp_path / name)
        paths.append(tmp_path / name / "bundle")
    a, b, c = (medvlp.load(path) for path in paths)
    manifests = a.info.provenance["data"]["manifests"]
    told = [
        {"bundle": b.digest, "manifests": manifests, "footprint": True},
        {"bundle": a.digest, "manifests": manifests, "footprint": False},
    ]
    assert [one.info.provenance["init"] for one in (a, b, c)] == [[], told[1:], told]
    alone, both = read_footprint(paths[1]), read_footprint(paths[2])
    assert alone is not None
    assert both is not None
    assert (both.samples, both.known["file"]) == (2 * alone.samples, 2 * alone.known["file"])
    assert both.digests["file"].tolist() == alone.digests["file"].tolist()


def test_the_supervised_control_learns_without_text(experiment_file: Path, tmp_path: Path) -> None:
    objectives = "objectives=[{kind: clip}, {kind: labels}]"
    run = tmp_path / "run"
    train_run(experiment_file, [objectives, "control=supervised-unimodal"], run)
    table = pl.read_csv(run / "metrics.csv")
    assert "clip" not in table.columns
    assert table["labels"][-1] < table["labels"][0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("domain", "settings"),
    [
        ("cxr", "size=64, masks=false"),
        ("volumetric", "slices=16, size=48, masks=false"),
        ("video", "seconds=8, size=64, fps=4"),
    ],
)
def test_a_smoke_run_makes_its_own_phantom_and_training_on_it_repeats(
    tmp_path: Path, read_losses: Losses, domain: str, settings: str
) -> None:
    config = Path(__file__).resolve().parents[2] / "configs" / domain / "smoke.yaml"
    short = [
        "data.batch_size=2", "trainer.steps=2", "optim.warmup_steps=1", "trainer.log_every=1",
    ]  # fmt: skip
    made = [f"data.phantom.settings=[{settings}]", "data.phantom.n=7"]
    runs = [tmp_path / "one", tmp_path / "two"]
    train_run(config, [*short, *made], runs[0])
    found = ["data.phantom=null", f"data.manifests=[{runs[0] / 'phantom/manifest'}]"]
    train_run(config, [*short, *found], runs[1])
    assert read_losses(runs[0]) == read_losses(runs[1])
    assert medvlp.load(runs[0] / "bundle").prompts is not None


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_goes_on(
    experiment_file: Path,
    tmp_path: Path,
    medvlp_process: Callable[..., subprocess.Popen[str]],
    read_losses: Losses,
) -> None:
    run = tmp_path / "run"
    command = ("train", str(experiment_file), "trainer.steps=4000", "--out", str(run))
    process = medvlp_process(*command)
    metrics = run / "metrics.csv"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (
        metrics.is_file() and len(metrics.read_text().splitlines()) > 3
    ):
        time.sleep(0.1)
    with pytest.raises(RunError, match=r"^run is being trained by another command") as refused:
        train_run(experiment_file, ["trainer.steps=4000"], run)
    assert refused.value.exit_code == 2
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.startswith("medvlp: interrupted")
    assert errors.count("\n") == 1
    assert not (run / "bundle").exists()
    done = read_checkpoint(run / "checkpoints/last.safetensors")["global_step"]
    # A validated step's row is written when validation has ended, which the stop may precede.
    assert done - len(read_losses(run)) in ((0, 1) if done % 4 == 0 else (0,))


def test_a_folder_that_a_killed_run_had_just_made_is_taken_up(
    experiment_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "versions.json").write_text("{")
    (run / ".config.yaml.partial-4711").write_text("dom")
    assert train_run(experiment_file, ["trainer.steps=2"], run).startswith("Bundle")
    assert not (run / ".uncalibrated").exists()


@pytest.mark.soak
def test_two_ranks_over_gloo_give_the_losses_of_one(
    experiment_file: Path,
    tmp_path: Path,
    medvlp_process: Callable[..., subprocess.Popen[str]],
    read_losses: Losses,
) -> None:
    values = yaml.safe_load(experiment_file.read_text())
    values["text"]["dropout"] = 0.0
    experiment_file.write_text(yaml.safe_dump(values))
    runs = []
    for devices in (1, 2):
        runs.append(tmp_path / f"ranks{devices}")
        process = medvlp_process(
            "train", str(experiment_file), f"trainer.devices={devices}", "--out", str(runs[-1])
        )
        output, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        assert output.count("Bundle") == 1
    one, two = (pl.read_csv(run / "metrics.csv") for run in runs)
    assert two["loss"].to_list() == pytest.approx(one["loss"].to_list(), rel=1e-4)
    assert two["valid_loss"].drop_nulls().to_list() == pytest.approx(
        one["valid_loss"].drop_nulls().to_list(), rel=1e-4
    )
