from __future__ import annotations

import re
import shutil
import subprocess

import nibabel as nib
import numpy as np
import polars as pl
import pydicom
import pytest
import SimpleITK

from medvlp.errors import ConfigError
from medvlp.phantom.grammar import Finding
from medvlp.phantom.patients import draw_patient, patient_generator
from medvlp.phantom.report import write_report
from medvlp.phantom.write import write_phantom
from medvlp_volumetric import phantom, phantom_findings
from medvlp_volumetric.phantom_words import STYLE, WORDS

SETTINGS = ["slices=32", "size=64", "workers=1"]
EXAMPLES = {
    "cardiomegaly": Finding(name="cardiomegaly", severity="mild"),
    "pericardial_effusion": Finding(name="pericardial_effusion", severity="moderate"),
    "aortic_aneurysm": Finding(name="aortic_aneurysm", place="abdominal", size_mm=60.0),
    "pleural_effusion": Finding(name="pleural_effusion", side="left", severity="moderate"),
    "emphysema": Finding(name="emphysema", severity="mild"),
    "consolidation": Finding(name="consolidation", side="right", place="lower lobe"),
    "lung_nodule": Finding(name="lung_nodule", side="left", place="upper lobe", size_mm=26.0),
    "liver_lesion": Finding(name="liver_lesion", place="dome", size_mm=40.0),
    "splenomegaly": Finding(name="splenomegaly", size_mm=150.0),
    "renal_cyst": Finding(name="renal_cyst", side="left", size_mm=40.0),
    "kidney_stone": Finding(name="kidney_stone", side="right", size_mm=18.0),
    "vertebral_fracture": Finding(name="vertebral_fracture", place="T10"),
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "ct"
    write_phantom("volumetric", folder, n=6, seed=0, settings=SETTINGS)
    return folder


def paint(findings, seed=0):
    return phantom.paint(findings, 32, 64, np.random.default_rng(seed))


def series_of(archive):
    for folder in sorted(p for p in archive.glob("dicom/*/*") if p.is_dir()):
        yield [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


def test_the_same_seed_gives_the_same_bytes(archive, tmp_path):
    write_phantom("volumetric", tmp_path / "again", n=6, seed=0, settings=SETTINGS)
    for path in archive.rglob("*"):
        if path.is_file():
            again = tmp_path / "again" / path.relative_to(archive)
            assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", phantom_findings.NAMES)
def test_a_finding_changes_the_voxels_where_its_mask_is(name):
    without, with_it = paint([]), paint([EXAMPLES[name]])
    mask = with_it.masks[name]
    change = np.abs(with_it.hu - without.hu)
    assert with_it.hu.dtype == np.float32
    assert mask.sum() >= 8
    assert change[mask].mean() > 40
    assert change[mask].mean() > 4 * change[~mask].mean()


@pytest.mark.parametrize(
    "name", ["pleural_effusion", "lung_nodule", "consolidation", "renal_cyst", "kidney_stone"]
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_columns_run_from_the_patients_right_to_left(name, side):
    example = EXAMPLES[name]
    finding = Finding(
        name=name, side=side, place=example.place, severity=example.severity,
        size_mm=example.size_mm,
    )  # fmt: skip
    centre = np.argwhere(paint([finding]).masks[name]).mean(axis=0)
    assert (centre[2] > 32) == (side == "left")


def test_organs_lie_where_they_belong_and_have_their_density():
    volume = paint([])
    centre = {n: np.argwhere(volume.organ(n)).mean(axis=0) for n in phantom.draw.ORGANS}
    mean = {n: volume.hu[volume.organ(n)].mean() for n in phantom.draw.ORGANS}
    assert centre["liver"][2] < centre["spleen"][2]
    assert centre["right lung"][2] < centre["heart"][2] < centre["left lung"][2]
    assert centre["liver"][0] < centre["left lung"][0]
    assert centre["heart"][1] < centre["spine"][1]
    assert mean["right lung"] < -650
    assert 60 < mean["liver"] < 220
    assert mean["spine"] > 100


def test_a_series_is_a_grid_whatever_its_file_names_and_numbers(archive):
    reversed_numbers, intercepts = set(), set()
    for files in series_of(archive):
        positions = np.array([float(ds.ImagePositionPatient[2]) for ds in files])
        numbers = np.array([int(ds.InstanceNumber) for ds in files])
        steps = np.diff(np.sort(positions))
        assert np.allclose(steps, 10.0)
        assert not (np.diff(positions) > 0).all()
        assert len({ds.SOPInstanceUID for ds in files}) == 32
        assert all(ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID for ds in files)
        reversed_numbers.add(bool(np.corrcoef(positions, numbers)[0, 1] < 0))
        intercepts.add(int(files[0].RescaleIntercept))
        assert re.fullmatch(r"PHANTOM\^\d{9}", str(files[0].PatientName))
    assert reversed_numbers == {False, True}
    assert intercepts == {-1024, 0}


@pytest.mark.skipif(not shutil.which("dcmdump"), reason="dcmtk is not installed")
def test_another_reader_takes_the_files(archive):
    for path in list(archive.rglob("*.dcm"))[:3]:
        done = subprocess.run(["dcmdump", "-q", path], capture_output=True, check=True)
        assert not done.stderr


def test_simpleitk_reads_the_same_volume(archive, tmp_path):
    settings = [*SETTINGS, "format=nifti"]
    write_phantom("volumetric", tmp_path / "n", n=1, seed=0, settings=settings)
    image = SimpleITK.ReadImage(str(next((tmp_path / "n/nifti").rglob("*.nii.gz"))))
    study = next((tmp_path / "n/nifti").rglob("*.nii.gz")).name.removesuffix(".nii.gz")
    (folder,) = (archive / "dicom" / study).iterdir()
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    series = SimpleITK.ReadImage(names)
    assert np.allclose(series.GetSpacing(), image.GetSpacing())
    assert np.allclose(series.GetOrigin(), image.GetOrigin(), atol=1e-3)
    assert np.allclose(series.GetDirection(), image.GetDirection())
    assert np.array_equal(SimpleITK.GetArrayFromImage(series), SimpleITK.GetArrayFromImage(image))


def test_masks_lie_on_the_series_and_boxes_around_them(archive):
    regions = pl.read_parquet(archive / "truth/regions.parquet")
    boxes = {(r["study_uid"], r["name"]): r for r in regions.iter_rows(named=True)
             if r["kind"] == "box"}  # fmt: skip
    seen = 0
    for files in series_of(archive):
        files.sort(key=lambda ds: float(ds.ImagePositionPatient[2]))
        study = files[0].StudyInstanceUID
        origin = np.array(files[0].ImagePositionPatient, dtype=float)
        hu = np.stack([ds.pixel_array + int(ds.RescaleIntercept) for ds in files])
        organs = nib.load(archive / f"truth/masks/{study}-organs.nii.gz")
        assert np.allclose(organs.affine[:3, 3], origin * [-1, -1, 1], atol=1e-3)
        lungs = np.isin(np.asarray(organs.dataobj).transpose(2, 1, 0), (1, 2))
        assert np.median(hu[lungs]) < -600
        for (owner, name), row in boxes.items():
            if owner == study:
                mask = np.asarray(
                    nib.load(archive / f"truth/masks/{study}-{name}.nii.gz").dataobj
                ).transpose(2, 1, 0)
                z, y, x = (slice(int(row[f"{a}0"]), int(row[f"{a}1"])) for a in "zyx")
                assert mask[z, y, x].sum() == mask.sum() > 0
                seen += 1
    assert seen == len(boxes) > 0


KEYWORDS = {
    "cardiomegaly": r"cardiomegaly|cardiac enlargement|heart (is|size)|enlarged heart|"
    r"of the heart|cardiac silhouette",
    "pericardial_effusion": r"pericardial",
    "aortic_aneurysm": r"aneurysm|aorta",
    "pleural_effusion": r"pleural",
    "emphysema": r"emphysem|hyperinflat",
    "consolidation": r"consolidation|pneumonia",
    "lung_nodule": r"(pulmonary|lung) (nodule|mass)",
    "liver_lesion": r"liver|hepatic",
    "splenomegaly": r"spleen|splen",
    "renal_cyst": r"cyst",
    "kidney_stone": r"stone|calculus|nephrolithiasis",
    "vertebral_fracture": r"fracture|intact",
}
NEGATIVE = re.compile(
    r"\bno\b|without|negative for|neither|not enlarged|normal|clear|intact|"
    r"homogeneous|unremarkable",
    re.IGNORECASE,
)
DOUBT = re.compile(r"possible|questionable|cannot be excluded|may represent", re.IGNORECASE)


def test_the_report_says_what_is_drawn_and_nothing_else():
    assert set(WORDS) == set(phantom_findings.NAMES)
    for i in range(300):
        rng = np.random.default_rng(i)
        findings = phantom_findings.draw_findings(rng)
        text, denied = write_report(rng, STYLE, findings, thickness="5.0")
        read: dict[str, float] = {}
        for sentence in re.split(r"(?<=[.])\s+", text):
            polarity = -1.0 if DOUBT.search(sentence) else float(not NEGATIVE.search(sentence))
            for name, words in KEYWORDS.items():
                if re.search(words, sentence, re.IGNORECASE):
                    read.setdefault(name, polarity)
        expected = {f.name: f.presence for f in findings} | dict.fromkeys(denied, 0.0)
        assert read == expected, text


def test_findings_are_frequent_and_metadata_know_nothing_of_them():
    meta, positive = [], []
    for i in range(2000):
        patient = draw_patient("volumetric", 0, i)
        names = {
            f.name
            for f in phantom_findings.draw_findings(
                patient_generator("volumetric", 0, i, "findings")
            )
        }
        meta.append([patient.sex == "F", patient.age, patient.site.endswith("A")])
        positive.append([name in names for name in phantom_findings.NAMES])
    rates = np.mean(positive, axis=0)
    assert ((rates > 0.12) & (rates < 0.25)).all()
    table = np.concatenate([np.array(meta, float), np.array(positive, float)], axis=1)
    # Under independence a correlation over 2000 patients has a spread of 0.022.
    assert np.abs(np.corrcoef(table.T)[:3, 3:]).max() < 0.09


def test_nifti_volumes_hold_hounsfield_units(tmp_path):
    write_phantom("volumetric", tmp_path / "n", n=2, seed=1, settings=[*SETTINGS, "format=nifti"])
    volumes = list((tmp_path / "n/nifti").rglob("*.nii.gz"))
    assert len(volumes) == 2
    image = nib.load(volumes[0])
    assert image.shape == (64, 64, 32)
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    assert np.asarray(image.dataobj).min() < -900


def test_a_choice_of_findings_draws_and_labels_no_other(tmp_path):
    chosen = ["findings=[emphysema, splenomegaly]", "masks=false"]
    write_phantom("volumetric", tmp_path / "few", n=12, seed=0, settings=[*SETTINGS, *chosen])
    labels = pl.read_csv(tmp_path / "few" / "truth" / "labels.csv")
    assert set(labels["name"]) == {"emphysema", "splenomegaly"}
    assert labels.filter(pl.col("value") == 1).height > 0
    with pytest.raises(ConfigError, match="spleen"):
        write_phantom("volumetric", tmp_path / "no", n=1, seed=0, settings=["findings=[spleen]"])
