"""Visual question answering: from a table of questions to metrics, with controls at their level."""

import json

import polars as pl
import pytest
import yaml
from sided import write_sided, write_sided_bundle

from medvlp.data.manifest import Manifest
from medvlp.errors import ConfigError
from medvlp.evaluate.predict import Study
from medvlp.evaluate.protocol import load_protocol
from medvlp.evaluate.questions import ask, from_labels, read_table
from medvlp.evaluate.record import compute_metrics
from medvlp.evaluate.run import evaluate_protocol
from medvlp.plain_files import read_json
from medvlp.report.build import build_report

TASK = {
    "kind": "vqa",
    "decoder": {"depth": 1, "width": 32, "heads": 2, "dropout": 0.0, "max_tokens": 32},
    "search": {"rates": [0.005], "steps": 150, "batch_size": 8, "checks": 5},
}
SPLITS = {"train": "train", "valid": "valid", "test": "test"}
SIDE, EFFUSION = "On which side is the opacity?", "Is there an effusion?"


def question_rows(manifest):
    """The side in free words, and as yes or no whether there is an effusion (on the left)."""
    for sample, value in Manifest.open(manifest).labels.select("sample", "value").iter_rows():
        base = {"sample": sample, "topic": "side", "options": None}
        answer = "left lung" if value == 1 else "right lung"
        yield {**base, "question": SIDE, "answer": answer, "kind": "open"}
        yield {
            **base, "topic": "presence", "question": EFFUSION, "kind": "closed",
            "answer": "Yes" if value == 1 else "no", "options": "yes|no",
        }  # fmt: skip


def write_protocol(folder, manifest, **task):
    values = {
        "name": "ask", "version": 1, "domain": "cxr", "task": {**TASK, **task},
        "data": {"manifests": [str(manifest)]}, "bootstrap": {"draws": 20},
    }  # fmt: skip
    path = folder / "ask.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def plain(asked):
    """Questions as tuples; items hold arrays, which do not compare."""
    return dict(asked.counts), [
        (part, q.name, q.item.sample, q.kind, q.topic, q.question, q.answer, q.options)
        for part, questions in asked.parts.items()
        for q in questions
    ]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_sided(tmp_path_factory.mktemp("sided"))


@pytest.fixture
def study(manifest):
    return Study(
        protocol="ask", domain="cxr", manifests=(Manifest.open(manifest),), split="test", seed=0
    )


