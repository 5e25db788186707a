"""Many bundles over many protocols: cells, resuming, failures, and the table of it all."""

import csv
import json
import operator
import os
import shutil
import time
from functools import partial

import polars as pl
import pytest
import yaml

from medvlp.errors import BundleError, ConfigError
from medvlp.evaluate.recompute import recompute
from medvlp.evaluate.run import evaluate_protocol
from medvlp.evaluate.suite import processes
from medvlp.evaluate.suite.config import is_suite, load_suite
from medvlp.evaluate.suite.run import INCOMPLETE, run_suite
from medvlp.report.table.write import NOT_RERUN, write_tables

PROMPTS = {
    "mode": "independent",
    "labels": {"left": {"positive": ["opacity on the left side"], "negative": ["normal lungs"]}},
}
TASKS = {
    "labels": {"kind": "zero-shot", "prompts": PROMPTS, "rule": "native"},
    "search": {"kind": "retrieval", "levels": ["sentence"], "k": [1, 10]},
}


def write(path, values):
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def place(bright_manifest, tiny_bundle, tmp_path_factory):
    """Two protocols, two bundles and their suite."""
    root = tmp_path_factory.mktemp("suite")
    for seed, name in enumerate(("one", "two")):
        shutil.copytree(tiny_bundle("cxr", seed), root / name / "bundle")
    for name, task in TASKS.items():
        protocol = {
            "name": name, "version": 1, "domain": "cxr", "task": task,
            "data": {"manifests": [str(bright_manifest)], "split": "train"},
            "bootstrap": {"draws": 30},
        }  # fmt: skip
        write(root / f"{name}.yaml", protocol)
    suite = {"name": "contest", "version": 1, "protocols": ["labels.yaml", "search.yaml"],
             "bundles": ["one/bundle", "two/bundle"], "workers": 1}  # fmt: skip
    write(root / "suite.yaml", suite)
    return root


@pytest.fixture(scope="module")
def ran(place):
    lines, code = run_suite(place / "suite.yaml", place / "out")
    assert code == 0, lines
    return place / "out"


def cells(out):
    return {path.name: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}


def test_joined_cells_are_a_single_evaluation(ran, place, tmp_path):
    bundles = [place / name / "bundle" for name in ("one", "two")]
    for name in TASKS:
        evaluate_protocol(place / f"{name}.yaml", bundles, tmp_path, [])
        for file in (tmp_path / name).glob("*.parquet"):
            assert pl.read_parquet(file).equals(pl.read_parquet(ran / name / file.name))
        alone, together = (
            json.loads((folder / name / "metrics.json").read_text()) for folder in (tmp_path, ran)
        )
        assert alone["rows"] == together["rows"]
        assert alone["counts"] == together["counts"]


def test_metrics_of_a_suite_can_be_made_again(ran):
    lines, code = recompute(ran, None, check=True)
    assert code == 0
    assert lines.count("is the same") == 2


def test_a_second_run_computes_nothing(ran, place):
    before = cells(ran), (ran / "labels" / "metrics.json").stat().st_mtime_ns
    index = (ran / "suite.json").read_bytes()
    assert run_suite(place / "suite.yaml", ran)[1] == 0
    assert (cells(ran), (ran / "labels" / "metrics.json").stat().st_mtime_ns) == before
    assert (ran / "suite.json").read_bytes() == index


def test_only_a_lost_or_damaged_cell_is_run_again(ran, place):
    before = cells(ran)
    lost, damaged = list(before)[:2]
    shutil.rmtree(ran / "cells" / lost)
    with (ran / "cells" / damaged / "predictions.parquet").open("ab") as file:
        file.write(b"x")
    assert run_suite(place / "suite.yaml", ran)[1] == 0
    after = cells(ran)
    assert {name for name in after if after[name] != before[name]} == {lost, damaged}


def test_another_protocol_needs_other_cells(ran, place, tmp_path):
    shutil.copytree(ran, tmp_path / "out")
    suite = yaml.safe_load((place / "suite.yaml").read_text())
    suite |= {"protocols": [str(place / "labels.yaml")], "overrides": ["seed=5"]}
    suite["bundles"] = [str(place / bundle) for bundle in suite["bundles"]]
    run_suite(write(tmp_path / "suite.yaml", suite), tmp_path / "out")
    assert len(cells(tmp_path / "out")) == len(cells(ran)) + 2


def test_a_failing_cell_is_reported_and_the_rest_goes_on(place, tmp_path):
    """The prompts of a second protocol fit no manifest: its cells fail, the others are there."""
    values = yaml.safe_load((place / "labels.yaml").read_text())
    values["task"]["prompts"] = {
        "mode": "independent", "labels": {"nowhere": {"positive": ["x"], "negative": ["y"]}}
    }  # fmt: skip
    write(tmp_path / "broken.yaml", values | {"name": "broken"})
    suite = yaml.safe_load((place / "suite.yaml").read_text())
    suite |= {"protocols": [str(place / "labels.yaml"), "broken.yaml", "absent.yaml"]}
    suite["bundles"] = [str(place / bundle) for bundle in suite["bundles"]]
    lines, code = run_suite(write(tmp_path / "suite.yaml", suite), tmp_path / "out")
    assert code == INCOMPLETE
    assert "failed: broken × one" in lines
    assert "nowhere" in lines
    assert "refused: absent" in lines
    assert (tmp_path / "out" / "labels" / "metrics.json").is_file()
    assert not (tmp_path / "out" / "broken").exists()
    table = write_tables(tmp_path / "out").read_text()
    assert "broken" not in table.split("|")[2]


