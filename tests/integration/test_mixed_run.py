"""Training on several streams: what each step had, what counted for it, and exact resuming."""

import copy
import dataclasses
import signal
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml

import medvlp
from medvlp.data.batch import Batch
from medvlp.data.tokenizer import token_ids
from medvlp.encoding import Encodings
from medvlp.losses.contrastive import clip_loss
from medvlp.losses.masked_text import MaskedTextObjective
from medvlp.train.cache_build import build_cache
from medvlp.train.checkpoint import read_checkpoint
from medvlp.train.experiment import load_experiment
from medvlp.train.fit import build_model, train_run
from medvlp.train.parts import places
from medvlp.train.prepare import PairData, prepare
from medvlp.train.saving import Checkpoints
from medvlp.train.task import Task


def straight_and_halted(
    file: Path, folder: Path, monkeypatch, stops: list[int], *, finish: bool = True
) -> list[Path]:
    """A run without a stop, and one that is stopped at `stops` and goes on each time."""
    straight, halted = folder / "straight", folder / "halted"
    train_run(file, [], straight)
    original = Checkpoints.on_train_batch_end
    for stop in stops:

        def ask_at(self, trainer, *rest, stop=stop):
            self.signals.asked = signal.SIGINT if trainer.global_step == stop else 0
            original(self, trainer, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "on_train_batch_end", ask_at)
            with pytest.raises(KeyboardInterrupt):
                train_run(file, [], halted)
    if finish:
        train_run(file, [], halted)
    return [straight, halted]


def assert_same_run(one: Path, other: Path) -> None:
    tables = [
        pl.read_csv(run / "metrics.csv").drop("samples_per_s", "data_wait") for run in (one, other)
    ]
    assert tables[0].equals(tables[1])
    states = [read_checkpoint(run / "checkpoints/last.safetensors") for run in (one, other)]
    weights = [state["state_dict"] for state in states]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    bundles = [medvlp.load(run / "bundle").model.state_dict() for run in (one, other)]
    assert all(torch.equal(bundles[0][name], bundles[1][name]) for name in bundles[0])


@pytest.fixture
def mixed_file(experiment_file: Path) -> Path:
    """Sentences, and smaller images without any text, which teach the label head alone."""
    values = yaml.safe_load(experiment_file.read_text())
    values["data"]["mix"] = {
        "streams": {
            "fine": {"ratio": 2},
            "bare": {
                "texts": {"levels": ["report"], "required": False},
                "preprocess": {"size": 16},
                "batch_size": 4,
                "objectives": ["labels"],
            },
        },
        "schedule": [{"step": 6, "ratios": {"fine": 1}}],
    }
    values["objectives"] = [{"kind": "clip"}, {"kind": "labels"}]
    values["weight_schedule"] = [{"step": 3, "weights": {"clip": 0.5}, "over": 4}]
    experiment_file.write_text(yaml.safe_dump(values))
    return experiment_file


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_steps_are_of_one_stream_and_a_stopped_run_goes_on(
    mixed_file: Path, tmp_path: Path, monkeypatch, micro_batch: int | None
) -> None:
    values = yaml.safe_load(mixed_file.read_text())
    values["trainer"]["micro_batch"] = micro_batch
    mixed_file.write_text(yaml.safe_dump(values))
    straight, halted = straight_and_halted(mixed_file, tmp_path, monkeypatch, [5])
    assert_same_run(straight, halted)
    table = pl.read_csv(straight / "metrics.csv")
    streams = table["stream"].to_list()
    assert [streams[i : i + 3].count("bare") for i in (0, 3)] == [1, 1]
    bare = table.filter(pl.col("stream") == "bare")
    assert bare["clip"].null_count() == len(bare) > 0
    assert bare["loss"].to_list() == bare["labels"].to_list()
    fine = table.filter(pl.col("stream") == "fine", pl.col("step") > 7)
    expected = 0.5 * fine["clip"] + fine["labels"]
    assert fine["loss"].to_list() == pytest.approx(expected.to_list(), rel=1e-5)
    validated = table.drop_nulls("valid_loss")
    # 8 samples of each stream are validated: fine in one batch, bare in two.
    mean = (validated["valid_fine"] + validated["valid_bare"]) / 2
    assert validated["valid_loss"].to_list() == pytest.approx(mean.to_list(), rel=1e-5)


