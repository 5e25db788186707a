import numpy as np
import polars as pl
import pytest
from minisets import Indexed, write
from minivolumes import affine, body, nifti, without_geometry

from medvlp.data.drawn_regions import DrawnRegions
from medvlp.errors import ArchiveError
from medvlp_volumetric.preprocess import CtPreprocessConfig
from medvlp_volumetric.read import read_volume
from medvlp_volumetric.sets.ct_rate import ABNORMALITIES

V1, V2 = "dataset/train", "dataset/train_fixed"
META = (
    "VolumeName,Manufacturer,ManufacturerModelName,PatientSex,PatientAge,RescaleIntercept,"
    "RescaleSlope,XYSpacing,ZSpacing,ImagePositionPatient,ImageOrientationPatient,StudyDate"
)
TEXT = "VolumeName,ClinicalInformation_EN,Technique_EN,Findings_EN,Impressions_EN"
FINDINGS = "A nodule of 4 mm is seen in the right upper lobe."


def place(folder, name):
    patient, study = "_".join(name.split("_")[:2]), name.rpartition("_")[0]
    return f"{folder}/{patient}/{study}/{name}.nii.gz"


def meta(name, intercept="-1024", z="2.5"):
    return (
        f'{name}.nii.gz,Maker,Model,F,065Y,{intercept},1,"[0.8, 0.8]",{z},'
        f'"[-40.0, -35.0, 10.0]","[1, 0, 0, 0, 1, 0]",20190215'
    )


def spoken(name, impression="Nodule."):
    return f"{name}.nii.gz,Cough.,Not given.,{FINDINGS},{impression}"


def marks(name, *present):
    return ",".join([f"{name}.nii.gz", *(str(int(a in present)) for a in ABNORMALITIES)])


TRAIN = {  # Folder, values that are stored, affine.
    "train_1_a_1": (V1, body(1) + 1024, None),
    "train_2_a_1": (V2, body(2), affine()),
    "train_3_a_1": (V2, body(3) - 1024, affine()),
    "train_4_a_1": (V2, body(4), affine()),
    "train_5_a_1": (V2, body(5), affine()),
    "train_6_a_1": (V1, body(6) + 1024, None),
    "train_7_a_1": (V2, body(7), affine((0.9, 0.9, 2.5))),
    "train_8_a_1": (V2, body(8), affine()),
    "train_10_a_1": (V1, body(2) + 1024, None),
}


def archive(root):
    """Both versions, mixed, as whoever went on with an older download has them."""
    for name, (folder, values, place_4x4) in TRAIN.items():
        nifti(root / place(folder, name), values.astype(np.int16), place_4x4)
    without_geometry(nifti(root / "loose/train_4_a_1.nii", body(4), affine()))
    (root / place(V2, "train_4_a_1")).unlink()
    nifti(root / place(V1, "train_2_a_1"), body(2) + 1024)
    nifti(root / place(V1, "valid_2_a_1"), body(20) + 1024)
    nifti(root / place("dataset/valid", "valid_1_a_1"), body(21) + 8192)
    nifti(root / place("dataset/valid", "valid_1_a_2"), body(22) + 8192)
    nifti(root / place("dataset/valid", "valid_1_b_1"), body(23) + 8192)
    organ = np.zeros(body(1).shape, np.uint8)
    organ[4:8] = 3
    nifti(root / place("dataset/ts_seg/ts_total/train_fixed", "train_1_a_1"), organ, affine())
    tables = root / "dataset"
    known = [name for name in TRAIN if name != "train_8_a_1"]
    rows = [meta(name, z="" if name == "train_6_a_1" else "2.5") for name in known]
    rows += [meta("train_1_a_1"), meta("valid_7_a_1")]
    write(tables / "metadata/train_metadata.csv", "\n".join([META, *rows]) + "\n")
    rows = [meta(f"valid_{n}", "-8192") for n in ("1_a_1", "1_a_2", "1_b_1", "2_a_1")]
    write(tables / "metadata/validation_metadata.csv", "\n".join([META, *rows]) + "\n")
    write(tables / "metadata/no_chest_train.txt", "train_5_a_1.nii.gz\n")
    rows = [spoken(name) for name in known if name != "train_2_a_1"]
    rows += ["train_2_a_1.nii.gz,Cough.,Not given.,Not given.,Not given."]
    words = tables / "radiology_text_reports"
    write(words / "train_reports.csv", "\n".join([TEXT, *rows]) + "\n")
    rows = [spoken("valid_1_a_1"), spoken("valid_1_a_2")]
    write(words / "validation_reports.csv", "\n".join([TEXT, *rows]) + "\n")
    head = ",".join(["VolumeName", *ABNORMALITIES])
    rows = [marks("train_1_a_1", "Lung nodule"), marks("train_9_a_1", "Emphysema")]
    labels = tables / "multi_abnormality_labels"
    write(labels / "train_predicted_labels.csv", "\n".join([head, *rows]) + "\n")
    rows = [marks("valid_1_a_1", "Lung nodule"), marks("valid_1_a_2").replace(",0", ",7", 1)]
    write(labels / "valid_predicted_labels.csv", "\n".join([head, *rows]) + "\n")
    return root


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ct_rate")
    return Indexed(archive(folder / "ct-rate"), "ct-rate", folder / "m")


