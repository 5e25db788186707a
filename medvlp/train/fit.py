"""`medvlp train`: one run folder from its configuration to its bundle."""

from __future__ import annotations

import csv
import dataclasses
import logging
import os
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medvlp.archive.duplicates.footprint import Footprint, footprint_of, joined
from medvlp.config import plain
from medvlp.data.prompts import load_prompts
from medvlp.data.tokenizer import sentence_id, token_ids
from medvlp.errors import RunError
from medvlp.models.bundle import load, save_bundle
from medvlp.models.bundle_file import read_info
from medvlp.models.bundle_footprint import read_footprint
from medvlp.models.lora import add_adapters, merge_adapters
from medvlp.models.two_tower import TwoTower
from medvlp.plain_files import read_json
from medvlp.train.calibrate import calibrate
from medvlp.train.callbacks import MetricsLog, StepBar
from medvlp.train.checkpoint_io import SafeCheckpointIO
from medvlp.train.experiment import Experiment, TrainerConfig, load_experiment
from medvlp.train.freezing import Freezing
from medvlp.train.guards import Guard
from medvlp.train.launch import check_launch, launched
from medvlp.train.mixing import FIGURES
from medvlp.train.optim import write_table
from medvlp.train.pace import set_pace
from medvlp.train.prepare import PairData, Prepared, array_cache, prepare
from medvlp.train.random_state import RandomState
from medvlp.train.run_folder import beginning, claim, held, record_data
from medvlp.train.saving import Checkpoints, checkpoint_io, final_state, resume_point
from medvlp.train.sharded import ShardedStrategy
from medvlp.train.signals import Stopped, StopSignals, preempted
from medvlp.train.task import Task

_PRECISION = {"bf16": "bf16-mixed", "fp32": "32-true"}
_PATIENCE_S = 3600.0
"""How long other ranks wait for the first to write the data."""


def train_run(config_path: Path, overrides: Sequence[str], run: Path) -> str:
    """Train what `config_path` describes into the folder `run`; repeat the call to resume.

    Args:
        config_path: An experiment's YAML file.
        overrides: Changes such as ``trainer.steps=200``.
        run: The run folder: config.yaml, versions.json, data.json, metrics.csv, curves.png,
            tensorboard/, checkpoints/, tokenizer/ and at the end bundle/.

    Returns:
        One line for the user.

    Raises:
        ConfigError: A configuration that cannot be used.
        RunError: A folder of another run, a sample that cannot be read, a loss that is no number.
        SaveError: The disk does not take a checkpoint.
        KeyboardInterrupt: Stopped by the user, after the last checkpoint was written.
        Preempted: Stopped by SIGTERM or SIGUSR1, after the last checkpoint was written.
    """
    first = _rank() == 0
    try:
        with StopSignals() as signals:
            return _train(config_path, overrides, run, signals, first=first)
    except Stopped as stopped:
        raise preempted(stopped, first=first) from None


def _train(
    config_path: Path, overrides: Sequence[str], run: Path, signals: StopSignals, *, first: bool
) -> str:
    experiment = _with_prompts(load_experiment(config_path, overrides), config_path.parent)
    config = experiment.trainer
    check_launch(launched(os.environ), devices=config.devices, nodes=config.nodes)
    new = first and claim(run, experiment)
    if not first:
        _await(run / "data.json")
    bundle = run / "bundle"
    if bundle.exists():
        return f"{run.name} is complete: {bundle}"
    with held(run) if first else nullcontext():
        with beginning(run, new=new):
            prepared = prepare(experiment, run)
            if first:
                record_data(run, prepared.facts)
            task = _fit(experiment, prepared, run, signals)
        if task is None:
            return ""
        _export(experiment, prepared, task, run)
    return f"Bundle: {bundle}"


def build_model(experiment: Experiment, prepared: Prepared) -> TwoTower:
    """The experiment's model, seeded, or started from the bundle that `init` names."""
    torch.manual_seed(experiment.seed)
    image = experiment.image.build(experiment.preprocess.channels)
    tokenizer = prepared.tokenizer
    known = len(tokenizer), tokenizer.pad_token_id, sentence_id(tokenizer)
    text = experiment.text.build(*known)
    model = TwoTower(experiment.model, image, text)
    if experiment.init is not None:
        _start_from(model, load(experiment.init).model, experiment.init)
    if experiment.lora is not None:
        add_adapters(model, experiment.lora)
    return model


