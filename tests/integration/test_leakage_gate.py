"""Planted leaks of every kind are found before a number is computed, and clean data pass."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from leaks import (
    LONG,
    PROMPTS,
    ZERO_SHOT,
    archive,
    clean,
    found,
    jpeg,
    key_of,
    kinds,
    named,
    planted,
    resized,
    study_of,
    windowed,
    xray,
)

from medvlp.archive.duplicates.footprint import footprint_of, joined
from medvlp.cxr.preprocess import CxrPreprocessConfig
from medvlp.data.manifest import Manifest, write_manifest
from medvlp.data.prompts import Prompts, PromptSet
from medvlp.data.tokenizer import train_tokenizer
from medvlp.errors import LeakError
from medvlp.evaluate.leakage.compare import Part, known_samples
from medvlp.evaluate.leakage.gate import inspect_leaks
from medvlp.evaluate.leakage.leak import LeakageConfig
from medvlp.evaluate.run import evaluate_protocol
from medvlp.evaluate.tasks.answering import AnsweringConfig
from medvlp.evaluate.tasks.retrieval import RetrievalConfig
from medvlp.evaluate.tasks.zero_shot import ZeroShotConfig
from medvlp.models.bundle import save_bundle
from medvlp.models.bundle_footprint import FOOTPRINT, read_footprint
from medvlp.models.image2d import ResNet2dConfig
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """24 patients of the training split, one of them with a long report."""
    rows = clean(0, 24, "train")
    rows[5] = (*rows[5][:5], LONG)
    return archive(tmp_path_factory.mktemp("gate") / "train", rows)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Six training patients, where near copies are not what is asked about."""
    rows = clean(0, 6, "train")
    rows[5] = (*rows[5][:5], LONG)
    return archive(tmp_path_factory.mktemp("few") / "train", rows)


@pytest.fixture(scope="module")
def test(train):
    """Three clean patients, and a planted leak of each kind that one data set can have."""
    rows = clean(100, 3, "test")
    for name, (values, patient, study, text) in PLANTS.items():
        data = (train.parent / "train" / "c3.png").read_bytes() if values is None else values
        rows.append((name, data, patient or f"Q{len(rows)}", study or f"T{len(rows)}", "test",
                     text or f"Patient number {len(rows)}00."))  # fmt: skip
    return archive(train.parent / "test", rows, key=key_of(train))


PLANTS = {
    "same-file.png": (None, "", "", ""),
    "same-pixels.tif": (xray(4), "", "", ""),
    "crop.png": (xray(6)[30:-10, 5:-25], "", "", ""),
    "window.png": (windowed(xray(7)), "", "", ""),
    "jpeg.png": (jpeg(xray(8)), "", "", ""),
    "flip.png": (xray(9)[:, ::-1], "", "", ""),
    "resize.png": (resized(xray(10)), "", "", ""),
    "patient.png": (xray(201), "P11", "", ""),
    "study.png": (xray(202), "", "S12", ""),
    "report.png": (xray(203), "", "", LONG),
    "near-report.png": (xray(204), "", "", LONG.replace("mildly", "moderately")),
}
"""File -> picture (None: the bytes of a training file), patient, study and report."""

FOUND = {
    "file": {"same-file"},
    "pixels": {"same-file", "same-pixels"},
    "image": {"crop", "window", "jpeg", "flip", "resize"},
    "patient": {"patient"},
    "study": {"study"},
    "text": {"report", "near-report"},
    "recording": set(),
}


def test_planted_leaks_between_splits_are_found_and_nothing_else(train, test):
    manifests = study_of(train, test).manifests
    mine, theirs = (Part(f"split {s}", manifests, (s,), "cxr") for s in ("test", "train"))
    assert named(test, known_samples(mine, theirs)) == FOUND


