"""Report generation from bundles and a manifest to metrics and back from the written tables."""

import json
import shutil

import polars as pl
import pytest
import torch
import yaml
from safetensors.torch import save_file
from sided import REPORTS, write_sided, write_sided_bundle
from transformers import BertConfig, BertModel

from medvlp.digest import digest_bytes
from medvlp.errors import ConfigError
from medvlp.evaluate.metrics.radgraph import add_radgraph
from medvlp.evaluate.protocol import load_protocol
from medvlp.evaluate.record import compute_metrics
from medvlp.evaluate.run import evaluate_protocol
from medvlp.models.chexbert import CHEXBERT
from medvlp.plain_files import read_json
from medvlp.report.build import build_report

TASK = {
    "kind": "generation",
    "decoder": {"depth": 1, "width": 32, "heads": 2, "dropout": 0.0, "max_tokens": 24},
    "search": {"rates": [0.005], "steps": 150, "batch_size": 16, "checks": 5},
    "seeds": 2,
}


def write_protocol(folder, manifest, task=TASK, **data):
    values = {
        "name": "write", "version": 1, "domain": "cxr", "task": task,
        "data": {"manifests": [str(manifest)], **data}, "bootstrap": {"draws": 20},
    }  # fmt: skip
    path = folder / "write.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def write_chexbert(folder):
    """A random labeller in the published layout."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "effusion", "left", "right"]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(pieces), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16,
    )  # fmt: skip
    state = {f"module.bert.{k}": v for k, v in BertModel(config).state_dict().items()}
    for i, size in enumerate([4] * 13 + [2]):
        head = torch.nn.Linear(16, size)
        state[f"module.linear_heads.{i}.weight"] = head.weight.detach() * 10
        state[f"module.linear_heads.{i}.bias"] = head.bias.detach()
    folder.mkdir()
    config.to_json_file(folder / "config.json")
    (folder / "vocab.txt").write_text("\n".join(pieces))
    save_file(state, folder / "model.safetensors")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_sided(tmp_path_factory.mktemp("sided"))


@pytest.fixture(scope="module")
def evaluated(manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generation")
    bundle = write_sided_bundle(folder / "mine" / "bundle")
    protocol = write_protocol(folder, manifest)
    told = evaluate_protocol(protocol, [bundle], folder / "out", [])
    assert "effusion" not in told
    return protocol, folder / "out" / "write"


@pytest.fixture(scope="module")
def rows(evaluated):
    found = read_json(evaluated[1] / "metrics.json")["rows"]
    return {(row["model"], row["metric"], row["name"]): row for row in found}


def test_the_decoder_writes_what_the_image_shows(rows):
    assert rows["mine", "exact_match", "report"]["value"] > 0.95
    assert rows["mine", "finding_f1_micro", "all"]["value"] > 0.95
    assert rows["mine", "bleu_4", "report"]["value"] > 0.95
    assert rows["mine", "polarity_error", "all"]["value"] < 0.05
    assert rows["mine", "exact_match", "report"]["seeds"] == 2


@pytest.mark.parametrize("control", ["text-only", "constant-report"])
def test_without_an_image_one_report_is_written_for_all(evaluated, rows, control):
    texts = pl.read_parquet(evaluated[1] / "texts.parquet").filter(pl.col("model") == control)
    for (_,), part in texts.group_by("seed"):
        assert part["generated"].n_unique() == 1
    # Two reports, equally frequent: right for half of the images, by guessing.
    assert rows[control, "exact_match", "report"]["value"] == pytest.approx(0.5)
    assert rows[control, "exact_match", "report"]["control"]


def test_permuted_images_and_random_reports_are_near_guessing(rows):
    for control in ("image-blind", "chance"):
        assert 0.2 < rows[control, "exact_match", "report"]["value"] < 0.8
        assert 0.2 < rows[control, "polarity_error", "all"]["value"] < 0.8


def test_every_row_refers_to_its_text(evaluated):
    predictions = pl.read_parquet(evaluated[1] / "predictions.parquet")
    texts = pl.read_parquet(evaluated[1] / "texts.parquet")
    key = ["model", "seed", "sample"]
    joined = predictions.join(texts, on=key, suffix="_text")
    assert len(joined) == len(predictions)
    assert (joined["digest"] == joined["digest_text"]).all()
    assert predictions.select("model", "seed", "sample", "name").is_duplicated().sum() == 0
    mine = predictions.filter((pl.col("model") == "mine") & (pl.col("name") == "pleural_effusion"))
    assert mine.group_by("seed").agg(pl.col("label").sum())["label"].to_list() == [16, 16]


def test_metrics_come_again_from_the_written_tables_alone(evaluated):
    protocol, folder = evaluated
    again = compute_metrics(load_protocol(folder / "protocol.yaml"), folder)
    first = compute_metrics(load_protocol(protocol), folder)
    assert again.rows
    assert again == first


def test_radgraph_annotations_brought_in_become_a_metric(evaluated, tmp_path):
    folder = shutil.copytree(evaluated[1], tmp_path / "write")
    texts = pl.read_parquet(folder / "texts.parquet")
    annotated = {
        digest_bytes(text.encode()): {"entities": {"1": {"tokens": text, "label": "OBS-DP"}}}
        for text in {*texts["generated"], *texts["reference"]}
    }
    (tmp_path / "radgraph.json").write_text(json.dumps(annotated))
    add_radgraph(folder, tmp_path / "radgraph.json")
    rows = compute_metrics(load_protocol(folder / "protocol.yaml"), folder).rows
    graph = {row.model: row.value for row in rows if row.metric == "radgraph_f1"}
    # One entity, which is the whole text, and no relation: 1 for the same words, else a half.
    same = {row.model: row.value for row in rows if row.metric == "exact_match"}
    assert graph["constant-report"] == pytest.approx((1 + same["constant-report"]) / 2)


def test_reports_stand_in_their_table_and_nowhere_else(evaluated):
    root = evaluated[1].parent
    build_report(root)
    page = (root / "report.html").read_text()
    assert "Writing a report about an image" in page
    assert "constant-report" in page
    for path in (*root.rglob("*.json"), *root.rglob("*.html"), *root.rglob("*.yaml")):
        assert not any(text in path.read_text() for text in REPORTS.values())


def test_a_tuned_tower_learns_along_and_leaves_the_bundle_alone(manifest, tmp_path):
    bundle = write_sided_bundle(tmp_path / "mine" / "bundle")
    before = (bundle / "model.safetensors").read_bytes()
    task = {**TASK, "tune": True, "controls": [], "seeds": 1, "beams": 2}
    task["search"] = {**TASK["search"], "tower_rate": 0.2, "layer_decay": 1.0}
    evaluate_protocol(write_protocol(tmp_path, manifest, task), [bundle], tmp_path / "out", [])
    rows = read_json(tmp_path / "out" / "write" / "metrics.json")["rows"]
    exact = {r["model"]: r["value"] for r in rows if r["metric"] == "exact_match"}
    assert exact["mine"] > 0.9
    assert set(exact) == {"mine", "constant-report", "chance"}
    assert (bundle / "model.safetensors").read_bytes() == before


def test_findings_can_be_chexberts_from_the_users_own_weights(manifest, tmp_path):
    write_chexbert(tmp_path / "weights")
    bundle = write_sided_bundle(tmp_path / "mine" / "bundle")
    task = {**TASK, "chexbert": "weights", "controls": [], "seeds": 1}
    task["search"] = {**TASK["search"], "steps": 5}
    protocol = write_protocol(tmp_path, manifest, task)
    evaluate_protocol(protocol, [bundle], tmp_path / "out", [])
    folder = tmp_path / "out" / "write"
    names = set(pl.read_parquet(folder / "predictions.parquet")["name"])
    assert "report" in names
    assert names - {"report"} <= set(CHEXBERT)
    assert len(names) > 2
    shutil.rmtree(tmp_path / "weights")
    # The metrics need no weights.
    assert compute_metrics(load_protocol(folder / "protocol.yaml"), folder).rows
    with pytest.raises(ConfigError, match="holds no weights"):
        evaluate_protocol(protocol, [bundle], tmp_path / "out", [])


@pytest.mark.parametrize(
    ("splits", "data", "said"),
    [
        ({"train": 4, "test": 4}, {}, "split valid holds nothing"),
        ({"train": 4, "valid": 4, "test": 4}, {"split": "valid"}, "the same|share 4 files"),
    ],
)
def test_a_split_that_is_empty_or_used_twice_is_refused(tmp_path, splits, data, said):
    manifest = write_sided(tmp_path, splits)
    bundle = write_sided_bundle(tmp_path / "mine" / "bundle")
    with pytest.raises(ConfigError, match=said):
        evaluate_protocol(write_protocol(tmp_path, manifest, **data), [bundle], tmp_path / "o", [])