def _fit(
    experiment: Experiment, prepared: Prepared, run: Path, signals: StopSignals
) -> Task | None:
    """Train to the end; None in processes other than the first."""
    config, folder = experiment.trainer, run / "checkpoints"
    task = Task(experiment, build_model(experiment, prepared), token_ids(prepared.tokenizer))
    set_pace(task.model, config, _device(experiment))
    resume, start = resume_point(folder, first=_rank() == 0)
    streams = [stream.name for stream in prepared.streams]
    several = streams if len(streams) > 1 else []
    told = FIGURES if task.mixer else ()
    log = MetricsLog(run, config, [*task.configs, *told], start, several)
    data = PairData(experiment, prepared, start * config.accumulate)
    io = checkpoint_io(folder, config)
    if _rank() == 0:
        write_table(task, experiment.optim, run / "parameters.csv")
    callbacks = [
        RandomState(experiment.seed),
        Freezing(experiment.optim.freeze),
        Guard(run, experiment.optim.clip_norm, start),
        log,
        Checkpoints(folder, config, io, signals),
        StepBar(config, log, start),
    ]
    with _quiet():
        trainer = _trainer(experiment, callbacks, io)
        if start < config.steps:
            trainer.fit(task, datamodule=data, ckpt_path=resume)
    signals.training = False
    if not trainer.is_global_zero:
        return None
    # A new one: this one's weights may be shared out among the ranks.
    task = Task(experiment, build_model(experiment, prepared), token_ids(prepared.tokenizer))
    task.load_state_dict(final_state(folder)["state_dict"])
    if task.average is not None:
        task.average.put(task)
    merge_adapters(task.model)
    task.settle()
    return task


def _trainer(experiment: Experiment, callbacks: list[Any], io: SafeCheckpointIO) -> Trainer:
    config = experiment.trainer
    return Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=_strategy(config),
        precision=_PRECISION[config.precision],  # type: ignore[arg-type]
        max_steps=config.steps,
        max_epochs=-1,
        accumulate_grad_batches=config.accumulate,
        val_check_interval=min(config.valid_every, config.steps) * config.accumulate,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        plugins=[io],
    )


def _strategy(config: TrainerConfig) -> DDPStrategy | str:
    if config.strategy == "fsdp":
        return ShardedStrategy()
    if config.strategy == "auto" and config.devices * config.nodes == 1:
        return "auto"
    # Some objectives leave parameters without a gradient (CLIP reads no bias, the supervised
    # control no text); data-parallel training would wait for them for ever.
    return DDPStrategy(find_unused_parameters=True)


def _export(experiment: Experiment, prepared: Prepared, task: Task, run: Path) -> None:
    """Write the bundle; with prompts and validation data, calibrated by a first copy of itself."""
    draw_curves(run)
    parts: dict[str, Any] = {
        "model": task.model,
        "domain": experiment.domain,
        "preprocess": experiment.preprocess,
        "image": experiment.image,
        "text": experiment.text,
        "tokenizer": prepared.tokenizer,
        "objectives": task.trained(),
        "names": experiment.data.names,
        "prompts": experiment.prompts,
        "provenance": _provenance(experiment, prepared, run),
        "footprint": _footprint(experiment, prepared),
    }
    calibration = None
    if experiment.prompts is not None and prepared.graded:
        # Named, so that what a killed run left of it is replaced.
        trial = run / ".uncalibrated"
        save_bundle(trial, **parts)
        trained = load(trial, device=_device(experiment))
        calibration = calibrate(trained, prepared.graded, array_cache(experiment))
        shutil.rmtree(trial)
    save_bundle(run / "bundle", calibration=calibration, **parts)


def _device(experiment: Experiment) -> str:
    wanted = experiment.trainer.accelerator != "cpu"
    return "cuda" if wanted and torch.cuda.is_available() else "cpu"