@pytest.fixture
def scheduled_file(mixed_file: Path) -> Path:
    """Every option at once: adapters, an average, frozen parts, rates by layer, on two streams."""
    values = yaml.safe_load(mixed_file.read_text())
    values["image"]["depth"] = 2
    values["lora"] = {"towers": ["text"], "rank": 2, "dropout": 0.1}
    values["optim"] |= {
        "layer_decay": 0.8,
        "rates": {"objectives": 2.0},
        "ema": {"decay": 0.8, "start": 2},
        "freeze": [{"part": "image.stem"}, {"part": "image.layers[0]", "until": 6}],
    }
    mixed_file.write_text(yaml.safe_dump(values))
    return mixed_file


def test_every_schedule_at_once_goes_on_exactly_after_a_stop(
    scheduled_file: Path, tmp_path: Path, monkeypatch
) -> None:
    straight, halted = straight_and_halted(scheduled_file, tmp_path, monkeypatch, [3, 7])
    assert_same_run(straight, halted)
    bundle = medvlp.load(straight / "bundle")
    assert bundle.info.provenance["weights"] == "average"
    assert not [name for name in bundle.model.state_dict() if "lora" in name]
    rows = pl.read_csv(straight / "parameters.csv").to_dicts()
    table = {row["part"]: row for row in rows if row["frozen_until"] != "end"}
    assert table["image.layers[0]"]["frozen_until"] == "6"
    assert table["image.layers[0]"]["lr"] == pytest.approx(0.005 * 0.8**2)
    assert table["objectives.labels"]["lr"] == pytest.approx(0.01)


