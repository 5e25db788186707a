"""Grounding from bundles and a manifest to tables, metrics and the report."""

import json

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from grounded import PROMPTS, TEXTS, region, told, write_bundle, write_protocol
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score

from medvlp.data.manifest import Manifest, write_manifest
from medvlp.errors import ConfigError, InputError
from medvlp.evaluate.cases import sample_items
from medvlp.evaluate.heat import heat_grids
from medvlp.evaluate.packed import unpack_mask
from medvlp.evaluate.packed_heat import unpack_heat
from medvlp.evaluate.protocol import load_protocol
from medvlp.evaluate.record import compute_metrics
from medvlp.evaluate.run import evaluate_protocol
from medvlp.evaluate.scorers import open_scorers
from medvlp.models.bundle import load
from medvlp.report.build import build_report

HEIGHT, WIDTH = 30, 48
SHAPES = (
    ("box", [4.0, 3.0, 20.0, 12.0]),
    ("ellipse", [10.0, 8.0, 40.0, 25.0]),
    ("polygon", [2.0, 2.0, 30.0, 4.0, 12.0, 28.0]),
    ("runs", [float(HEIGHT), float(WIDTH), 100.0, 30.0, 148.0, 30.0]),
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """24 patients of one picture each; regions of all kinds, some pictures without any."""
    root = tmp_path_factory.mktemp("archive")
    rng = np.random.default_rng(0)
    tables = {name: [] for name in ("samples", "texts", "labels", "regions", "entities")}
    sources = []
    for i in range(24):
        sample, path = f"s{i:02d}", root / f"{i}.png"
        Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH), dtype=np.uint8)).save(path)
        sources.append({"source": f"src{i}", "part": 0, "path": str(path)})
        split = ("train", "valid", "test", "test")[i % 4]
        tables["samples"].append(
            {
                "sample": sample, "domain": "cxr", "patient": f"p{i:02d}", "study": f"t{i:02d}",
                "source": f"src{i}", "sha256": f"{i:064x}", "kind": "image", "split": split,
            }
        )  # fmt: skip
        tables["texts"].append(
            {"sample": sample, "node": f"n{i}", "level": "sentence", "source": "report", "order": 0,
             "text": TEXTS[4]}
        )  # fmt: skip
        if i >= 20:
            continue
        tables["regions"].append(region(sample, "edema", *SHAPES[(i // 4) % 4]))
        tables["regions"].append(region(sample, "edema", "box", [30.0, 18.0, 44.0, 26.0]))
        if i % 4 != 2:
            tables["regions"].append(region(sample, "mass", "box", [20.0, 10.0, 28.0, 20.0]))
        if i % 3 == 0:
            tables["entities"].append(
                {"sample": sample, "node": f"n{i}", "observation": "edema", "presence": 1.0}
            )
    write_manifest(root / "manifest", tables, sources, {"key_id": "t", "counts": {}}, key=b"k" * 32)
    return root / "manifest"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [
        write_bundle(root / "mine" / "bundle"),
        write_bundle(root / "wide" / "bundle", size=48),
        write_bundle(root / "blind" / "bundle", control="image-blind"),
        write_bundle(root / "labels" / "bundle", control="supervised-unimodal"),
    ]


@pytest.fixture(scope="module")
def evaluated(manifest, bundles, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    protocol = write_protocol(folder, manifest, smooth=0.7)
    evaluate_protocol(protocol, bundles, folder / "out", [])
    return folder / "out" / "trial"


def test_only_drawn_regions_are_asked_for_and_the_rest_is_counted(evaluated):
    frame = pl.read_parquet(evaluated / "predictions.parquet")
    controls = dict(frame.group_by("model").agg(pl.col("control").first()).iter_rows())
    assert controls == {
        "mine": False, "wide": False, "image-blind": True, "chance": True, "centre-prior": True,
        "mean-location": True,
    }  # fmt: skip
    # 12 test pictures, of which i = 22 and 23 have no region; mass is drawn in every second one.
    assert dict(frame.filter(model="mine").group_by("name").len().iter_rows()) == {
        "edema": 10, "mass": 5,
    }  # fmt: skip
    assert json.loads((evaluated / "metrics.json").read_text())["counts"] == {
        "questions": 15, "images_without_region": 2, "regions_without_words": 0,
        "regions_outside_the_grid": 0, "threshold_questions": 10, "models_that_cannot_point": 1,
    }  # fmt: skip
    heat = pl.read_parquet(evaluated / "heatmaps.parquet")
    assert heat["digest"].to_list() == frame["digest"].to_list()
    # Levels of cosines say nothing about maps that are none.
    assert {m for m, metric, _ in told(evaluated) if metric == "miou_cosine"} == {
        "mine", "wide", "image-blind",
    }  # fmt: skip
    assert not any(metric.startswith("slice") for _, metric, _ in told(evaluated))


def test_maps_are_the_bundles_cosines_with_the_mean_of_the_prompts(evaluated, manifest, bundles):
    bundle = load(bundles[0])
    heat = pl.read_parquet(evaluated / "heatmaps.parquet").filter(model="mine")
    for row in heat.iter_rows(named=True):
        path = manifest.parent / f"{int(row['sample'][1:])}.png"
        stored = bundle.preprocess.read([path])
        # The map is linear in the text: that of the mean is the mean of the maps, rescaled.
        texts = PROMPTS.labels[row["name"]].positive
        grid = np.mean([bundle.heatmap_stored(stored, text).grid for text in texts], axis=0)
        grid /= np.linalg.norm(bundle.embed_text(texts).mean(axis=0))
        unit = unpack_heat(row["heat"], row["shape"])
        found = row["low"] + (row["high"] - row["low"]) * unit
        np.testing.assert_allclose(
            found, gaussian_filter(grid, 0.7, mode="nearest"), atol=1e-3 * np.ptp(grid)
        )


def test_a_map_follows_from_its_own_sample_alone(manifest, bundles):
    (scorer,) = open_scorers(bundles[:1], "cxr", None)
    items = sample_items([Manifest.open(manifest)], "test", (), domain="cxr")
    text_1E = scorer.bundle.embed_text("A mass.")
    together = [grids[0] for grids in heat_grids(scorer, items, [text_1E] * len(items))]
    backwards = [grids[0] for grids in heat_grids(scorer, items[::-1], [text_1E] * len(items))]
    for i, item in enumerate(items):
        (alone,) = next(heat_grids(scorer, [item], [text_1E]))
        np.testing.assert_array_equal(together[i], alone)
        np.testing.assert_array_equal(backwards[::-1][i], alone)


def test_masks_are_the_union_of_the_drawn_regions_on_each_models_grid(evaluated):
    masks = pl.read_parquet(evaluated / "masks.parquet")
    for model, size in (("mine", 32), ("wide", 48)):
        row = masks.filter(model=model, sample="s02", name="edema").row(0, named=True)
        mask = unpack_mask(row["reference"], row["shape"])
        assert mask.shape == (size, size)
        scale, top = size / WIDTH, (size - HEIGHT * size / WIDTH) / 2
        assert row["image"] == [int(top), int(size - top), 0, size]
        expected = np.zeros_like(mask)
        for x0, y0, x1, y1 in (SHAPES[0][1], (30, 18, 44, 26)):
            across = np.arange(size) + 0.5
            inside_x = (across > x0 * scale) & (across < x1 * scale)
            inside_y = (across - top > y0 * scale) & (across - top < y1 * scale)
            expected |= inside_y[:, None] & inside_x
        # Pixels that an edge cuts belong to the side of their larger part.
        assert (mask != expected).sum() <= (0 if size == WIDTH else 12)
        assert (mask & expected).sum() > 0.8 * expected.sum()


def by_hand(heat, mask, level):
    """Metrics of one case from its two rows, with torch's interpolation and plain counting."""
    grid = torch.from_numpy(unpack_heat(heat["heat"], heat["shape"]))[None, None]
    full = F.interpolate(grid, tuple(mask["shape"]), mode="bilinear", align_corners=False)[0, 0]
    (y0, y1), (x0, x1) = mask["image"][:2], mask["image"][2:]
    unit = full.numpy()[y0:y1, x0:x1]
    unit = ((unit - unit.min()) / (unit.max() - unit.min())).round(9)
    truth = unpack_mask(mask["reference"], mask["shape"])[y0:y1, x0:x1]
    every = np.sort(unit.ravel())
    called = unit > every[int(level * (len(every) - 1))]
    return {
        "pixel_average_precision": average_precision_score(truth.ravel(), unit.ravel()),
        "pointing_game": truth[unit == unit.max()].mean(),
        "area_share": truth.mean(),
        "iou": (truth & called).sum() / (truth | called).sum(),
        "dice": 2 * (truth & called).sum() / (truth.sum() + called.sum()),
        "miou_rescaled": np.mean(
            [(truth & (unit > t / 10)).sum() / (truth | (unit > t / 10)).sum() for t in range(1, 6)]
        ),
    }  # fmt: skip


def test_metrics_follow_from_the_files_alone(evaluated):
    heat, masks, levels = (
        pl.read_parquet(evaluated / f"{name}.parquet") for name in ("heatmaps", "masks", "levels")
    )
    rows = told(evaluated)
    for model in ("mine", "wide", "image-blind", "chance", "centre-prior", "mean-location"):
        for name in ("edema", "mass"):
            (level,) = levels.filter(model=model, name=name)["level"]
            pairs = zip(
                heat.filter(model=model, name=name).iter_rows(named=True),
                masks.filter(model=model, name=name).iter_rows(named=True),
                strict=True,
            )
            cases = [by_hand(one, other, level) for one, other in pairs]
            for metric in cases[0]:
                expected = np.mean([case[metric] for case in cases])
                row = rows[model, metric, name]
                assert row["value"] == pytest.approx(expected, abs=1e-9), (model, metric, name)
                assert row["low"] <= row["value"] + 1e-12
        macro = rows[model, "pointing_game_macro", "all"]["value"]
        own = [rows[model, "pointing_game", name]["value"] for name in ("edema", "mass")]
        assert macro == pytest.approx(np.mean(own))
    again = compute_metrics(load_protocol(evaluated / "protocol.yaml"), evaluated)
    assert {(r.model, r.metric, r.name): r.value for r in again.rows} == {
        key: row["value"] for key, row in rows.items()
    }


def test_the_mean_location_finds_what_always_lies_in_one_place(evaluated):
    rows = told(evaluated)
    assert rows["mean-location", "pointing_game", "mass"]["value"] == 1
    assert rows["mean-location", "pixel_average_precision", "mass"]["value"] > 0.95
    assert rows["mean-location", "iou", "mass"]["value"] > 0.8


def test_the_report_tells_of_pointing(evaluated):
    build_report(evaluated)
    page = (evaluated / "report.html").read_text()
    assert "Pointing at findings" in page
    assert "mean place of the finding in training patients" in page


def test_thresholds_come_from_validation_images_alone(manifest, bundles, tmp_path, evaluated):
    levels = pl.read_parquet(evaluated / "levels.parquet")
    # 6 validation pictures, of which i = 21 has no region.
    assert dict(levels.filter(model="mine").select("name", "cases").iter_rows())["edema"] == 5
    protocol = write_protocol(tmp_path, manifest, threshold_split="test")
    with pytest.raises(ConfigError, match="are also evaluated"):
        evaluate_protocol(protocol, bundles[:1], tmp_path / "out", [])
    protocol = write_protocol(tmp_path, manifest, threshold="value")
    evaluate_protocol(protocol, bundles[:1], tmp_path / "out", [])
    levels = pl.read_parquet(tmp_path / "out" / "trial" / "levels.parquet")
    heat = pl.read_parquet(tmp_path / "out" / "trial" / "heatmaps.parquet").filter(model="mine")
    own = levels.filter(model="mine")
    assert set(own["kind"]) == {"value"}
    assert own["level"].min() >= heat["low"].min() - 0.2
    assert own["level"].max() <= heat["high"].max() + 0.2


def test_images_are_asked_in_their_own_words_where_these_are_known(manifest, bundles, tmp_path):
    protocol = write_protocol(tmp_path, manifest, prompts=False, labels=["edema"])
    evaluate_protocol(protocol, bundles[:1], tmp_path / "out", [])
    folder = tmp_path / "out" / "trial"
    counts = json.loads((folder / "metrics.json").read_text())["counts"]
    # Of the test pictures with a region, i = 3, 6, 15, 18 have an entity that names the sentence.
    assert (counts["questions"], counts["regions_without_words"]) == (4, 6)
    bundle = load(bundles[0])
    row = pl.read_parquet(folder / "heatmaps.parquet").filter(model="mine").row(0, named=True)
    stored = bundle.preprocess.read([manifest.parent / f"{int(row['sample'][1:])}.png"])
    grid = bundle.heatmap_stored(stored, TEXTS[4]).grid
    found = row["low"] + (row["high"] - row["low"]) * unpack_heat(row["heat"], row["shape"])
    np.testing.assert_allclose(found, grid, atol=1e-3 * np.ptp(grid))


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"labels": ["absent"]}, "no label 'absent' in the manifests' regions"),
        ({"labels": ["tumour"]}, "no label 'tumour' in the prompt set"),
    ],
)
def test_a_name_that_is_nowhere_drawn_is_refused(manifest, bundles, tmp_path, task, words):
    with pytest.raises(ConfigError, match=words):
        evaluate_protocol(
            write_protocol(tmp_path, manifest, **task), bundles[:1], tmp_path / "out", []
        )


def test_runs_of_another_picture_are_refused_by_sample(manifest, bundles, tmp_path):
    """The geometry says 9 x 9 pixels, the picture has others."""
    tables = {"samples": [], "regions": []}
    old = Manifest.open(manifest)
    tables["samples"] = old.samples.filter(sample="s02").to_dicts()
    tables["regions"] = [region("s02", "edema", "runs", [9.0, 9.0, 0.0, 5.0])]
    source = tables["samples"][0]["source"]
    sources = [{"source": source, "part": 0, "path": str(old.paths(source)[0])}]
    info = {"key_id": "t", "counts": {}}
    write_manifest(tmp_path / "m", tables, sources, info, key=b"k" * 32)
    protocol = write_protocol(tmp_path, tmp_path / "m", labels=["edema"])
    with pytest.raises(InputError, match=r"sample s02: a region does not fit its image.*9 x 9"):
        evaluate_protocol(protocol, bundles[:1], tmp_path / "out", [])
