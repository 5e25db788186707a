"""Others' predictions as tables, and metrics again from predictions alone."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from medvlp.cli import app
from medvlp.data.manifest import Manifest
from medvlp.errors import InputError
from medvlp.evaluate.brought.table import read_brought
from medvlp.evaluate.recompute import DIFFERENT, recompute
from medvlp.evaluate.run import evaluate_protocol
from medvlp.guarded import run_guarded

PROMPTS = {
    "mode": "independent",
    "labels": {"left": {"positive": ["left"], "negative": ["right"]}},
}


@pytest.fixture
def protocol(bright_manifest, tmp_path):
    values = {
        "name": "sides", "version": 1, "domain": "cxr",
        "task": {"kind": "zero-shot", "prompts": PROMPTS},
        "data": {"manifests": [str(bright_manifest)], "split": "train"},
        "bootstrap": {"draws": 20},
    }  # fmt: skip
    path = tmp_path / "sides.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def wide(seed=0, key="sample"):
    """16 training samples with a score each; files are called 0.png and so on."""
    score = np.random.default_rng(seed).random(16)
    return pl.DataFrame({key: [f"s{i:02d}" for i in range(16)], "left": score})


def bring(frame, tmp_path, protocol, scale="probability", name="theirs"):
    frame.write_csv(tmp_path / "t.csv")
    evaluate_protocol(
        protocol, [], tmp_path / "out", [], [read_brought(name, tmp_path / "t.csv", scale)]
    )
    return tmp_path / "out" / "sides"


def values(folder, model="theirs"):
    rows = json.loads((folder / "metrics.json").read_text())["rows"]
    return {row["metric"]: row["value"] for row in rows if row["model"] == model}


def test_a_wide_table_without_any_bundle_gives_the_reference_auroc(protocol, tmp_path):
    frame = wide()
    folder = bring(frame, tmp_path, protocol)
    assert values(folder)["auroc"] == pytest.approx(
        roc_auc_score([i % 2 for i in range(16)], frame["left"]), abs=1e-12
    )
    assert values(folder, "prevalence")["auroc"] == 0.5
    told = {entry["name"]: entry for entry in json.loads((folder / "bundles.json").read_text())}
    assert told["theirs"]["provenance"] == {"brought": "table"}


def test_a_long_table_in_any_order_gives_the_same_rows(protocol, tmp_path):
    folder = bring(wide(), tmp_path, protocol)
    expected = pl.read_parquet(folder / "predictions.parquet")
    long = wide().unpivot(["left"], index="sample", variable_name="name", value_name="score")
    folder = bring(long.sample(fraction=1, shuffle=True, seed=1), tmp_path, protocol)
    assert pl.read_parquet(folder / "predictions.parquet").equals(expected)


@pytest.mark.parametrize("written", ["{}.png", "{}", "images/2020/{}.png", "C:\\x\\{}.png"])
def test_samples_may_go_by_the_names_of_their_files(protocol, tmp_path, written):
    expected = values(bring(wide(), tmp_path, protocol))
    named = wide(key="file").with_columns(file=pl.Series([written.format(i) for i in range(16)]))
    assert values(bring(named, tmp_path, protocol)) == expected


def test_seeds_are_trainings_of_one_model(protocol, tmp_path):
    both = pl.concat([wide(k).with_columns(seed=pl.lit(k)) for k in (0, 1)])
    folder = bring(both, tmp_path, protocol)
    rows = json.loads((folder / "metrics.json").read_text())["rows"]
    (row,) = (r for r in rows if r["model"] == "theirs" and r["metric"] == "auroc")
    assert row["seeds"] == 2
    truth = [i % 2 for i in range(16)]
    alone = [roc_auc_score(truth, wide(k)["left"]) for k in (0, 1)]
    assert row["value"] == pytest.approx(np.mean(alone), abs=1e-12)


REFUSED = {
    "unknown": (wide().with_columns(sample=pl.col("sample").replace("s03", "x")),
                "1 unknown samples (rows 4); 1 scores of 1 samples are missing (samples s03)"),
    "another split": (pl.concat([wide(), pl.DataFrame({"sample": ["s20"], "left": [0.5]})]),
                      "1 unknown samples (rows 17)"),
    "missing": (wide().head(9), "7 scores of 7 samples are missing (samples s09, s10, s11, s12, "
                "s13, ...)"),
    "twice": (pl.concat([wide(), wide().head(2)]), "4 given twice (rows 1, 2, 17, 18)"),
    "no number": (wide().with_columns(pl.col("left").cast(pl.String).replace(
        wide().cast(pl.String)["left"][0], "high")), "1 scores that are no number (rows 1)"),
    "empty": (wide().with_columns(left=pl.when(pl.col("sample") != "s05").then("left")),
              "1 scores that are no number (rows 6)"),
    "infinite": (wide().with_columns(left=pl.when(pl.col("sample") == "s05").then(np.inf)
                                     .otherwise("left")), "1 scores that are no number (rows 6)"),
    "outside": (wide().with_columns(left=pl.col("left") * 4 - 2), "scores outside 0 to 1"),
    "label": (wide().with_columns(mass=pl.lit(0.5)), "16 labels that are not evaluated"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_counted_and_refused_in_one_line(protocol, tmp_path, case):
    frame, says = REFUSED[case]
    with pytest.raises(InputError) as error:
        bring(frame, tmp_path, protocol)
    assert says in error.value.message
    assert "\n" not in error.value.message
    assert not (tmp_path / "out" / "sides").exists()


@pytest.mark.parametrize("name", ["chance", "prevalence", "metadata-only"])
def test_a_control_s_name_is_taken(protocol, tmp_path, name):
    with pytest.raises(InputError, match="already"):
        bring(wide(), tmp_path, protocol, name=name)


def test_a_table_needs_a_column_that_says_which_sample(protocol, tmp_path):
    with pytest.raises(InputError, match="column sample or a column file"):
        bring(wide(key="id"), tmp_path, protocol)


def test_two_files_of_one_name_are_not_guessed_at(bright_manifest, protocol, tmp_path):
    """The same name in another folder belongs to another sample: only a longer path tells."""
    manifest = tmp_path / "manifest"
    shutil.copytree(bright_manifest, manifest)
    shutil.copytree(Manifest.open(bright_manifest).private, tmp_path / "manifest.private")
    file = tmp_path / "manifest.private" / "sources.parquet"
    root = bright_manifest.parent
    twin = pl.col("path").replace(str(root / "1.png"), str(root / "deep" / "0.png"))
    pl.read_parquet(file).with_columns(twin).write_parquet(file)
    (root / "deep").mkdir(exist_ok=True)
    shutil.copy(root / "1.png", root / "deep" / "0.png")
    told = yaml.safe_load(protocol.read_text())
    told["data"]["manifests"] = [str(manifest)]
    protocol.write_text(yaml.safe_dump(told))
    names = [f"{i}.png" for i in range(16)]
    names[1] = "0.png"
    named = wide(key="file").with_columns(file=pl.Series(names))
    with pytest.raises(InputError, match="2 file names of several samples"):
        bring(named, tmp_path, protocol)
    names[:2] = [f"{root.name}/0.png", "deep/0.png"]
    folder = bring(named.with_columns(file=pl.Series(names)), tmp_path, protocol)
    frame = pl.read_parquet(folder / "predictions.parquet").filter(model="theirs")
    assert frame.sort("sample")["score"].to_list() == wide()["left"].to_list()


def test_scores_of_any_scale_are_judged_by_their_order_alone(protocol, tmp_path):
    probabilities = values(bring(wide(), tmp_path, protocol))
    logits = wide().with_columns(left=10 * pl.col("left") - 3)
    ranked = values(bring(logits, tmp_path, protocol, scale="ranks"))
    assert ranked["auroc"] == probabilities["auroc"]
    assert "brier_score" in probabilities
    assert not {name for name in ranked if name.startswith(("brier", "calibration", "recall"))}


def test_retrieval_takes_no_table(bright_manifest, protocol, tmp_path):
    told = yaml.safe_load(protocol.read_text())
    told["task"] = {"kind": "retrieval", "levels": ["sentence"]}
    protocol.write_text(yaml.safe_dump(told))
    with pytest.raises(InputError, match="more than scores"):
        bring(wide(), tmp_path, protocol)


def test_metrics_again_are_the_same_bytes(protocol, tmp_path):
    folder = bring(wide(), tmp_path, protocol)
    before = (folder / "metrics.json").read_bytes()
    (folder / "metrics.json").unlink()
    recompute(folder, None, check=False)
    assert (folder / "metrics.json").read_bytes() == before
    recompute(tmp_path / "out", tmp_path / "again", check=False)
    assert (tmp_path / "again" / "sides" / "metrics.json").read_bytes() == before


def test_a_check_tells_a_changed_number_and_writes_nothing(protocol, tmp_path):
    folder = bring(wide(), tmp_path, protocol)
    assert recompute(folder, None, check=True)[1] == 0
    text = (folder / "metrics.json").read_text().replace('"n": 16', '"n": 17', 1)
    (folder / "metrics.json").write_text(text)
    lines, code = recompute(folder, None, check=True)
    assert (code, lines) == (DIFFERENT, "sides: metrics.json differs")
    assert (folder / "metrics.json").read_text() == text


@pytest.mark.parametrize("file", ["predictions.parquet", "bundles.json", "protocol.yaml"])
def test_a_changed_file_is_named_and_refused(protocol, tmp_path, file):
    folder = bring(wide(), tmp_path, protocol)
    with (folder / file).open("ab") as opened:
        opened.write(b" ")
    with pytest.raises(InputError, match=f"sides/{file} was changed"):
        recompute(folder, None, check=True)


def test_a_table_that_was_added_is_refused(protocol, tmp_path):
    folder = bring(wide(), tmp_path, protocol)
    wide().write_parquet(folder / "ranks.parquet")
    with pytest.raises(InputError, match=r"ranks\.parquet was added"):
        recompute(folder, None, check=True)


def test_the_command_line_takes_all_of_it(protocol, tmp_path, capsys):
    wide().write_csv(tmp_path / "t.csv")

    def run(*words):
        return run_guarded(lambda: app(["evaluate", *map(str, words)], standalone_mode=False))

    out = tmp_path / "out"
    assert run(protocol, "--predictions", f"theirs={tmp_path / 't.csv'}", "--out", out) == 0
    assert "theirs" in capsys.readouterr().out
    assert run("--from-predictions", out, "--check") == 0
    (out / "sides" / "metrics.json").write_text("{}")
    assert run("--from-predictions", out, "--check") == DIFFERENT
    assert run("--from-predictions", out, protocol) == 2
    assert run(protocol, "--predictions", "theirs", "--out", out) == 2
    assert run(protocol, "--out", out) == 2
