"""Protocols are strict, and their digest says when numbers may be compared."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from medvlp.errors import ConfigError
from medvlp.evaluate.cases import check_labels
from medvlp.evaluate.examples import choose
from medvlp.evaluate.protocol import load_protocol

CONFIGS = Path(__file__).parents[2] / "configs" / "evaluate"
PROMPTS = {"mode": "independent", "labels": {"edema": {"positive": ["a"], "negative": ["b"]}}}
VALUES = {
    "name": "p", "version": 1, "domain": "cxr",
    "task": {"kind": "zero-shot", "prompts": PROMPTS}, "data": {"manifests": ["m"]},
}  # fmt: skip


def write(folder, **changes):
    path = folder / "p.yaml"
    path.write_text(yaml.safe_dump(VALUES | changes))
    return path


@pytest.mark.parametrize(
    "path",
    sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("robustness/*.yaml")]),
    ids=lambda path: path.stem,
)
def test_every_shipped_protocol_loads(path):
    protocol = load_protocol(path)
    assert protocol.name == path.stem


def test_prompt_file_is_found_beside_the_protocol_and_taken_in(tmp_path):
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "w.yaml").write_text(yaml.safe_dump(PROMPTS))
    inline = load_protocol(write(tmp_path))
    named = load_protocol(write(tmp_path, task={"kind": "zero-shot", "prompts": "words/w.yaml"}))
    assert named == inline
    assert named.digest == inline.digest


def test_digest_follows_what_makes_numbers_comparable(tmp_path):
    digest = load_protocol(write(tmp_path)).digest
    assert load_protocol(write(tmp_path), ["data.manifests=[elsewhere]"]).digest == digest
    for change in ("seed=1", "version=2", "data.split=valid", "bootstrap.draws=5"):
        assert load_protocol(write(tmp_path), [change]).digest != digest


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "../up"}, "name"),
        ({"metric": "auroc"}, "metric"),
        ({"task": {"kind": "segment"}}, "task"),
        ({"data": {"manifests": []}}, "either manifests or phantom"),
        ({"domain": "mri"}, "mri"),
        ({"task": {"kind": "zero-shot", "prompts": PROMPTS, "labels": ["edma"]}}, "edema"),
        ({"bootstrap": {"confidence": 95}}, "confidence"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words):
        load_protocol(write(tmp_path, **changes))


def test_missing_domain_is_asked_for(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("name: p\n")
    with pytest.raises(ConfigError, match="domain is missing"):
        load_protocol(path)


def test_unknown_label_without_a_near_one_lists_what_there_is():
    with pytest.raises(ConfigError, match="mass, nodule"):
        check_labels(["xyz"], ["nodule", "mass"], "task.labels", "the manifests")
    check_labels(["mass"], ["nodule", "mass"], "task.labels", "the manifests")


def test_examples_are_the_clearest_of_each_kind_and_of_different_labels():
    rng = np.random.default_rng(0)
    rows = pl.DataFrame(
        [
            {"sample": f"s{i}", "name": name, "label": i % 2, "score": rng.random()}
            for name in ("a", "b", "c", "d")
            for i in range(20)
        ]
    )
    chosen = choose(rows, {"a": 2.0})
    assert [row["outcome"] for row in chosen] == ["found"] * 3 + ["missed"] * 3
    assert all(row["label"] == 1 for row in chosen)
    found = chosen[:3]
    assert [row["name"] for row in found] == ["b", "c", "d"]
    for row in found:
        best = rows.filter((pl.col("name") == row["name"]) & (pl.col("label") == 1))["score"].max()
        assert row["score"] == best