@pytest.fixture(scope="module")
def evaluated(manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("answering")
    pl.DataFrame(list(question_rows(manifest))).write_csv(folder / "questions.csv")
    bundle = write_sided_bundle(folder / "mine" / "bundle")
    protocol = write_protocol(folder, manifest, questions="questions.csv")
    evaluate_protocol(protocol, [bundle], folder / "out", [])
    return protocol, folder / "out" / "ask"


@pytest.fixture(scope="module")
def rows(evaluated):
    found = read_json(evaluated[1] / "metrics.json")["rows"]
    return {(row["model"], row["metric"], row["name"]): row for row in found}


def test_a_model_that_sees_answers_both_kinds(rows):
    assert rows["mine", "accuracy", "closed"]["value"] > 0.95
    assert rows["mine", "accuracy", "closed/presence"]["n"] == 32
    assert rows["mine", "exact_match", "open"]["value"] > 0.95
    assert rows["mine", "token_f1", "open/side"]["value"] > 0.95


@pytest.mark.parametrize("control", ["text-only", "prevalence"])
def test_the_question_alone_gives_half_of_the_answers(rows, control):
    assert rows[control, "accuracy", "closed"]["value"] == pytest.approx(0.5)
    assert rows[control, "exact_match", "open"]["value"] == pytest.approx(0.5)
    # "left lung" and "right lung" share a word.
    assert rows[control, "token_f1", "open"]["value"] == pytest.approx(0.75)
    assert rows[control, "accuracy", "closed"]["control"]


def test_permuted_images_and_random_answers_are_near_guessing(rows):
    for control in ("image-blind", "chance"):
        assert 0.2 < rows[control, "accuracy", "closed"]["value"] < 0.8


def test_metrics_come_again_without_the_table_of_questions(evaluated):
    protocol, folder = evaluated
    first = compute_metrics(load_protocol(protocol), folder)
    again = compute_metrics(load_protocol(folder / "protocol.yaml"), folder)
    assert again.rows
    assert again == first
    assert load_protocol(protocol).digest == load_protocol(folder / "protocol.yaml").digest


def test_every_question_has_one_row_a_model(evaluated):
    predictions = pl.read_parquet(evaluated[1] / "predictions.parquet")
    assert predictions.select("model", "seed", "sample", "name").is_duplicated().sum() == 0
    assert predictions.group_by("model").len()["len"].unique().to_list() == [64]
    answers = pl.read_parquet(evaluated[1] / "answers.parquet")
    joined = predictions.join(answers, on=["model", "seed", "name"], suffix="_answer")
    assert (joined["digest"] == joined["digest_answer"]).all()
    assert len(joined) == len(predictions)
    build_report(evaluated[1].parent)
    page = (evaluated[1].parent / "report.html").read_text()
    assert "Answering questions about an image" in page
    told = page + "".join(path.read_text() for path in evaluated[1].glob("*.json"))
    assert "q000001" not in page
    assert SIDE not in told
    assert "left lung" not in told


def test_questions_from_labels_without_a_table_and_without_training(manifest, tmp_path):
    bundle = write_sided_bundle(tmp_path / "mine" / "bundle")
    protocol = write_protocol(tmp_path, manifest, closed="zero-shot", controls=["image-blind"])
    evaluate_protocol(protocol, [bundle], tmp_path / "out", [])
    table = pl.read_parquet(tmp_path / "out" / "ask" / "answers.parquet")
    mine = table.filter((pl.col("model") == "mine") & (pl.col("kind") == "closed"))
    mine = mine.filter(pl.col("topic") == "presence")
    assert set(mine["predicted"]) <= {"yes", "no"}
    found = read_json(tmp_path / "out" / "ask" / "metrics.json")["rows"]
    accuracy = {r["model"]: r["value"] for r in found if r["name"] == "closed/presence"}
    right = (mine["predicted"] == mine["answer"]).mean()
    assert accuracy["mine"] == pytest.approx(right)
    assert set(accuracy) == {"mine", "image-blind", "prevalence", "chance"}


def test_every_row_of_a_table_is_accounted_for(manifest, study):
    rows = list(question_rows(manifest))
    first = rows[1]
    bad = {
        "unreadable": None,
        "unknown_sample": {**first, "sample": "nobody"},
        "blank": {**first, "answer": " ? "},
        "kind": {**first, "kind": "multiple"},
        "answer_not_among_options": {**first, "question": "Which?", "answer": "maybe"},
        "asked_twice": {**first, "question": EFFUSION.upper()},
    }
    counts = ask([*rows, *bad.values()], study, SPLITS).counts
    for code in bad:
        assert counts[f"questions_refused_{code}"] == 1
    used = sum(counts[f"questions_{part}"] for part in SPLITS)
    assert counts["questions"] == len(rows) + len(bad) == used + len(bad)
    assert used == 2 * 96


def test_questions_of_other_splits_are_counted_as_such(manifest, study):
    splits = {"train": "train", "valid": "valid"}
    counts = ask(list(question_rows(manifest)), study, splits).counts
    assert counts["questions_other_split"] == 64


def test_a_sample_is_found_by_its_files_name(manifest, study):
    rows = [{**row, "sample": None, "file": f"{int(row['sample'][1:])}.png"}
            for row in question_rows(manifest)]  # fmt: skip
    by_file, by_id = (ask(r, study, SPLITS) for r in (rows, list(question_rows(manifest))))
    assert plain(by_file) == plain(by_id)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_all_forms_of_a_table_give_the_same_questions(manifest, study, tmp_path, suffix):
    rows = list(question_rows(manifest))
    path = tmp_path / f"questions{suffix}"
    if suffix == ".json":
        listed = [{**r, "options": r["options"] and r["options"].split("|")} for r in rows]
        path.write_text(json.dumps(listed))
    elif suffix == ".csv":
        pl.DataFrame(rows).write_csv(path)
    else:
        pl.DataFrame(rows).write_parquet(path)
    assert plain(ask(read_table(path), study, SPLITS)) == plain(ask(rows, study, SPLITS))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("q.csv", "sample,question,answer\ns000,a,b\n", "column kind is missing"),
        ("q.csv", "question,answer,kind\na,b,open\n", "column sample or file is missing"),
        ("q.json", '{"sample": "s000"}', "no list of objects"),
    ],
)
def test_a_table_without_what_it_needs_is_refused(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_table(tmp_path / name)


def test_a_split_without_questions_is_refused(manifest, study):
    rows = [row for row in question_rows(manifest) if int(row["sample"][1:]) < 48]
    with pytest.raises(ConfigError, match="split valid has no question"):
        ask(rows, study, SPLITS)


def test_another_table_than_the_protocols_is_refused(manifest, tmp_path):
    (tmp_path / "questions.csv").write_text("sample,question,answer,kind\n")
    protocol = write_protocol(tmp_path, manifest, questions="questions.csv", sha256="0" * 64)
    with pytest.raises(ConfigError, match="not the table of the protocol's sha256"):
        load_protocol(protocol)
    with pytest.raises(ConfigError, match=r"nowhere\.csv is not there"):
        load_protocol(write_protocol(tmp_path, manifest, questions="nowhere.csv"))


def test_made_up_questions_follow_labels_and_sides(manifest, study):
    rows = from_labels(study)
    assert len(rows) == 3 * 96
    assert {row["topic"] for row in rows} == {"presence", "count", "side"}
    for row in rows:
        left = int(row["sample"][1:]) % 2 == 0
        expected = {
            "presence": "yes" if left else "no",
            "count": "1" if left else "0",
            "side": "left" if left else "right",
        }
        assert row["answer"] == expected[row["topic"]]