def test_the_same_leaks_are_found_where_training_had_a_manifest_of_its_own(train, test, tmp_path):
    bundle = write_bundle(tmp_path / "mine" / "bundle")
    inspected = found(study_of(test), bundles=[bundle], trained_on=(train,))
    assert kinds(inspected) == {kind: len(names) for kind, names in FOUND.items() if names}
    assert {(leak.model, leak.between) for leak in inspected.leaks} == {
        ("mine", ("split test", "training of mine"))
    }
    assert {leak.of for leak in inspected.leaks} == {3 + len(PLANTS)}
    # A run folder tells by itself where its data were.
    digest = Manifest.open(train).digest
    run = tmp_path / "run"
    other = write_bundle(run / "bundle", {"data": {"manifests": [digest]}})
    (run / "config.yaml").write_text(yaml.safe_dump({"data": {"manifests": [str(train)]}}))
    assert kinds(found(study_of(test), bundles=[other])) == kinds(inspected)


def test_clean_data_pass_and_everything_was_looked_at(train, tmp_path):
    others = archive(tmp_path / "clean", clean(100, 3, "test"), key=key_of(train))
    inspected = inspect_leaks(study_of(train, others), ZERO_SHOT, LeakageConfig(), [], [])
    assert inspected.leaks == ()
    assert inspected.unchecked == ()


def test_a_copied_report_refuses_tasks_about_reports_only(few, tmp_path):
    row = ("x.png", xray(205), "Q1", "T1", "test", LONG)
    study = study_of(few, planted(tmp_path, few, row))
    # An image's label is not given away by another patient's words ...
    passed = inspect_leaks(study, ZERO_SHOT, LeakageConfig(), [], [])
    assert [(leak.kind, leak.refuses) for leak in passed.leaks] == [("text", False)]
    # ... the report that is searched for is, and what is answered from it.
    for task in (RetrievalConfig(), AnsweringConfig()):
        with pytest.raises(LeakError, match="have a report that is also in split train"):
            inspect_leaks(study, task, LeakageConfig(), [], [])


def test_a_prompt_taken_from_an_evaluated_report_is_found(few, tmp_path):
    one = planted(tmp_path, few, ("x.png", xray(203), "Q1", "T1", "test",
        "There is a spiculated mass projecting over the left upper zone laterally."))  # fmt: skip
    stolen = "a spiculated mass projecting over the left upper zone"
    fair = "one more sentence of nine words in nobody's report"
    words = Prompts(positive=(stolen, fair), negative=("no mass",))
    task = ZeroShotConfig(prompts=PromptSet(mode="independent", labels={"mass": words}))
    inspected = found(study_of(few, one), task)
    assert [(leak.kind, leak.count, leak.of) for leak in inspected.leaks] == [("prompt", 1, 2)]


def test_validation_that_is_the_test_is_found(train, tmp_path):
    rows = clean(100, 3, "test")
    copies = [(f"v{name}", values, f"V{p}", f"V{s}", "valid", text)
              for name, values, p, s, _, text in rows]  # fmt: skip
    both = archive(tmp_path / "both", [*rows, *copies])
    inspected = found(study_of(both))
    assert kinds(inspected) == {"file": 3, "pixels": 3}
    assert inspected.leaks[0].between == ("split test", "split valid")


def video_manifest(folder, rows):
    """A hand-written manifest of recordings: (sample, patient, study, split, path)."""
    tables = {"samples": [], "texts": [], "labels": [], "regions": []}
    sources = []
    for i, (sample, patient, study, split, path) in enumerate(rows):
        sources.append({"source": f"src{i}", "part": 0, "path": str(folder / path)})
        tables["samples"].append(
            {"sample": sample, "domain": "video", "patient": patient, "study": study,
             "source": f"src{i}", "sha256": f"{hash(path) & 0xFFFF:064x}", "kind": "video",
             "split": split, "duration_s": 10.0}
        )  # fmt: skip
    info = {"key_id": "test", "counts": {}}
    write_manifest(folder / "m", tables, sources, info, key=b"k" * 32)
    return folder / "m"


def test_windows_of_one_recording_in_two_splits_are_found(tmp_path):
    rows = [
        ("a", "clip1", "operation7", "train", "op7-0.mp4"),
        ("b", "clip2", "operation7", "test", "op7-1.mp4"),
        ("c", "clip3", "operation8", "test", "op8-0.mp4"),
    ]
    path = video_manifest(tmp_path, rows)
    assert kinds(found(study_of(path, domain="video"), RetrievalConfig())) == {"study": 1}


