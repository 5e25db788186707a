"""Planted shortcuts are found, clean phantoms raise no alarm, and a model's leaning is told."""

import bench_shortcuts as bench
import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from medvlp.data.manifest import write_manifest
from medvlp.evaluate.shortcuts.audit import DETECTORS, Cohort, audit
from medvlp.evaluate.shortcuts.cohort import cohort_of
from medvlp.evaluate.shortcuts.embedded import read_off
from medvlp.evaluate.shortcuts.features import facts, order, words

EXPECTED = {
    "corner marker": "border-only",
    "burned-in letter P": "corners",
    "noise level": "statistics",
    "stripe": "lines",
    "scanner": "metadata-only",
    "caption word": "caption words",
    "time order": "temporal order",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_planted_shortcut_is_found_by_the_detector_of_its_kind(name):
    flagged = [one.detector for one in bench.planted(name) if one.flagged]
    assert EXPECTED[name] in flagged


@pytest.mark.soak
def test_all_planted_shortcuts_are_found():
    missed = [n for n in bench.PLANTS if not any(one.flagged for one in bench.planted(n))]
    assert len(bench.PLANTS) >= 20
    assert missed == []


def test_clean_phantoms_raise_no_alarm():
    assert [one.detector for one in bench.untouched("cxr", 100) if one.flagged] == []


def coin(n, seed, patients=None):
    rng = np.random.default_rng(seed)
    return Cohort(
        views=[rng.normal(size=(32, 32)) for _ in range(n)],
        facts=pl.DataFrame({"sex": rng.choice(["F", "M"], n), "rows": rng.integers(90, 110, n)}),
        words=[""] * n,
        label_N=rng.random(n) < 0.5,
        patient=patients or [f"{seed}-{i // 2}" for i in range(n)],
    )


def test_detectors_without_anything_to_see_are_left_out():
    found = {one.detector for one in audit(coin(80, 0), coin(80, 1), label="mass")}
    assert found == set(DETECTORS) - {"caption words", "temporal order"}


def test_patients_on_both_sides_and_single_classes_are_refused():
    one = coin(20, 0)
    with pytest.raises(ValueError, match="10 patients stand in both"):
        audit(one, one, label="mass")
    single = Cohort(
        views=one.views, facts=one.facts, words=one.words,
        label_N=np.ones(20, dtype=bool), patient=[f"other{i}" for i in range(20)],
    )  # fmt: skip
    with pytest.raises(ValueError, match="one class only"):
        audit(one, single, label="mass")


def test_facts_and_words_of_test_are_seen_as_training_saw_them():
    train = pl.DataFrame({"site": ["A", "B", None], "rows": [100, 200, 300]})
    test = pl.DataFrame({"site": ["C", "A"], "rows": [None, 900]})
    one, other = facts(train, test)
    assert one.shape[1] == other.shape[1]
    assert other[0, :3].tolist() == [0, 0, 0]  # a site that training does not know
    assert other[0, 3] == 0  # a missing number stands in the middle
    assert other[1, 3] == 0.5
    left, _ = words(["mass seen", "portable mass", "portable"], ["mass"], ["mass"])
    assert left.shape == (3, 1)


def test_order_in_time_is_undone_by_reversing_and_unseen_in_a_picture():
    clip = np.linspace(0, 1, 6)[:, None, None] * np.ones((6, 8, 8))
    assert order(clip)[0] == pytest.approx(1)
    assert order(clip[::-1])[0] == pytest.approx(-1)
    assert (order(clip[0]) == 0).all()


def test_a_site_in_embeddings_is_found_and_noise_is_not():
    rng = np.random.default_rng(3)
    patient = np.repeat(np.arange(100), 2).astype(str)
    site = np.repeat(rng.random(100) < 0.5, 2)
    noise = rng.normal(size=(200, 16)) + np.repeat(rng.normal(size=(100, 16)), 2, axis=0)
    told = noise.copy()
    told[:, 3] += 3 * site
    assert roc_auc_score(site, read_off(told, site, patient.tolist())) > 0.85
    # A patient's two images are alike: on both sides of a fold they would give the site away.
    assert roc_auc_score(site, read_off(noise, site, patient.tolist())) < 0.6
    few = patient.astype(int) < 9
    assert read_off(told, few, patient.tolist()) is None


def test_a_cohort_is_made_of_a_manifests_samples(tmp_path, tiny_bundle):
    from PIL import Image

    from medvlp.evaluate.cases import sample_items
    from medvlp.evaluate.scorers import open_scorers

    tables = {name: [] for name in ("samples", "texts", "labels")}
    sources = []
    for i in range(4):
        path = tmp_path / f"{i}.png"
        Image.fromarray(np.full((40, 30), 50 * i, dtype=np.uint8)).save(path)
        sources.append({"source": f"r{i}", "part": 0, "path": str(path)})
        tables["samples"].append(
            {"sample": f"s{i}", "domain": "cxr", "patient": f"p{i}", "study": f"t{i}",
             "source": f"r{i}", "sha256": f"{i:064x}", "kind": "image", "split": "test",
             "view": "PA", "shape": [40, 30]}
        )  # fmt: skip
        tables["texts"].append(
            {"sample": f"s{i}", "node": f"n{i}", "level": "section", "order": 0,
             "source": "indication" if i % 2 else "findings", "text": "Portable."}
        )  # fmt: skip
        tables["labels"].append(
            {"sample": f"s{i}", "name": "mass", "value": (0.0, 1.0, -1.0, 1.0)[i], "source": "t"}
        )
    info = {"key_id": "test", "counts": {}}
    manifest = write_manifest(tmp_path / "m", tables, sources, info, key=b"k" * 32)
    (scorer,) = open_scorers([tiny_bundle("cxr")], "cxr", None)
    items = sample_items([manifest], "test", ["mass"], domain="cxr")
    cohort = cohort_of(scorer, items, [manifest], 0)
    assert cohort.patient == ["p0", "p1", "p3"]  # the uncertain one is left out
    assert cohort.label_N.tolist() == [False, True, True]
    assert cohort.words == ["", "Portable.", "Portable."]  # findings are what is predicted
    assert cohort.facts["aspect"].to_list() == pytest.approx([4 / 3] * 3)
    assert {view.shape for view in cohort.views} == {(32, 32)}


def test_the_task_finds_a_planted_mark_and_says_how_often(tmp_path, tiny_bundle):
    import json

    import yaml
    from PIL import Image

    from medvlp.evaluate.run import evaluate_protocol

    rng = np.random.default_rng(4)
    tables = {name: [] for name in ("samples", "labels")}
    sources = []
    for i in range(120):
        marked = i % 2
        pixels = rng.integers(60, 120, (32, 32)).astype(np.uint8)
        pixels[:4, :4] = 250 if marked else 60
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        sources.append({"source": f"r{i}", "part": 0, "path": str(tmp_path / f"{i}.png")})
        tables["samples"].append(
            {"sample": f"s{i:03d}", "domain": "cxr", "patient": f"p{i}", "study": f"t{i}",
             "source": f"r{i}", "sha256": f"{i:064x}", "kind": "image",
             "split": "train" if i < 60 else "test", "shape": [32, 32],
             "sex": "FM"[int(rng.integers(2))]}
        )  # fmt: skip
        for name, value in (("mass", marked), ("edema", rng.integers(2)), ("always", 1)):
            tables["labels"].append(
                {"sample": f"s{i:03d}", "name": name, "value": float(value), "source": "t"}
            )
    write_manifest(tmp_path / "m", tables, sources, {"key_id": "t", "counts": {}}, key=b"k" * 32)
    protocol = {
        "name": "audit", "version": 1, "domain": "cxr", "bootstrap": {"draws": 50},
        "task": {"kind": "shortcuts", "labels": ["mass", "edema", "always"]},
        "data": {"manifests": [str(tmp_path / "m")]},
    }  # fmt: skip
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(protocol))
    evaluate_protocol(tmp_path / "audit.yaml", [tiny_bundle("cxr")], tmp_path / "out", [])
    told = json.loads((tmp_path / "out" / "audit" / "metrics.json").read_text())
    assert told["counts"]["labels_of_one_class"] == 1
    assert told["counts"]["shortcuts_flagged"] >= 1
    auroc = {(r["model"], r["name"]): r["value"] for r in told["rows"] if r["metric"] == "auroc"}
    assert auroc["border-only", "mass"] > 0.9
    assert auroc["border-only", "edema"] < 0.75
    assert {r["model"] for r in told["rows"] if not r["control"]} == {"cxr"}
    assert 0.2 < auroc["cxr", "sex: F"] < 0.8
    assert "temporal order" not in {model for model, _ in auroc}
