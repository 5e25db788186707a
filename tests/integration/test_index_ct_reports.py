"""CT sets with words or labels beside them: RAD-ChestCT, Merlin, M3D-Cap, BIMCV-R, INSPECT."""

import json

import numpy as np
import polars as pl
import pytest
from minisets import Indexed, picture, write
from minivolumes import affine, body, nifti
from openpyxl import Workbook

from medvlp_volumetric.preprocess import CtPreprocessConfig
from medvlp_volumetric.read import read_volume


def volume(found, name):
    row = found.samples[name]
    return read_volume(found.manifest.paths(row["source"]), row["flags"])


def texts(found, name):
    """Source and words of a sample's whole report."""
    rows = found.manifest.texts.filter(pl.col("sample") == found.samples[name]["sample"])
    top = rows.filter(pl.col("level") == "report")
    return top.select("source", "text").rows()


@pytest.fixture(scope="module")
def rad(tmp_path_factory):
    """Slices from head to feet, rows from front to back, columns from right to left."""
    folder = tmp_path_factory.mktemp("rad")
    root = folder / "rad"
    root.mkdir()
    # Column, row and slice of the miniature run to the left, the back and the head.
    stored = np.ascontiguousarray(body(1).transpose(2, 1, 0)[::-1])
    np.savez_compressed(root / "trn00001.npz", ct=stored)
    np.savez_compressed(root / "val00002.npz", ct=stored[::-1] + 1)
    np.savez_compressed(root / "tst00003.npz", ct=stored + 2)
    np.savez_compressed(root / "trn00004.npz", ct=stored.astype(object))
    np.savez_compressed(root / "trn00005.npz", ct=stored + 3)
    # A mask of a volume's own name, in a folder that comes first.
    (root / "masks").mkdir()
    np.savez_compressed(root / "masks/trn00001.npz", ct=(stored > 0).astype(np.int16))
    head = "VolumeAcc_DEID,NoteAcc_DEID,MRN_DEID,final_spacing,Set_Assigned,Subset_Assigned"
    rows = [
        "trn00001.npz,AA1,MRN1,0.8,train,imgtrain",
        "val00002.npz,AA2,MRN1,0.8,train,imgtrain",
        "tst00003.npz,AA3,MRN3,0.8,test,imgtest",
        "trn00004.npz,AA4,MRN4,0.8,train,imgtrain",
        "trn00005.npz,AA5,,0.8,train,imgtrain",
        "trn00006.npz,AA6,MRN6,0.8,train,imgtrain",
    ]
    write(root / "CT_Scan_Metadata_Complete_35747.csv", "\n".join([head, *rows]) + "\n")
    head = "NoteAcc_DEID,nodule*left_lung,nodule*right_lung,mass*left_lung,calcification*aorta"
    rows = ["AA1,0,1,0,0", "AA6,0,0,0,0", "AA7,0,0,x,0"]
    labels = "imgtrain_Abnormality_and_Location_Labels.csv"
    write(root / labels, "\n".join([head, *rows]) + "\n")
    return Indexed(root, "rad-chestct", folder / "m")


def test_rad_volumes_are_turned_to_the_axes_of_all_others(rad):
    scan = volume(rad, "trn00001.npz").canonical()
    same = nifti(rad.root.parent / "same.nii", body(1), affine((0.8, 0.8, 0.8)))
    wanted = read_volume([same]).canonical()
    assert np.array_equal(scan.hu_DHW, wanted.hu_DHW)
    np.testing.assert_allclose(scan.spacing_mm, wanted.spacing_mm, rtol=1e-6)
    assert rad.samples["trn00001.npz"]["kind"] == "array"


def test_rad_rows_and_labels_are_accounted_for(rad):
    assert set(rad.samples) == {"trn00001.npz", "tst00003.npz"}
    assert rad.codes == [
        ("ignored", "not_of_the_set"),
        ("join", "no_row"),
        ("join", "no_row"),
        ("read", "bad_datatype"),
        ("row", "bad_labels"),
        ("row", "no_patient"),
        ("row", "split_conflict"),
    ]
    assert rad.notes == {
        "rows_without_image": 1, "volumes": 5, "volumes_published": 3_630,
        "labels_without_image": 1,
    }  # fmt: skip
    assert rad.labels("nodule") == {"trn00001.npz": 1.0}
    assert rad.labels("mass") == {"trn00001.npz": 0.0}
    entities = rad.manifest.entities.select("anatomy", "observation", "presence").rows()
    assert entities == [("right_lung", "nodule", 1.0)]