def test_videos_that_cholec80_and_cholect50_share_are_found(tmp_path):
    rows = [
        ("a", "video07", "s1", "train", "cholec80/videos/video07.mp4"),
        ("b", "VID07", "s2", "test", "CholecT50/videos/VID07/000001.png"),
        ("c", "VID08", "s3", "test", "CholecT50/videos/VID08/000001.png"),
        ("d", "video08", "s4", "train", "elsewhere/video08.mp4"),
    ]
    path = video_manifest(tmp_path, rows)
    assert kinds(found(study_of(path, domain="video"), RetrievalConfig())) == {"recording": 1}


def write_bundle(folder, provenance=None, footprint=None):
    torch.manual_seed(0)
    image = ResNet2dConfig(depths=(1, 1), widths=(8, 16), stem=8, norm="group")
    text = TextTowerConfig(width=16, depth=1, heads=2, max_tokens=16)
    tokenizer = train_tokenizer(["A mass is seen.", "No mass."] * 5, 300)
    towers = image.build(1), text.build(len(tokenizer), tokenizer.pad_token_id)
    save_bundle(
        folder, model=TwoTower(TwoTowerConfig(embed=8), *towers), domain="cxr",
        preprocess=CxrPreprocessConfig(size=32), image=image, text=text, tokenizer=tokenizer,
        prompts=PROMPTS, provenance=provenance, footprint=footprint,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def footprinted(few, tmp_path_factory):
    """A bundle alone, its training manifest not at hand."""
    manifest = Manifest.open(few)
    mark = footprint_of([manifest], set(manifest.samples["sample"]))
    told = {"data": {"manifests": [manifest.digest]}}
    return write_bundle(tmp_path_factory.mktemp("alone") / "theirs", told, mark)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (("x.tif", xray(3), "Q1", "T1", "test", "Another."), {"pixels": 1}),
        (("x.png", xray(204), "P3", "T1", "test", "Another."), {"patient": 1}),
        (("x.png", xray(204), "Q1", "S3", "test", "Another."), {"study": 1}),
        (("x.png", xray(204), "Q1", "T1", "test", LONG), {"text": 1}),
    ],
    ids=["pixels", "patient", "study", "report"],
)
def test_a_bundle_alone_tells_what_it_was_trained_on(row, expected, few, footprinted, tmp_path):
    one = planted(tmp_path, few, row)
    inspected = found(study_of(one), bundles=[footprinted])
    assert kinds(inspected) == expected
    assert inspected.leaks[0].model == "theirs"
    assert any("near copies of images and of reports" in line for line in inspected.unchecked)


@pytest.fixture(scope="module")
def later(few, tmp_path_factory):
    """What a run on other data kept of itself, with the traits of the first run."""
    folder = tmp_path_factory.mktemp("later")
    second = archive(folder / "second", clean(50, 2, "train"), key=key_of(few))
    marks = [
        footprint_of([manifest], set(manifest.samples["sample"]))
        for manifest in (Manifest.open(second), Manifest.open(few))
    ]
    return second, joined(*marks), marks[0]


def started(second, *earlier):
    init = [{"bundle": "", "manifests": m, "footprint": kept} for m, kept in earlier]
    return {"data": {"manifests": [Manifest.open(second).digest]}, "init": init}


def test_what_the_first_of_two_runs_learnt_from_is_found(few, later, tmp_path):
    second, both, _ = later
    digest = Manifest.open(few).digest
    bundle = write_bundle(tmp_path / "theirs", started(second, ([digest], True)), both)
    one = planted(tmp_path, few, ("x.tif", xray(3), "P4", "T1", "test", "Another."))
    inspected = found(study_of(one), bundles=[bundle])
    assert kinds(inspected) == {"patient": 1, "pixels": 1}
    assert not any("started" in line for line in inspected.unchecked)
    inspected = found(replace(study_of(few), split="train"), bundles=[bundle])
    assert kinds(inspected)["training"] == 6


def test_a_start_that_tells_nothing_is_told_as_unchecked(few, later, tmp_path):
    second, _, own = later
    digest = Manifest.open(few).digest
    others = archive(tmp_path / "t", clean(100, 2, "test"), key=key_of(few))
    for name, init, manifests, expected in [
        ("imported", ([], False), (second,), 1),
        ("elsewhere", ([digest], False), (second,), 1),
        ("at-hand", ([digest], False), (second, few), 0),
    ]:
        bundle = write_bundle(tmp_path / name, started(second, init), own)
        unchecked = found(study_of(*manifests, others), bundles=[bundle]).unchecked
        told = f"of {name}: of 1 of the bundles that it was started from, neither"
        assert sum(told in line for line in unchecked) == expected