def test_a_cache_can_be_filled_for_every_stream(mixed_file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    build_cache(mixed_file, [f"data.cache={cache}"], 0)
    files = {p: p.stat().st_mtime_ns for p in cache.rglob("*.npy")}
    # Each of 24 images in two sizes.
    assert len(files) == 48
    train_run(mixed_file, [f"data.cache={cache}", "trainer.steps=4"], tmp_path / "run")
    assert {p: p.stat().st_mtime_ns for p in cache.rglob("*.npy")} == files


@pytest.mark.soak
def test_two_ranks_give_every_schedule_as_one_does(
    scheduled_file: Path, tmp_path: Path, medvlp_process
) -> None:
    values = yaml.safe_load(scheduled_file.read_text())
    values["text"]["dropout"] = values["lora"]["dropout"] = 0.0
    scheduled_file.write_text(yaml.safe_dump(values))
    runs = [tmp_path / "one", tmp_path / "two"]
    for devices, run in enumerate(runs, 1):
        command = ("train", str(scheduled_file), f"trainer.devices={devices}", "--out", str(run))
        process = medvlp_process(*command)
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    one, two = (pl.read_csv(run / "metrics.csv") for run in runs)
    assert two["stream"].to_list() == one["stream"].to_list()
    for name in ("loss", "valid_loss", "valid_fine", "valid_bare"):
        pairs = [table[name].drop_nulls().to_list() for table in (two, one)]
        assert pairs[0] == pytest.approx(pairs[1], rel=1e-4)
    weights = [medvlp.load(run / "bundle").model.state_dict() for run in runs]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.soak
def test_a_run_of_one_rank_goes_on_with_two(
    scheduled_file: Path, tmp_path: Path, monkeypatch, medvlp_process
) -> None:
    values = yaml.safe_load(scheduled_file.read_text())
    values["text"]["dropout"] = values["lora"]["dropout"] = 0.0
    scheduled_file.write_text(yaml.safe_dump(values))
    straight, halted = straight_and_halted(scheduled_file, tmp_path, monkeypatch, [5], finish=False)
    command = ("train", str(scheduled_file), "trainer.devices=2", "--out", str(halted))
    process = medvlp_process(*command)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    one, two = (pl.read_csv(run / "metrics.csv") for run in (straight, halted))
    assert two["stream"].to_list() == one["stream"].to_list()
    assert two["loss"].to_list() == pytest.approx(one["loss"].to_list(), rel=1e-4)


def test_frozen_weights_stay_and_others_move(scheduled_file: Path, tmp_path: Path) -> None:
    experiment = load_experiment(scheduled_file)
    run = tmp_path / "run"
    train_run(scheduled_file, ["trainer.steps=6", "data.mix.schedule=[]"], run)
    prepared = prepare(experiment, run)
    task = Task(experiment, build_model(experiment, prepared), token_ids(prepared.tokenizer))
    begun = dict(task.named_parameters())
    ended = read_checkpoint(run / "checkpoints/last.safetensors")["state_dict"]
    moved = {name for name, weight in begun.items() if not torch.equal(weight, ended[name])}
    placed = places(task)
    still = ("image.stem", "image.layers[0]")
    for name, place in placed.items():
        if any(place.is_in(part) for part in still) or (place.is_in("text") and "lora" not in name):
            assert name not in moved
    for part in ("image.layers[1]", "image.top", "text", "text_projection", "objectives.labels"):
        assert any(placed[name].is_in(part) for name in moved), part


def test_samples_are_mixed_and_each_counts_for_its_own_objectives(
    mixed_file: Path, tmp_path: Path
) -> None:
    values = yaml.safe_load(mixed_file.read_text())
    mix = values["data"]["mix"]
    mix["by"], mix["schedule"] = "sample", []
    mix["streams"]["fine"]["ratio"] = mix["streams"]["bare"]["ratio"] = 1
    del mix["streams"]["bare"]["preprocess"], mix["streams"]["bare"]["batch_size"]
    mixed_file.write_text(yaml.safe_dump(values))
    run = tmp_path / "run"
    train_run(mixed_file, ["trainer.steps=2"], run)
    assert pl.read_csv(run / "metrics.csv")["stream"].to_list() == ["bare+fine"] * 2

    experiment = load_experiment(mixed_file)
    prepared = prepare(experiment, run)
    batch = next(iter(PairData(experiment, prepared, 0).train_dataloader()))
    assert sorted(batch.stream) == ["bare"] * 4 + ["fine"] * 4
    fine = torch.tensor([i for i, stream in enumerate(batch.stream) if stream == "fine"])
    model = build_model(experiment, prepared)
    task = Task(experiment, model, token_ids(prepared.tokenizer)).eval()
    batch = batch.ready(task.contract(batch))
    losses = task.losses(batch)
    encodings = model(batch)
    alone = clip_loss(encodings.image_BE[fine], encodings.text_BNE[fine, 0], model.scale)
    torch.testing.assert_close(losses["clip"], alone)
    torch.testing.assert_close(losses["labels"], task.objectives["labels"](encodings, batch))
    torch.testing.assert_close(losses["loss"], 0.5 * losses["clip"] + losses["labels"])


@pytest.mark.parametrize("whole", [True, False])
def test_steps_of_altered_images_count_only_where_no_step_has_whole_ones(
    experiment_file: Path, tmp_path: Path, monkeypatch, whole: bool
) -> None:
    def look(self: MaskedTextObjective, encodings: Encodings, batch: Batch) -> torch.Tensor:
        return encodings.see(batch.image).pooled_BD.sum()

    monkeypatch.setattr(MaskedTextObjective, "forward", look)
    values = yaml.safe_load(experiment_file.read_text())
    values["image"] = {"kind": "resnet", "depths": [1], "widths": [8], "stem": 8}
    values["objectives"] = [{"kind": "masked-text"}]
    if whole:
        streams = {"pairs": {"objectives": ["clip"]}, "looks": {"objectives": ["masked-text"]}}
        values["data"]["mix"] = {"streams": streams}
        values["objectives"].append({"kind": "clip"})
    experiment_file.write_text(yaml.safe_dump(values))
    experiment = load_experiment(experiment_file)
    prepared = prepare(experiment, tmp_path / "run")
    task = Task(experiment, build_model(experiment, prepared), token_ids(prepared.tokenizer))
    batch = next(iter(PairData(experiment, prepared, 0).train_dataloader()))
    stream = ("looks" if whole else batch.stream[0],) * len(batch.sample)
    batch = dataclasses.replace(batch, stream=stream).ready(task.contract(batch))
    before = copy.deepcopy(dict(task.named_buffers()))
    assert set(task.train().losses(batch)) == {"loss", "masked-text"}
    after = dict(task.named_buffers())
    assert all(torch.equal(after[name], before[name]) for name in before) is whole
