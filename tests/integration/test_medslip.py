"""MeDSLIP from a configuration to a bundle that answers, points and tells sides by its own head."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from labelled_pictures import write_bundle
from PIL import Image

from medvlp.data.manifest import Manifest, write_manifest
from medvlp.data.preprocess import model_input
from medvlp.evaluate.cases import sample_items
from medvlp.evaluate.protocol import load_protocol
from medvlp.evaluate.robustness.pairs.pair import Case, Pair
from medvlp.evaluate.robustness.sentences import credit, judged
from medvlp.evaluate.robustness.structured import StructuredScorer
from medvlp.evaluate.run import evaluate_protocol
from medvlp.evaluate.scorers import open_scorers
from medvlp.models.answers import place_grids, pointing_head, relating_head, relations
from medvlp.models.bundle import load
from medvlp.models.untrained import reinitialised
from medvlp.plain_files import read_json
from medvlp.train.fit import train_run

SIZE = 32
BOXES = {"left": (18, 6, 28, 18), "right": (4, 6, 14, 18)}
"""The patient's left is on the picture's right."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """96 patients: a bright mass on one side or none, and an unrelated dark band below."""
    root = tmp_path_factory.mktemp("masses")
    rng = np.random.default_rng(0)
    tables = {name: [] for name in ("samples", "texts", "labels", "regions", "entities")}
    sources = []
    for i in range(96):
        sample, side, band = f"s{i:02d}", ("left", "right", None)[i % 3], bool(rng.random() < 0.5)
        pixels = rng.integers(60, 120, (SIZE, SIZE)).astype(np.uint8)
        if side is not None:
            x0, y0, x1, y1 = BOXES[side]
            pixels[y0:y1, x0:x1] += 120
            tables["regions"].append(
                {"sample": sample, "name": "mass", "kind": "box",
                 "geometry": [float(v) for v in BOXES[side]]}
            )  # fmt: skip
        if band:
            pixels[24:] = 0
        path = root / f"{i}.png"
        Image.fromarray(pixels).save(path)
        sources.append({"source": f"src{i}", "part": 0, "path": str(path)})
        split = "train" if i < 60 else "valid" if i < 72 else "test"
        tables["samples"].append(
            {"sample": sample, "domain": "cxr", "patient": f"p{i:02d}", "source": f"src{i}",
             "sha256": f"{i:064x}", "kind": "image", "split": split}
        )  # fmt: skip
        tables["texts"].append(
            {"sample": sample, "node": f"n{i}", "level": "sentence", "source": "findings",
             "order": 0, "text": f"There is a {side} mass." if side else "There is no mass."}
        )  # fmt: skip
        other = {"left": "right", "right": "left"}.get(side)
        told = [("mass", "lung", float(bool(side)), side), ("band", "base", float(band), None)]
        told += [("mass", "lung", 0.0, other)] if other else []
        tables["entities"] += [
            {"sample": sample, "observation": name, "anatomy": place, "presence": presence,
             "laterality": where, "source": "table"}
            for name, place, presence, where in told
        ]  # fmt: skip
        tables["labels"] += [
            {"sample": sample, "name": name, "value": presence, "source": "table"}
            for name, _, presence, _ in told[:2]
        ]
    info = {"key_id": "test", "counts": {}}
    write_manifest(root / "manifest", tables, sources, info, key=b"k" * 32)
    return root / "manifest"


def experiment(folder: Path, data, **changes) -> Path:
    values = {
        "domain": "cxr",
        "data": {
            "batch_size": 20, "cache": "memory", "tokenizer": {"vocab_size": 300},
            "texts": {"levels": ["sentence"]}, **data,
        },
        "preprocess": {"kind": "cxr", "size": SIZE, "augment": {"shift": 0.02, "rotation_deg": 1}},
        "image": {"kind": "resnet", "depths": [1, 1], "widths": [16, 32], "stem": 16,
                  "norm": "group"},
        "text": {"width": 16, "depth": 1, "heads": 2, "max_tokens": 48, "dropout": 0.1},
        "model": {"embed": 16},
        "objectives": [
            {"kind": "clip", "weight": 0.1},
            {"kind": "medslip", "width": 32, "depth": 2, "heads": 2, "hidden": 32,
             "position": "sine", "dropout": 0.0, "negatives": "denied"},
        ],
        "optim": {"lr": 0.003, "warmup_steps": 5},
        "trainer": {"steps": 220, "accelerator": "cpu", "log_every": 5, "valid_every": 220,
                    "save_every": 220},
    } | changes  # fmt: skip
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def trained(manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("medslip")
    entities = {"anatomies": ["left lung", "right lung", "lung", "base"],
                "observations": ["mass", "band"]}  # fmt: skip
    data = {"manifests": [str(manifest)], "entities": entities}
    train_run(experiment(folder, data), [], folder / "run")
    return folder / "run"


def write_protocol(folder, manifest, name="trial", **task):
    prompts = {
        label: {"positive": [f"There is a {label}."], "negative": [f"There is no {label}."]}
        for label in ("mass", "band")
    }
    if task["kind"] in ("zero-shot", "grounding"):
        task["prompts"] = {"mode": "independent", "labels": prompts}
    values = {
        "name": name, "version": 1, "domain": "cxr", "task": task,
        "data": {"manifests": [str(manifest)]}, "bootstrap": {"draws": 20},
    }  # fmt: skip
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return folder / f"{name}.yaml"


def prompts_of(protocol):
    return load_protocol(protocol).task.prompts


def told(folder):
    values = read_json(folder / "metrics.json")
    return values["counts"], {(r["model"], r["metric"], r["name"]): r for r in values["rows"]}


def test_training_lowers_the_loss(trained):
    losses = pl.read_csv(trained / "metrics.csv")["medslip"].to_list()
    assert losses[-1] < 0.5 * losses[0]


def test_a_loaded_bundle_answers_as_the_trained_model_without_reading(trained, manifest):
    bundle = load(trained / "bundle")
    assert bundle.answers == ("mass", "band")
    head = relating_head(bundle)
    assert head is pointing_head(bundle)
    items = sample_items([Manifest.open(manifest)], "test", (), domain="cxr")[:3]
    stored = [bundle.preprocess.read(item.source_paths) for item in items]
    with torch.inference_mode():
        features = bundle.model.image(model_input(bundle.preprocess, stored, bundle.device))
        scores = bundle.label_scores_stored(stored)
        np.testing.assert_allclose(scores, head.scores(features).sigmoid(), rtol=1e-5)
        assert scores.std(0).min() > 0
        # Read again by the same tower, the book is the one that was stored.
        before = head.book.read_MD.clone()
        head.settle(bundle.model.text)
        torch.testing.assert_close(head.book.read_MD, before)
    again = load(trained / "bundle")
    np.testing.assert_array_equal(again.label_scores_stored(stored), scores)
    one, other = (relations(b, relating_head(b), stored) for b in (bundle, again))
    np.testing.assert_array_equal(one.relation_NAL, other.relation_NAL)
    assert one.relation_NAL.shape == (3, 4, 2)
    grids = place_grids(bundle, head, stored[0])
    assert {grid.shape for grid in grids.values()} == {(4, 4)}
    assert all(grid.sum() == pytest.approx(1, abs=1e-4) for grid in grids.values())
    # The control with weights drawn anew has a book of its own tower.
    fresh = reinitialised(bundle, 0)
    assert relating_head(fresh).book.read_MD.abs().sum() > 0


def test_zero_shot_native_asks_the_head_where_it_knows_all_labels(trained, manifest, tmp_path):
    protocol = write_protocol(tmp_path, manifest, kind="zero-shot", rule="native")
    partial = write_bundle(tmp_path / "partial" / "bundle", labels=("mass",))
    evaluate_protocol(protocol, [trained / "bundle", partial], tmp_path / "out", [])
    counts, rows = told(tmp_path / "out" / "trial")
    assert (counts["models_by_head"], counts["models_by_prompts"]) == (1, 1)
    for label in ("mass", "band"):
        assert rows["run", "auroc", label]["value"] > 0.95
    frame = pl.read_parquet(tmp_path / "out" / "trial" / "predictions.parquet")
    (scorer,) = open_scorers([trained / "bundle"], "cxr", None)
    items = sample_items([Manifest.open(manifest)], "test", ("mass",), domain="cxr")
    expected = scorer.label_scores(items, ["mass"])[:, 0]
    found = frame.filter(model="run", name="mass").sort("sample")["score"].to_numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    (other,) = open_scorers([partial], "cxr", None)
    prompts = prompts_of(protocol)
    by_prompts = other.zero_shot(items, prompts)[:, prompts.names.index("mass")]
    found = frame.filter(model="partial", name="mass").sort("sample")["score"].to_numpy()
    np.testing.assert_allclose(found, by_prompts, rtol=1e-6)


def test_grounding_native_is_where_the_head_looks(trained, manifest, tmp_path):
    maps = {}
    for answer in ("text", "native"):
        protocol = write_protocol(tmp_path, manifest, answer, kind="grounding", answer=answer)
        evaluate_protocol(protocol, [trained / "bundle"], tmp_path / "out", [])
        counts, rows = told(tmp_path / "out" / answer)
        maps[answer] = pl.read_parquet(tmp_path / "out" / answer / "heatmaps.parquet")
        assert ("maps_by_head" in counts) == (answer == "native")
    assert (counts["maps_by_head"], counts["maps_by_text"]) == (counts["questions"], 0)
    own = maps["native"].filter(model="run")
    assert not own["cosine"].any()
    assert own["low"].min() >= 0
    assert maps["text"].filter(model="run")["cosine"].all()
    assert (
        rows["run", "pixel_average_precision", "mass"]["value"]
        > (rows["chance", "pixel_average_precision", "mass"]["value"])
    )
    (scorer,) = open_scorers([trained / "bundle"], "cxr", None)
    item = sample_items([Manifest.open(manifest)], "test", (), domain="cxr")[0]
    stored = scorer.bundle.preprocess.read(item.source_paths)
    grid = place_grids(scorer.bundle, pointing_head(scorer.bundle), stored)["mass"]
    row = own.filter(sample=item.sample).row(0, named=True)
    assert (row["low"], row["high"]) == pytest.approx((grid.min(), grid.max()), rel=1e-3)


@dataclass(frozen=True)
class Claimed:
    anatomy: str
    observation: str
    presence: int
    side: str = ""


class Words:
    """A stand-in for the extractor: side, denial and doubt by single words."""

    def sentence(self, text):
        words = text.lower().strip(".").split()
        if "tumor" not in words:
            return ()
        side = next((w for w in words if w in ("left", "right", "bilateral")), "")
        presence = 0 if "no" in words else -1 if "possible" in words else 1
        return (Claimed("lungs", "tumor", presence, side),)


def asked(item):
    """Pairs about a picture: is there a tumor, and on which side?"""
    case, there, none = Case(key=item.key, item=item), "There is a tumor.", "There is no tumor."
    side, other = (("left", "right"), ("right", "left"), ("", ""))[int(item.sample[1:]) % 3]
    sentences = {"polarity": (there, none) if side else (none, there)}
    if side:
        sentences["side"] = (f"{side} tumor", f"{other} tumor")
        sentences["denied side"] = (f"no {other} tumor", f"no {side} tumor")
        sentences["both"] = (f"{side} tumor", "bilateral tumor")
    return [
        Pair(family=family, finding="mass", case=case, right=right, wrong=wrong)
        for family, (right, wrong) in sentences.items()
    ]


def test_sentences_are_judged_by_what_they_claim(trained, manifest):
    (scorer,) = open_scorers([trained / "bundle"], "cxr", None)
    head = relating_head(scorer.bundle)
    items = sample_items([Manifest.open(manifest)], "test", ("mass",), domain="cxr")
    pairs = [pair for item in items for pair in asked(item)]
    statement = Case(key="k", anchor="a mass was found")
    unread = Pair(family="text", finding="mass", case=statement, right="mass", wrong="no mass")
    names = {"tumor": "mass", "lungs": "lung"}
    structured = StructuredScorer(scorer, head, [*pairs, unread], Words(), names)
    earned = {}
    for pair, scores in zip(pairs, judged(pairs, structured), strict=True):
        earned.setdefault(pair.family, []).append(credit(*scores))
    assert {family: np.mean(c) > 0.9 for family, c in earned.items()} == dict.fromkeys(
        ("polarity", "side", "denied side", "both"), True
    )
    # What is doubted or not known says nothing, and weighs as much as a coin.
    case = pairs[0].case
    for silent in ("possible tumor", "the heart is large"):
        assert structured.score(case, silent) == 0
        assert not structured.knows(silent)
    assert structured.knows("left tumor")
    # By hand: existence, and the relation to the left lung.
    stored = list(scorer.stored([case.item]))
    found = relations(scorer.bundle, head, stored)
    logits = [found.exist_NL[0, 0], found.relation_NAL[0, head.anatomies.index("left lung"), 0]]
    expected = sum(np.log(2 / (1 + np.exp(-float(z)))) for z in logits)
    assert structured.score(case, "left tumor") == pytest.approx(expected, abs=1e-5)
    # Statements in other words are compared by the tower.
    one, other = scorer.bundle.embed_text(["a mass was found", "mass"])
    assert structured.score(statement, "mass") == pytest.approx(float(one @ other), abs=1e-6)


@pytest.mark.parametrize("axis", ["polarity", "laterality"])
def test_axes_of_words_ask_the_head_what_the_extractor_reads(trained, manifest, tmp_path, axis):
    sources = {"polarity": ["image"], "laterality": ["image", "text"]}[axis]
    protocol = write_protocol(
        tmp_path, manifest, kind=axis, sources=sources, pairs=10, answer="native"
    )
    partial = write_bundle(tmp_path / "partial" / "bundle", labels=("mass",))
    evaluate_protocol(protocol, [trained / "bundle", partial], tmp_path / "out", [])
    counts, rows = told(tmp_path / "out" / "trial")
    assert (counts["models_by_head"], counts["models_by_text"]) == (1, 1)
    # A mass is in the domain's vocabulary, a band is not.
    family = {"polarity": "mass", "laterality": "image-side"}[axis]
    metric = {"polarity": "share_right_finding", "laterality": "share_right_family"}[axis]
    assert rows["run", metric, family]["value"] > 0.95
    pairs = pl.read_parquet(tmp_path / "out" / "trial" / "pairs.parquet").filter(model="run")
    silent = pairs.filter(pl.col("anchor").is_null(), right_score=0, wrong_score=0)
    assert len(silent) == counts["pairs_unknown_to_heads"]
    if axis == "polarity":
        assert rows["run", metric, "band"]["value"] == 0.5
        assert len(silent) > 0


def test_a_phantom_is_learnt_from_in_micro_batches(tmp_path):
    anatomies = ["heart", "lung", "left lung", "right lung", "left rib"]
    observations = ["cardiomegaly", "consolidation", "rib_fracture"]
    entities = {"anatomies": anatomies, "observations": observations}
    settings = ["size=64", "masks=false", "workers=1"]
    data = {"phantom": {"n": 24, "kind": "dicom", "settings": settings}, "entities": entities}
    path = experiment(tmp_path, data)
    trainer = {"micro_batch": 4, "steps": 6, "log_every": 1, "valid_every": 6, "save_every": 3}
    changes = ["data.batch_size=8", "optim.ema={decay: 0.5}"]
    changes += [f"trainer.{key}={value}" for key, value in trainer.items()]
    train_run(path, changes, tmp_path / "run")
    losses = pl.read_csv(tmp_path / "run" / "metrics.csv")["medslip"]
    assert len(losses) == 6
    assert losses.is_finite().all()
    bundle = load(tmp_path / "run" / "bundle")
    # The stored book is that of the averaged text tower, which the bundle holds.
    head = relating_head(bundle)
    before = head.book.read_MD.clone()
    head.settle(bundle.model.text)
    torch.testing.assert_close(head.book.read_MD, before)