def test_merlin_takes_minus_one_for_not_mentioned(tmp_path):
    root = tmp_path / "merlin"
    for seed, name in enumerate(("AC001", "AC002", "AC003")):
        nifti(root / f"merlin_data/{name}.nii.gz", body(seed), affine())
        # Its folder comes before that of the volumes.
        nifti(root / f"masks/{name}.nii.gz", (body(seed) > 0).astype(np.uint8), affine())
    book = Workbook()
    for row in (
        ("study id", "Findings", "Split", "Few Shot"),
        ("AC001", "LIVER: Normal.\nIMPRESSION: 1. Gallstones.", "train", "0.1"),
        ("AC002", None, "val", None),
        ("AC009", "LIVER: Normal.", "test", None),
    ):
        book.active.append(row)
    book.save(root / "reports_final.xlsx")
    rows = ["study id,gallstones,ascites,splenomegaly", "AC001,1,0,-1", "AC007,1,1,1"]
    write(root / "zero_shot_findings_disease_cls.csv", "\n".join(rows) + "\n")
    found = Indexed(root, "merlin", tmp_path / "m")
    one, two = "merlin_data/AC001.nii.gz", "merlin_data/AC002.nii.gz"
    assert found.columns("source_split") == {one: ("train",), two: ("valid",)}
    assert {name: found.labels(name) for name in ("gallstones", "ascites", "splenomegaly")} == {
        "gallstones": {one: 1.0}, "ascites": {one: 0.0}, "splenomegaly": {},
    }  # fmt: skip
    ((_, words),) = texts(found, one)
    assert words.startswith("FINDINGS:")
    sections = found.manifest.texts.filter(pl.col("level") == "section")
    assert sections.height == 2
    assert "no_text" in found.samples[two]["flags"]
    ignored = [("ignored", "not_of_the_set")] * 3
    assert found.codes == [*ignored, ("join", "no_row"), ("row", "empty_report")]
    assert (found.notes["rows_without_image"], found.notes["labels_without_image"]) == (1, 1)


@pytest.fixture(scope="module")
def m3d(tmp_path_factory):
    folder = tmp_path_factory.mktemp("m3d")
    root = folder / "M3D_Cap"
    case = root / "ct_case/000006"
    for number in range(12):
        shape = (20, 30) if number == 5 else (24, 32)
        picture(case / f"Axial_non_contrast/{number}.png", number, shape)
    for number in range(4):
        picture(case / f"Coronal_lung_window/{number}.jpeg", 50 + number, (24, 20 + number))
    write(case / "text.txt", "title: x\nstudy_findings: A cyst of the left kidney.\n")
    arrays = root / "ct_case/000007"
    arrays.mkdir(parents=True)
    values = np.random.default_rng(0).random((1, 6, 8, 10)).astype(np.float32)
    np.save(arrays / "Sagittal_bone_window.npy", values)
    np.save(arrays / "Axial.npy", (values[0] * 255).astype(np.uint8))
    write(arrays / "text.txt", "x.\n")
    write(root / "ct_case/000008/text.txt", "discussion: Nothing was kept of it.\n")
    listed = [{"image": "M3D_Cap_npy/ct_case/000006/Axial_non_contrast.npy", "text": "t"}]
    write(root / "M3D_Cap.json", json.dumps({"train": [], "validation": listed, "test": []}))
    return Indexed(root, "m3d-cap", folder / "m")


def test_m3d_leaves_odd_slices_out_and_says_that_values_are_no_hu(m3d):
    axial = next(name for name in m3d.samples if "Axial_non_contrast" in name)
    row = m3d.samples[axial]
    assert {"not_hu", "no_geometry", "slices_left_out"} <= set(row["flags"])
    assert (row["shape"], row["spacing_mm"], row["source_split"]) == ([11, 24, 32], None, "valid")
    scan = volume(m3d, axial)
    assert (scan.units, scan.axcodes) == ("", "LPI")
    # Slices in the order of their numbers, 10 after 9 and not after 1.
    order = [path.stem for path in m3d.manifest.paths(row["source"])]
    assert order == [str(n) for n in range(12) if n != 5]
    assert m3d.codes == [
        ("join", "report_without_study"),
        ("read", "empty_report"),
        *[("read", "mixed_sizes")] * 5,
    ]
    assert texts(m3d, axial) == [("report", "A cyst of the left kidney.")]


def test_m3d_arrays_and_pictures_have_one_scale_of_grey(m3d):
    half, whole = (
        volume(m3d, f"ct_case/000007/{n}.npy") for n in ("Sagittal_bone_window", "Axial")
    )
    assert (half.axcodes, whole.axcodes) == ("PIL", "LPI")
    assert half.hu_DHW.max() == pytest.approx(255, abs=1)
    np.testing.assert_allclose(half.hu_DHW, whole.hu_DHW, atol=1.001)
    contract = CtPreprocessConfig(shape=(4, 4, 4), fit="resize", window_hu=(0.0, 255.0)).build()
    row = m3d.samples["ct_case/000007/Axial.npy"]
    stored = contract.read(m3d.manifest.paths(row["source"]), flags=row["flags"])
    assert stored.shape == (4, 4, 4)
    assert {"not_hu", "no_geometry", "no_text"} <= set(row["flags"])


