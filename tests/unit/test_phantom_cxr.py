from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pydicom
import pytest

from medvlp.cxr import phantom, phantom_findings
from medvlp.cxr.phantom_words import STYLE, WORDS
from medvlp.data.prompts import load_prompts
from medvlp.errors import ConfigError, InputError
from medvlp.phantom.grammar import Finding
from medvlp.phantom.patients import draw_patient, patient_generator
from medvlp.phantom.report import write_report
from medvlp.phantom.write import write_phantom
from medvlp_volumetric import phantom_findings as ct_findings

EXAMPLES = {
    "cardiomegaly": Finding(name="cardiomegaly", severity="moderate"),
    "pleural_effusion": Finding(name="pleural_effusion", side="left", severity="moderate"),
    "pneumothorax": Finding(name="pneumothorax", side="right", severity="moderate"),
    "consolidation": Finding(name="consolidation", side="left", place="mid"),
    "atelectasis": Finding(name="atelectasis", side="right", place="lower"),
    "nodule": Finding(name="nodule", side="left", place="upper", size_mm=25.0),
    "edema": Finding(name="edema", severity="mild"),
    "emphysema": Finding(name="emphysema", severity="mild"),
    "rib_fracture": Finding(name="rib_fracture", side="left", place="mid"),
    "pacemaker": Finding(name="pacemaker", side="left"),
    "central_line": Finding(name="central_line", side="right"),
    "endotracheal_tube": Finding(name="endotracheal_tube", size_mm=35.0),
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "cxr"
    write_phantom("cxr", folder, n=14, seed=3, settings=["size=96", "workers=1"])
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def paint(findings, seed=0, size=96):
    canvas, _ = phantom.paint(findings, size, np.random.default_rng(seed))
    return canvas


def test_the_same_seed_gives_the_same_bytes_whatever_the_workers(archive, tmp_path):
    write_phantom("cxr", tmp_path / "again", n=14, seed=3, settings=["size=96", "workers=2"])
    write_phantom("cxr", tmp_path / "other", n=14, seed=4, settings=["size=96", "workers=1"])
    assert files_of(archive) == files_of(tmp_path / "again")
    assert (
        files_of(archive)
        .keys()
        .isdisjoint(name for name in files_of(tmp_path / "other") if name.endswith(".dcm"))
    )


def test_an_existing_folder_and_a_wrong_setting_are_refused(archive, tmp_path):
    with pytest.raises(InputError, match="not empty"):
        write_phantom("cxr", archive, n=1, seed=0)
    with pytest.raises(ConfigError, match="siz"):
        write_phantom("cxr", tmp_path / "x", n=1, seed=0, settings=["siz=96"])
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_args, **_elements):
        raise KeyboardInterrupt

    monkeypatch.setattr(phantom, "write_radiograph", fail)
    with pytest.raises(KeyboardInterrupt):
        write_phantom("cxr", tmp_path / "x", n=2, seed=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", phantom_findings.NAMES)
def test_a_finding_changes_the_pixels_where_its_mask_is(name):
    without, with_it = paint([]), paint([EXAMPLES[name]])
    mask = with_it.masks[name]
    change = np.abs(with_it.image - without.image)
    assert with_it.image.dtype == np.float32
    assert mask.sum() >= 10
    assert change[mask].mean() > 0.05
    assert change[mask].mean() > 3 * change[~mask].mean()


@pytest.mark.parametrize("name", ["pleural_effusion", "nodule", "consolidation", "rib_fracture"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_image_left_is_the_patients_right(name, side):
    example = EXAMPLES[name]
    finding = Finding(
        name=name, side=side, place=example.place, severity=example.severity,
        size_mm=example.size_mm,
    )  # fmt: skip
    mask = paint([finding]).masks[name]
    centre = np.argwhere(mask).mean(axis=0)[1]
    assert (centre > 48) == (side == "left")


def test_an_equivocal_finding_is_fainter():
    plain = Finding(name="nodule", side="left", place="upper", size_mm=25.0)
    faint = Finding(name="nodule", side="left", place="upper", size_mm=25.0, presence=-1)
    normal, mask = paint([]).image, paint([plain]).masks["nodule"]
    shown = (paint([plain]).image - normal)[mask].mean()
    assert 0.2 * shown < (paint([faint]).image - normal)[mask].mean() < 0.6 * shown


def test_findings_are_as_frequent_as_promised():
    studies = [phantom_findings.draw_findings(np.random.default_rng(i)) for i in range(3000)]
    normal = np.mean([not findings for findings in studies])
    counts = dict.fromkeys(phantom_findings.NAMES, 0)
    for findings in studies:
        for finding in findings:
            counts[finding.name] += finding.presence > 0
    assert 0.24 < normal < 0.3
    for name, count in counts.items():
        assert 0.12 < count / 3000 < 0.25, name


KEYWORDS = {
    "cardiomegaly": r"cardiomegaly|enlarge|heart size|cardiac silhouette",
    "pleural_effusion": r"effusion|pleural fluid|costophrenic",
    "pneumothorax": r"pneumothorax",
    "consolidation": r"consolidation|pneumonia|airspace opacity",
    "atelectasis": r"atelectasis",
    "nodule": r"nodule|mass\b",
    "edema": r"edema|congestion",
    "emphysema": r"emphysem|hyperinflat|hyperexpan",
    "rib_fracture": r"fracture|ribs are intact|bony thorax",
    "pacemaker": r"pacemaker|pacing",
    "central_line": r"central venous",
    "endotracheal_tube": r"endotracheal|intubated",
}
NEGATIVE = re.compile(
    r"\bno\b|without|negative for|neither|not enlarged|normal|sharp|clear|intact", re.IGNORECASE
)
DOUBT = re.compile(
    r"possible|questionable|probable|cannot be excluded|may (be|represent)", re.IGNORECASE
)


def parse(text: str) -> dict[str, float]:
    """A reader of the grammar that knows nothing of its templates."""
    read: dict[str, float] = {}
    for sentence in re.split(r"(?<=[.])\s+", text):
        for name, words in KEYWORDS.items():
            if not re.search(words, sentence, re.IGNORECASE):
                continue
            polarity = 0.0 if NEGATIVE.search(sentence) else 1.0
            read.setdefault(name, -1.0 if DOUBT.search(sentence) else polarity)
    return read


def test_the_report_says_what_is_drawn_and_nothing_else():
    for i in range(300):
        rng = np.random.default_rng(i)
        findings = phantom_findings.draw_findings(rng)
        text, denied = write_report(rng, STYLE, findings, view="PA", ratio="0.51")
        expected = {f.name: f.presence for f in findings} | dict.fromkeys(denied, 0.0)
        assert parse(text) == expected, text
        assert "{" not in text
        assert "[" not in text
        assert "  " not in text


def test_every_template_can_be_said_and_wording_varies():
    assert set(WORDS) == set(phantom_findings.NAMES)
    texts = {
        write_report(np.random.default_rng(i), STYLE, [], view="AP", ratio="0.50")[0]
        for i in range(50)
    }
    assert len(texts) > 45


def test_metadata_know_nothing_of_the_findings():
    sex, age, site, positive = [], [], [], []
    for i in range(2000):
        patient = draw_patient("cxr", 0, i)
        findings = phantom_findings.draw_findings(patient_generator("cxr", 0, i, "findings/0"))
        sex.append(patient.sex == "F")
        age.append(patient.age)
        site.append(patient.site.endswith("A"))
        positive.append([n in {f.name for f in findings} for n in phantom_findings.NAMES])
    meta = np.array([sex, age, site], dtype=float)
    corr = np.corrcoef(np.concatenate([meta, np.array(positive, dtype=float).T]))[:3, 3:]
    # Under independence a correlation over 2000 patients has a spread of 0.022.
    assert np.abs(corr).max() < 0.09


def test_files_are_valid_dicom_without_names(archive):
    inverted = set()
    for path in archive.rglob("*.dcm"):
        ds = pydicom.dcmread(path)
        assert ds.pixel_array.shape == (96, 96)
        assert ds.pixel_array.max() < 4096
        assert re.fullmatch(r"PHANTOM\d{9}", ds.PatientID)
        assert re.fullmatch(r"PHANTOM\^\d{9}", str(ds.PatientName))
        assert ds.PatientBirthDate == ""
        inverted.add(ds.PhotometricInterpretation)
        if shutil.which("dcmdump"):
            done = subprocess.run(["dcmdump", "-q", path], capture_output=True, check=True)
            assert not done.stderr
    assert inverted == {"MONOCHROME1", "MONOCHROME2"}


def test_inversion_is_in_the_header_and_the_pixels_alike(archive):
    for path in archive.rglob("*.dcm"):
        ds = pydicom.dcmread(path)
        image = ds.pixel_array.astype(float)
        if ds.PhotometricInterpretation == "MONOCHROME1":
            image = 4095 - image
        # The spine is denser than the air beside the body.
        assert image[60:70, 46:50].mean() > image[:30, :2].mean()


def test_truth_tables_agree_with_each_other(archive):
    labels = pl.read_csv(archive / "truth/labels.csv")
    regions = pl.read_parquet(archive / "truth/regions.parquet")
    reports = pl.read_csv(archive / "reports.csv")
    images = {path.stem for path in archive.rglob("*.dcm")}
    assert set(labels["sop_uid"]) == images
    assert len(labels) == len(images) * len(phantom_findings.NAMES)
    assert len(reports) == len(images)
    shown = labels.filter(pl.col("value") != 0).select("sop_uid", "name")
    boxes = regions.filter(pl.col("kind") == "box").select("sop_uid", "name")
    assert set(shown.rows()) == set(boxes.rows())
    for row in regions.filter(pl.col("kind") == "mask").iter_rows(named=True):
        assert (archive / row["file"]).is_file()


@pytest.mark.parametrize(
    ("name", "labels"),
    [("cxr-phantom", phantom_findings.NAMES), ("ct-phantom", ct_findings.NAMES)],
)
def test_the_prompt_files_ask_for_every_finding(name, labels):
    folder = Path(__file__).parents[2] / "configs/evaluate/prompts"
    assert load_prompts(folder / f"{name}.yaml").names == labels