def volume(found, folder, name):
    row = found.samples[place(folder, name)]
    return read_volume(found.manifest.paths(row["source"]), row["flags"])


def test_rows_and_files_are_accounted_for(found):
    kept = [(V1, 1), (V2, 2), (V2, 7), (V1, 10)]
    assert set(found.samples) == {
        *(place(folder, f"train_{n}_a_1") for folder, n in kept),
        *(place("dataset/valid", f"valid_1_{n}") for n in ("a_1", "a_2", "b_1")),
        "loose/train_4_a_1.nii",
    }
    assert found.codes == [
        ("ignored", "excluded_by_publisher"),
        ("ignored", "not_of_the_set"),
        ("join", "duplicate_sample"),
        ("join", "no_row"),
        ("join", "split_conflict"),
        ("read", "double_rescale"),
        ("read", "no_geometry"),
        ("row", "bad_labels"),
        ("row", "duplicate_row"),
        ("row", "empty_report"),
        ("row", "not_a_number"),
        ("row", "split_conflict"),
    ]
    # train_9, of labels alone; train_5, which shows no chest; valid_2, which lies under train.
    assert found.notes == {
        "rows_without_image": 3, "rows_train": 8, "rows_train_published": 47_149,
        "rows_valid": 4, "rows_valid_published": 3_039,
    }  # fmt: skip


def test_both_versions_of_one_scan_give_the_same_volume(found):
    first, second = volume(found, V1, "train_10_a_1"), volume(found, V2, "train_2_a_1")
    assert np.array_equal(second.hu_DHW, body(2).transpose(2, 1, 0))
    assert np.array_equal(first.hu_DHW, second.hu_DHW)
    np.testing.assert_allclose(first.affine, second.affine, atol=1e-6)
    flags = found.columns("flags")
    assert "scale=1.0,-1024.0" in flags[place(V1, "train_10_a_1")][0]
    told = {flag.partition("=")[0] for flag in flags[place(V2, "train_2_a_1")][0]}
    assert told.isdisjoint({"scale", "affine"})


def test_any_intercept_of_the_table_is_applied_once(found):
    for name, seed in (("valid_1_a_1", 21), ("valid_1_b_1", 23)):
        scan = volume(found, "dataset/valid", name)
        assert scan.units == "HU"
        assert np.array_equal(scan.hu_DHW, body(seed).transpose(2, 1, 0))


def test_geometry_that_a_file_lacks_is_the_tables(found):
    row = found.samples["loose/train_4_a_1.nii"]
    assert row["spacing_mm"] == pytest.approx([2.5, 0.8, 0.8])
    scan = read_volume(found.manifest.paths(row["source"]), row["flags"])
    wanted = affine()
    np.testing.assert_allclose(scan.affine_whd, wanted)
    other = found.samples[place(V2, "train_7_a_1")]
    assert other["spacing_mm"] == pytest.approx([2.5, 0.9, 0.9])
    assert "table_spacing_disagrees" in other["flags"]


def test_reconstructions_are_one_study_and_scans_one_patient(found):
    rows = found.columns("patient", "study", "series", "split")
    one, two, later = (rows[place("dataset/valid", f"valid_1_{n}")] for n in ("a_1", "a_2", "b_1"))
    assert one[:2] == two[:2]
    assert one[2] != two[2]
    assert (later[0], later[1] == one[1]) == (one[0], False)
    assert {row[3] for row in (one, two, later)} == {"valid"}