def test_a_process_that_dies_takes_one_job_along():
    fine, dying, after = partial(os.chdir, "."), partial(os._exit, 1), partial(str, "refused")
    found = processes.run_apart(operator.call, [fine, dying, after], 1)
    assert [reason for _, reason in found] == [None, processes.DIED, "refused"]


def test_an_interrupted_run_goes_on_with_the_cells_it_lacks(place, tmp_path, monkeypatch):
    def first_alone(*arguments):
        yield next(processes.run_apart(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr("medvlp.evaluate.suite.run.run_apart", first_alone)
    with pytest.raises(KeyboardInterrupt):
        run_suite(place / "suite.yaml", tmp_path)
    monkeypatch.undo()
    held = {name: when for name, when in cells(tmp_path).items() if name[0] != "."}
    assert len(held) in (1, 2)  # the second may have come to its end before it was stopped
    lines, code = run_suite(place / "suite.yaml", tmp_path)
    assert (code, lines.splitlines()[0]) == (0, "4 of 4 cells are done")
    assert {name: cells(tmp_path)[name] for name in held} == held


@pytest.mark.soak
def test_a_killed_run_goes_on_with_the_cells_it_lacks(place, tmp_path, medvlp_process):
    command = ["evaluate", str(place / "suite.yaml"), "--out", str(tmp_path / "out")]
    first = medvlp_process(*command)
    stop = time.monotonic() + 120
    while not list((tmp_path / "out" / "cells").glob("[!.]*")) and time.monotonic() < stop:
        time.sleep(0.02)
    first.kill()
    first.communicate()
    held = {name: when for name, when in cells(tmp_path / "out").items() if name[0] != "."}
    assert held
    second = medvlp_process(*command)
    said, wrong = second.communicate(timeout=200)
    assert second.returncode == 0, wrong
    assert "4 of 4 cells are done" in said
    after = cells(tmp_path / "out")
    assert {name: after[name] for name in held} == held


def test_the_table_holds_every_number_once(ran):
    write_tables(ran)
    with (ran / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    metrics = json.loads((ran / "labels" / "metrics.json").read_text())["rows"]
    macro = {r["model"]: r for r in metrics if r["metric"] == "auroc_macro"}
    own = [r for r in rows if r["protocol"] == "labels"]
    assert {r["model"] for r in own} == set(macro)
    for row in own:
        expected = macro[row["model"]]["value"]
        assert row["value"] == ("" if expected is None else repr(expected))
    assert {r["model"] for r in rows if r["metric"] == "mean rank"} == {"one", "two"}
    page = (ran / "table.md").read_text()
    models, controls = page.split("**Controls**")
    assert "| one |" in models
    assert "| chance |" in controls
    latex = (ran / "table.tex").read_text()
    assert latex.count(r"\midrule") == 2
    assert r"\textit{chance}" in latex
    assert NOT_RERUN not in page


def test_published_numbers_stand_beside_with_their_caveats(place, tmp_path):
    """A protocol of the published name brings what was published about it."""
    values = yaml.safe_load((place / "labels.yaml").read_text())
    write(tmp_path / "covid.yaml", values | {"name": "benchx-covidx-finetune-1"})
    suite = {"name": "c", "version": 1, "protocols": ["covid.yaml"], "workers": 1,
             "bundles": [str(place / "one" / "bundle")]}  # fmt: skip
    run_suite(write(tmp_path / "suite.yaml", suite), tmp_path / "out")
    page = write_tables(tmp_path / "out").read_text()
    assert NOT_RERUN in page
    assert "| REFERS | 66.7 |" in page
    assert "F1 = 66.7" in page
    with (tmp_path / "out" / "table.csv").open() as file:
        found = [r for r in csv.DictReader(file) if r["source"].startswith(NOT_RERUN)]
    assert {r["model"] for r in found} >= {"REFERS", "MRM"}
    assert all(r["low"] == "" for r in found)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"protocols": []}, "protocols"),
        ({"extra": []}, "extra"),
        ({"workers": 0}, "workers"),
        ({"bundles": ["one", "one"]}, "named twice"),
    ],
)
def test_a_wrong_suite_names_the_key(place, tmp_path, changes, says):
    values = yaml.safe_load((place / "suite.yaml").read_text()) | changes
    with pytest.raises(ConfigError, match=says):
        load_suite(write(tmp_path / "suite.yaml", values))


def test_a_suite_is_told_from_a_protocol(place):
    assert is_suite(place / "suite.yaml")
    assert not is_suite(place / "labels.yaml")


def test_a_damaged_bundle_stops_the_suite_at_once(place, tmp_path):
    shutil.copytree(place / "one", tmp_path / "one")
    (tmp_path / "one" / "bundle" / "model.safetensors").write_bytes(b"no")
    suite = {"name": "c", "version": 1, "protocols": [str(place / "labels.yaml")],
             "bundles": ["one/bundle"]}  # fmt: skip
    with pytest.raises(BundleError):
        run_suite(write(tmp_path / "suite.yaml", suite), tmp_path / "out")