def test_a_model_tested_on_what_it_learnt_from_is_found(few, footprinted):
    study = replace(study_of(few), split="train")
    inspected = found(study, bundles=[footprinted])
    assert [(leak.kind, leak.count, leak.model) for leak in inspected.leaks] == [
        ("training", 6, "theirs")
    ]


def test_a_footprint_names_nobody(few, footprinted):
    data = (footprinted / FOOTPRINT).read_bytes()
    samples = Manifest.open(few).samples
    for column in ("sample", "patient", "study", "source", "sha256"):
        assert not [value for value in samples[column] if value.encode() in data]
    read = read_footprint(footprinted)
    assert read is not None
    assert read.known == {
        "patient": 6, "study": 6, "file": 6, "pixels": 6, "recording": 0, "text": 1
    }  # fmt: skip


def test_patients_of_another_key_are_told_as_unchecked(footprinted, tmp_path):
    rows = [("x.png", xray(205), "P3", "S3", "test", "Another.")]
    inspected = found(study_of(archive(tmp_path / "other", rows)), bundles=[footprinted])
    assert kinds(inspected) == {}
    assert any("its footprint has another key" in line for line in inspected.unchecked)


def test_a_bundle_that_tells_nothing_is_told_as_unchecked(train, tmp_path):
    bundle = write_bundle(tmp_path / "silent")
    inspected = found(study_of(archive(tmp_path / "t", clean(100, 2, "test"))), bundles=[bundle])
    assert inspected.leaks == ()
    assert any("neither its manifests nor a footprint" in line for line in inspected.unchecked)


def test_a_leak_refuses_the_number_and_an_overruled_one_stands_beside_it(few, tmp_path):
    row = ("x.tif", xray(3), "Q1", "T1", "test", "Another one.")
    one = planted(tmp_path, few, row)
    bundle = write_bundle(tmp_path / "mine" / "bundle")
    prompts = {"mode": "independent",
               "labels": {"mass": {"positive": ["mass"], "negative": ["no mass"]}}}  # fmt: skip
    values = {
        "name": "trial", "version": 1, "domain": "cxr",
        "task": {"kind": "zero-shot", "prompts": prompts},
        "data": {"manifests": [str(few), str(one)]}, "bootstrap": {"draws": 20},
    }  # fmt: skip
    path = tmp_path / "trial.yaml"
    path.write_text(yaml.safe_dump(values))
    out = tmp_path / "out"
    with pytest.raises(LeakError, match="1 of 1 samples of split test show the same pixels") as no:
        evaluate_protocol(path, [bundle], out, [])
    assert no.value.exit_code == 4
    assert "leakage.allow=[pixels]" in no.value.remedy
    assert not (out / "trial").exists()
    lines = evaluate_protocol(path, [bundle], out, ["leakage.allow=[pixels]"])
    assert all("LEAK: pixels" in line for line in lines.splitlines() if "auroc" in line)
    told = json.loads((out / "trial" / "metrics.json").read_text())
    assert [(leak["kind"], leak["count"], leak["allowed"]) for leak in told["leaks"]] == [
        ("pixels", 1, True)
    ]
    patients = [*Manifest.open(one).samples["patient"], "Q1"]
    assert not [p for p in patients if p in json.dumps(told["leaks"])]


def test_an_allowed_leak_changes_the_protocols_digest_and_a_place_does_not(tmp_path):
    from medvlp.evaluate.protocol import load_protocol

    values = {
        "name": "trial", "version": 1, "domain": "cxr",
        "task": {"kind": "retrieval"}, "data": {"manifests": ["m"]},
    }  # fmt: skip
    path = tmp_path / "trial.yaml"
    path.write_text(yaml.safe_dump(values))
    plain = load_protocol(path).digest
    assert load_protocol(path, [f"leakage.trained_on=[{Path('x')}]"]).digest == plain
    assert load_protocol(path, ["leakage.allow=[image]"]).digest != plain
