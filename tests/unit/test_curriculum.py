from pathlib import Path

import pytest
import yaml

from medvlp.errors import ConfigError
from medvlp.train.curriculum import WeightChange, weights_at
from medvlp.train.experiment import load_experiment


def test_weights_change_at_their_step_at_once_or_in_a_straight_line() -> None:
    start = {"clip": 1.0, "labels": 0.0}
    changes = [
        WeightChange(step=2, weights={"labels": 3.0}),
        WeightChange(step=4, weights={"clip": 0.0, "labels": 1.0}, over=4),
    ]
    by_hand = [(1.0, 0.0)] * 2 + [(1.0, 3.0)] * 3
    by_hand += [(0.75, 2.5), (0.5, 2.0), (0.25, 1.5)] + [(0.0, 1.0)] * 2
    assert [tuple(weights_at(s, start, changes).values()) for s in range(10)] == by_hand


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "e.yaml"
    values = {
        "domain": "cxr",
        "data": {
            "manifests": ["m"],
            "labels": ["a"],
            "batch_size": 8,
            "mix": {"streams": {"fine": {"texts": {"levels": ["sentence"]}}, "coarse": {}}},
        },
        "preprocess": {"kind": "cxr", "size": 32},
        "image": {"kind": "vit", "size": 32, "patch": 8, "width": 16, "depth": 1, "heads": 2},
        "text": {"width": 16, "depth": 1, "heads": 2},
        "objectives": [{"kind": "clip"}, {"kind": "labels"}, {"kind": "clip"}],
        "trainer": {"steps": 50},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_stream_may_have_a_contract_of_its_own(file: Path) -> None:
    loaded = load_experiment(file, ["data.mix.streams.coarse.preprocess={size: 64}"])
    assert loaded.contract("coarse").size == 64
    assert loaded.contract("fine") == loaded.preprocess


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("data.mix.streams.fine.objectives=[clap]", "fine: no objective clap in clip, labels, cl"),
        ("data.mix.streams.fine.objectives=[]", "from step 0 no objective counts for fine"),
        ("data.mix.streams.fine.preprocess={sides: 4}", r"streams\.fine\.preprocess: .*sides"),
        ("weight_schedule=[{step: 3, weights: {x: 1}}]", "step 3: no objective x in clip, labels"),
        ("weight_schedule=[{step: 3, weights: {clip: -1}}]", "greater than or equal to 0"),
        (
            "weight_schedule=[{step: 9, weights: {}}, {step: 9, weights: {}}]",
            r"steps \[9, 9\] do not ascend",
        ),
        (
            "weight_schedule=[{step: 3, over: 5, weights: {}}, {step: 7, weights: {}}]",
            "the change of step 3 is not over",
        ),
        (
            "weight_schedule=[{step: 9, weights: {clip: 0, labels: 0, clip_2: 0}, over: 3}]",
            "from step 12 no objective counts for coarse, fine",
        ),
        ("trainer.devices=4", None),
        ("data.mix.streams.fine.batch_size=6", None),
    ],
)
def test_impossible_curricula_are_refused(file: Path, override: str, reason: str | None) -> None:
    if reason is None:
        assert load_experiment(file, [override])
        return
    with pytest.raises(ConfigError, match=reason):
        load_experiment(file, [override])


def test_a_streams_batch_must_fit_the_devices(file: Path) -> None:
    uneven = ["data.mix.streams.fine.batch_size=6", "trainer.devices=4"]
    with pytest.raises(ConfigError, match="6 samples of a batch are no multiple of"):
        load_experiment(file, uneven)