def test_reports_keep_their_parts_and_missing_ones_are_flagged(found):
    ids = {row["sample"]: name for name, row in found.samples.items()}
    texts = found.manifest.texts.filter(pl.col("level") == "section")
    mine = texts.filter(pl.col("sample").replace_strict(ids) == place(V1, "train_1_a_1"))
    assert mine["text"].to_list() == ["Cough.", FINDINGS, "Nodule."]
    flags = found.columns("flags")
    assert "no_text" in flags[place(V2, "train_2_a_1")][0]
    assert "no_text" in flags[place("dataset/valid", "valid_1_b_1")][0]
    assert "no_text" not in flags[place(V1, "train_1_a_1")][0]


def test_labels_come_under_the_eighteen_names(found):
    nodule = found.labels("Lung nodule")
    assert nodule == {place(V1, "train_1_a_1"): 1.0, place("dataset/valid", "valid_1_a_1"): 1.0}
    assert found.labels("Emphysema")[place(V1, "train_1_a_1")] == 0.0
    assert set(found.manifest.labels["name"].unique()) == set(ABNORMALITIES)
    assert set(found.manifest.labels["source"].unique()) == {"ct-rate:classifier"}


def test_organs_of_a_table_are_the_regions_of_their_volume(tmp_path):
    """Both versions of a volume: the mask lies on the voxels of each."""
    root = tmp_path / "ct-rate"
    organ = np.zeros(body(1).shape, np.uint8)
    organ[4:8] = 3
    for name in ("train_1_a_1", "train_2_a_1"):
        folder, values, place_4x4 = TRAIN[name]
        nifti(root / place(folder, name), values.astype(np.int16), place_4x4)
        nifti(root / place("ts_seg/train_fixed", name), organ, affine())
    rows = [meta("train_1_a_1"), meta("train_2_a_1")]
    write(root / "train_metadata.csv", "\n".join([META, *rows]) + "\n")
    seg = "ts_seg/train_fixed"
    rows = ["accession,name,kind,file,value"]
    rows += [f"{n},liver,mask,{place(seg, n)},3" for n in ("train_1_a_1", "train_2_a_1")]
    rows += [f"train_9_a_1,liver,mask,{place(seg, 'train_1_a_1')},3"]
    write(root / "organs.csv", "\n".join(rows) + "\n")
    found = Indexed(root, "ct-rate", tmp_path / "m", f"regions={root / 'organs.csv'}")
    assert found.manifest.regions["name"].to_list() == ["liver", "liver"]
    assert found.notes["annotations_without_sample"] == 1
    drawn = DrawnRegions([found.manifest], ["liver"], boxes=False)
    contract = CtPreprocessConfig(shape=(12, 18, 20), spacing_mm=(2.5, 0.8, 0.8)).build()
    for row in found.manifest.samples.iter_rows(named=True):
        masks = drawn.of(row["sample"], "liver")
        placed = contract.regions(found.manifest.paths(row["source"]), row["flags"], masks)
        assert placed.masks[0].sum() == (organ > 0).sum()


def test_one_reconstruction_a_scan_on_wish(tmp_path):
    root = tmp_path / "set"
    for name, seed in (("valid_1_a_1", 1), ("valid_1_a_2", 2)):
        nifti(root / f"{name}.nii.gz", body(seed), affine())
    rows = [meta("valid_1_a_1", "0"), meta("valid_1_a_2", "0")]
    write(root / "dataset_metadata_validation_metadata.csv", "\n".join([META, *rows]) + "\n")
    one = Indexed(root, "ct-rate", tmp_path / "m", "options.reconstructions=first")
    assert set(one.samples) == {"valid_1_a_1.nii.gz"}
    assert one.codes == [("ignored", "not_selected")]


def test_a_source_without_any_table_is_refused(tmp_path):
    nifti(tmp_path / "set/valid_1_a_1.nii.gz", body(1), affine())
    with pytest.raises(ArchiveError, match="no table of CT-RATE"):
        Indexed(tmp_path / "set", "ct-rate", tmp_path / "m")