def _provenance(experiment: Experiment, prepared: Prepared, run: Path) -> dict[str, Any]:
    """What the bundle says about its run; no path."""
    values = plain(experiment)
    told = {
        name: values[name]
        for name in ("seed", "control", "objectives", "mixing", "optim", "lora", "trainer")
    }
    told["weights"] = "trained" if experiment.optim.ema is None else "average"
    versions = read_json(run / "versions.json")
    return {**told, "data": prepared.facts, "init": _started(experiment), "versions": versions}


def _started(experiment: Experiment) -> list[dict[str, Any]]:
    """The bundle of `init`, and those that it was started from in its turn, as `Started`."""
    if experiment.init is None:
        return []
    info, digest = read_info(experiment.init)
    kept = experiment.data.footprint and read_footprint(experiment.init) is not None
    first = {"manifests": info.provenance.get("data", {}).get("manifests", []), "footprint": kept}
    earlier = [
        one | {"footprint": kept and one["footprint"]} for one in info.provenance.get("init", [])
    ]
    return [{"bundle": digest} | first, *earlier]


def _footprint(experiment: Experiment, prepared: Prepared) -> Footprint | None:
    """Of what was trained on and of what was validated on: neither may be tested on.

    What the bundle of `init` learnt from is in the weights still.
    """
    if not experiment.data.footprint:
        return None
    samples = {item.sample for s in prepared.streams for item in (*s.train, *s.valid)}
    own = footprint_of(prepared.manifests, samples)
    before = None if experiment.init is None else read_footprint(experiment.init)
    return own if before is None else joined(own, before)


def draw_curves(run: Path) -> None:
    """Draw ``curves.png`` from ``metrics.csv``: losses and learning rate by step."""
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)
    losses, rate = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    skipped = {"step", "lr", "samples_per_s", "data_wait", "stream", *FIGURES[1:]}
    for name in [n for n in (rows[0] if rows else {}) if n not in skipped]:
        points = [(int(r["step"]), float(r[name])) for r in rows if r[name]]
        # Dashes, so that a single objective shows beside the loss that it is; a mark for one point.
        style = "-" if "loss" in name else "--"
        mark = "o" if len(points) == 1 else None
        drawn = zip(*points, strict=True) if points else ([], [])
        losses.plot(*drawn, style, marker=mark, label=name)
    losses.set_ylabel("loss")
    losses.legend()
    rate.plot([int(r["step"]) for r in rows], [float(r["lr"]) for r in rows])
    rate.set_ylabel("learning rate")
    rate.set_xlabel("step")
    temporary = run / ".curves.png"
    figure.savefig(temporary, format="png")
    temporary.replace(run / "curves.png")


def _with_prompts(experiment: Experiment, beside: Path) -> Experiment:
    """The experiment with its prompt file's content in place of its name."""
    file = experiment.prompts
    if not isinstance(file, Path):
        return experiment
    found = file if file.exists() else beside / file
    return dataclasses.replace(experiment, prompts=load_prompts(found))


def _start_from(model: TwoTower, other: torch.nn.Module, init: Path) -> None:
    mine = model.state_dict()
    within = f"image.{model.image.within}." if model.image.within else "image."
    theirs = {
        name if name in mine else name.replace("image.", within, 1): value
        for name, value in other.state_dict().items()
    }
    same = {
        name: value
        for name, value in theirs.items()
        if name in mine and mine[name].shape == value.shape
    }
    if not same:
        raise RunError(
            f"init: no weight of the bundle {init.name} fits this model",
            remedy="choose a bundle with the same image or text tower",
        )
    model.load_state_dict(same, strict=False)


def _rank() -> int:
    """This process's place among those of torchrun, SLURM or Lightning's own launcher."""
    found = [os.environ[n] for n in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if n in os.environ]
    return int(found[0]) if found else 0


def _await(file: Path) -> None:
    waited = 0.0
    while not file.is_file():
        time.sleep(0.2)
        waited += 0.2
        if waited > _PATIENCE_S:
            raise RunError(
                "the first process has written no data.json",
                remedy="look at the first process's message",
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's tips, device lines and worker advice off the terminal."""
    loggers = [logging.getLogger(n) for n in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