@pytest.mark.parametrize(("language", "source"), [("en", "report"), ("es", "report:es")])
def test_bimcv_joins_volumes_by_the_numbers_in_their_names(tmp_path, language, source):
    root = tmp_path / "bimcv"
    names = [
        "CT1/ct/sub-S03049_ses-E06600_run-1_bp-chest_ct.nii.gz",
        "CT1/ct/sub-S03049_ses-E06600_run-2_bp-chest_ct.nii.gz",
        "CT2/ct/sub-S03050_ses-E06601_run-1_bp-chest_ct.nii.gz",
        "CT2/ct/sub-S09999_ses-E09999_run-1_bp-chest_ct.nii.gz",
    ]
    for seed, name in enumerate(names):
        nifti(root / name, body(seed), affine())
    first = root / "CT0/segmentations" / names[0].rsplit("/", 1)[1]
    nifti(first, (body(0) > 0).astype(np.uint8), affine())
    told = "\"['pleural effusion', 'nodule']\""
    rows = [
        "PatientID,ReportID,Report,Labels,path,Report_en",
        f"sub-S03049,ses-E06600,Derrame pleural.,{told},a,Pleural effusion.",
        f"sub-S03049,ses-E06600,Derrame pleural.,{told},b,Pleural effusion.",
        "sub-S03050,ses-E06601,,[],c,",
        "sub-S03051,ses-E06602,Normal.,['normal'],d,Normal.",
    ]
    write(root / "meta/curated_ct_report_path_En.csv", "\n".join(rows) + "\n")
    found = Indexed(root, "bimcv-r", tmp_path / "m", f"options.language={language}")
    assert set(found.samples) == set(names[:3])
    studies = found.columns("patient", "study")
    assert studies[names[0]] == studies[names[1]] != studies[names[2]]
    words = {"en": "Pleural effusion.", "es": "Derrame pleural."}[language]
    assert texts(found, names[1]) == [(source, words)]
    assert found.labels("nodule") == dict.fromkeys(names[:2], 1.0)
    assert "no_text" in found.samples[names[2]]["flags"]
    assert found.codes == [
        ("ignored", "not_of_the_set"), ("join", "no_row"), ("row", "empty_report"),
    ]  # fmt: skip
    assert found.notes["reports_without_study"] == 1


def test_inspect_takes_censored_outcomes_for_unknown(tmp_path):
    root = tmp_path / "inspect/full"
    for seed, name in enumerate(("PE1", "PE2", "PE3")):
        nifti(root / f"CTPA/{name}.nii.gz", body(seed), affine())
        nifti(root / f"CT_seg/{name}.nii.gz", (body(seed) > 0).astype(np.uint8), affine())
    tables = {
        "impressions": ["impression_id\timpressions", "1\tNo embolism.", "2\t", "7\tNone."],
        "labels": ["impression_id\tpe_positive\t1_month_mortality", "1\tTrue\tCensored", "2\tx\tx"],
        "splits": ["impression_id\tsplit", "1\ttrain", "2\tvalid"],
        "study_mapping": [
            "impression_id\tperson_id\timage_id\tprocedure_DATETIME",
            "1\t11\tPE1\t2001-02-03 04:05:00",
            "2\t11\tPE2.nii.gz\t2001-02-04",
            "3\t\tPE3\t2001-02-04",
        ],
    }
    for name, rows in tables.items():
        write(root / f"{name}_20250611.tsv", "\n".join(rows) + "\n")
    found = Indexed(root, "inspect-ctpa", tmp_path / "m")
    one, two = "CTPA/PE1.nii.gz", "CTPA/PE2.nii.gz"
    rows = found.columns("patient", "source_split")
    assert rows[one][0] == rows[two][0]
    assert (rows[one][1], rows[two][1]) == ("train", "valid")
    assert found.labels("pe_positive") == {one: 1.0}
    assert found.labels("1_month_mortality") == {one: None}
    assert [words for _, words in texts(found, one)] == ["IMPRESSION:\nNo embolism."]
    assert "no_text" in found.samples[two]["flags"]
    assert found.codes == [
        *[("ignored", "not_of_the_set")] * 3,
        ("join", "no_row"),
        ("row", "bad_labels"),
        ("row", "empty_report"),
        ("row", "no_patient"),
    ]
    assert found.notes["reports_without_study"] == 1
