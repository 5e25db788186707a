"""A step of `medvlp train` against a bare PyTorch loop, and its wait for data, in three domains.

    python benchmarks/bench_overhead.py --out FILE

Both take the same stored arrays, drawn augmentations, texts, model, loss and optimiser. The bare
loop has its batches in memory before it starts; ours reads them from a warm cache, in ``--workers``
processes beside the training one, checks, logs and shows what it does. The two alternate, each for
the same steps. torch computes with ``--threads``, so that a core is left to read with.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import torch
from page import command, commit

from medvlp.data.tokenizer import token_ids
from medvlp.train.experiment import Experiment, load_experiment
from medvlp.train.fit import build_model, train_run
from medvlp.train.optim import build_optimizer, build_schedule
from medvlp.train.phantom_data import phantom_manifest
from medvlp.train.prepare import PairData, prepare
from medvlp.train.task import Task

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "demo"
PATIENTS = {"cxr": 160, "volumetric": 120, "video": 10}
WARM = 3
"""Steps at the start of each run that are not counted."""


@dataclass
class Found:
    ours_ms: list[float] = field(default_factory=list)
    bare_ms: list[float] = field(default_factory=list)
    wait: list[float] = field(default_factory=list)

    def row(self, name: str) -> str:
        ratios = [a / b for a, b in zip(self.ours_ms, self.bare_ms, strict=True)]
        middle = statistics.median
        return (
            f"| {name} | {middle(self.bare_ms):.0f} | {middle(self.ours_ms):.0f} "
            f"| {middle(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f}) "
            f"| {100 * middle(self.wait):.1f} % (≤ {100 * max(self.wait):.1f} %) |"
        )


def settings(manifest: Path, cache: Path, steps: int, workers: int) -> list[str]:
    return [
        f"data.workers={workers}",
        "data.phantom=null", f"data.manifests=[{manifest}]", f"data.cache={cache}",
        f"trainer.steps={steps}", "trainer.valid_every=100000",
        "trainer.save_every=100000", "optim.warmup_steps=1", "prompts=null",
    ]  # fmt: skip


def run_ours(config: Path, overrides: list[str], steps: int, folder: Path) -> tuple[float, float]:
    """Milliseconds of a step, and the share of the time in which it waited for data."""
    # Rows are written every `log_every` steps: the first counts the warm steps alone.
    counted = [*overrides, f"trainer.log_every={WARM}"]
    with contextlib.redirect_stderr(io.StringIO()):
        train_run(config, counted, folder)
    table = pl.read_csv(folder / "metrics.csv").filter(pl.col("step") > WARM)
    table = table.filter(pl.col("step") % WARM == 0)
    batch = load_experiment(config, overrides).data.batch_size
    step_ms = 1000 * batch / table["samples_per_s"]
    return float(step_ms.mean()), float((table["data_wait"] * step_ms).sum() / step_ms.sum())


def run_bare(experiment: Experiment, folder: Path) -> float:
    """Milliseconds of a step of a plain loop."""
    prepared = prepare(experiment, folder)
    task = Task(experiment, build_model(experiment, prepared), token_ids(prepared.tokenizer))
    batches = list(PairData(experiment, prepared, 0).train_dataloader())
    optimizer = build_optimizer(task, experiment.optim)
    schedule = build_schedule(optimizer, experiment.optim, len(batches))
    preprocess, task = experiment.preprocess.build(), task.train()
    since = 0.0
    for step, stored in enumerate(batches):
        if step == WARM:
            since = time.perf_counter()
        batch = stored.ready(preprocess)
        loss = task.losses(batch)["loss"]
        loss.backward()
        if experiment.optim.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(task.parameters(), experiment.optim.clip_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return 1000 * (time.perf_counter() - since) / (len(batches) - WARM)


def measure(name: str, steps: int, rounds: int, workers: int, folder: Path) -> Found:
    config = CONFIGS / f"{name}.yaml"
    small = [f"data.phantom.n={PATIENTS[name]}"]
    phantom = load_experiment(config, small).data.phantom
    manifest = phantom_manifest(name, phantom, folder / "phantom")
    overrides = settings(manifest, folder / "cache", steps, workers)
    experiment = load_experiment(config, overrides)
    found = Found()
    (folder / "bare").mkdir()
    run_bare(experiment, folder / "bare")  # fills the cache
    for round_ in range(rounds):
        ours_ms, wait = run_ours(config, overrides, steps, folder / f"run-{round_}")
        found.ours_ms.append(ours_ms)
        found.wait.append(wait)
        found.bare_ms.append(run_bare(experiment, folder / "bare"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--domains", nargs="+", default=list(PATIENTS), choices=list(PATIENTS))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    steps = max(2 * WARM, chosen.steps // WARM * WARM)
    lines = [
        "# A training step against a bare PyTorch loop",
        "",
        f"`{command()}`, commit "
        f"{commit()}, {os.cpu_count()} cores, torch {torch.__version__} with "
        f"{torch.get_num_threads()} thread(s), {chosen.workers} reading process(es), load before "
        f"{os.getloadavg()[0]:.1f}.",
        f"Medians over {chosen.rounds} rounds of {steps - WARM} steps; in brackets the smallest "
        "and largest.",
        "",
        "| domain | bare step, ms | ours, ms | ratio | wait for data |",
        "|---|---|---|---|---|",
    ]
    for name in chosen.domains:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(
                measure(name, steps, chosen.rounds, chosen.workers, Path(folder)).row(name)
            )
    page = "\n".join(lines)
    print(page)
    if chosen.out is not None:
        chosen.out.write_text(page + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
