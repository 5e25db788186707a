"""All surgical objectives in one run over four streams of phantom procedures, to the bundle."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

import medvlp
from medvlp.train.checkpoint import read_checkpoint
from medvlp.train.fit import train_run

EXPERIMENT = """
domain: video
seed: 2
data:
  phantom: {n: 10, seed: 1, kind: video, settings: [seconds=12, size=64, fps=4]}
  batch_size: 4
  labels: ["instrument:grasper", "instrument:hook", "phase:preparation"]
  cache: memory
  tokenizer: {vocab_size: 400}
  mix:
    by: step
    order: blocks
    streams:
      silent:
        {ratio: 1, batch_size: 2, texts: {levels: [sentence], required: false},
         objectives: [memory]}
      clip:
        ratio: 2
        texts: {levels: [clip], along: {levels: [step], n: 2}}
        objectives: [clip, clip_2, mil-nce, ego-nce, video-ssl]
      phase:
        {ratio: 1, texts: {levels: [phase], along: {levels: [clip], n: 3}},
         objectives: [hierarchy]}
      video:
        ratio: 1
        batch_size: 2
        texts: {levels: [procedure], along: {levels: [phase], n: 4, choose: random}}
        preprocess: {frames: 4}
        objectives: [hierarchy_2, procedural, memory]
preprocess: {kind: clip, frames: 2, size: 32}
image: {kind: frames, frame: {kind: resnet, depths: [1, 1], widths: [8, 16], stem: 8, norm: group}}
text: {width: 16, depth: 1, heads: 2, max_tokens: 24}
model: {embed: 8, init_temperature: 0.1, learn_temperature: false}
objectives:
  - {kind: clip, texts: first, least_weight: 0.1, same_recording: leave-out}
  - {kind: clip, texts: first, to_texts: 0.75, weight: 0.5}
  - {kind: mil-nce, form: published, weight: 0.01}
  - kind: ego-nce
    texts: first
    verbs: {use: ["instrument:grasper"], cut: ["instrument:hook"]}
    nouns: {all: ["phase:preparation", "instrument:grasper"]}
  - kind: video-ssl
    siamese: 0.5
    on_views: [{kind: clip, texts: first}, {kind: mil-nce}]
  - {kind: hierarchy}
  - {kind: hierarchy, weight: 0.8}
  - {kind: procedural}
  - {kind: memory, size: 3, retrieved: 2}
optim: {lr: 0.002}
trainer: {steps: 10, accelerator: cpu, log_every: 1, valid_every: 10, save_every: 10}
"""
NAMES = (
    *("clip", "clip_2", "mil-nce", "ego-nce", "video-ssl"),
    *("hierarchy", "hierarchy_2", "procedural", "memory"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("surgical")
    (folder / "experiment.yaml").write_text(EXPERIMENT)
    train_run(folder / "experiment.yaml", [], folder / "run")
    return folder / "run"


def test_each_stream_trains_its_own_objectives(run: Path) -> None:
    rows = pl.read_csv(run / "metrics.csv")
    assert np.isfinite(rows["loss"].to_numpy()).all()
    streams = yaml.safe_load(EXPERIMENT)["data"]["mix"]["streams"]
    for row in rows.iter_rows(named=True):
        counted = {name for name in NAMES if row[name] is not None}
        assert counted == set(streams[row["stream"]]["objectives"])
    # All but the memory have something to say from the first step on.
    silent = rows.filter(stream="silent")
    assert silent["memory"].to_list() == [0.0, 0.0]
    for name in NAMES:
        values = rows[name].drop_nulls()
        assert len(values) > 0
        assert name == "memory" or values.min() > 0, name
    assert rows.filter(stream="video")["memory"].min() > 0


def test_the_memory_is_in_the_checkpoint_and_not_in_the_bundle(run: Path) -> None:
    state = read_checkpoint(run / "checkpoints" / "last.safetensors")["state_dict"]
    held = {n: v.shape for n, v in state.items() if ".memory.memory." in n}
    assert held["objectives.memory.memory.entry_SE"] == (3, 8)
    bundle = medvlp.load(run / "bundle")
    assert set(bundle.objectives) == set(NAMES)
    assert len(bundle.objectives["memory"].memory) == 0
