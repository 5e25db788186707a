import numpy as np
import pytest
from minisets import Indexed, captured, write

from medvlp.cxr.read import read_xray
from medvlp.errors import ArchiveError

IMAGES = "stage_2_train_images"
LABELS = """patientId,x,y,width,height,Target
a0,,,,,0
b1,2.0,3.0,10.0,8.0,1
b1,15.0,3.0,10.5,8.0,1
c2,,,,,0
d3,1.0,1.0,5.0,5.0,1
gone,,,,,0
b1,,,,,0
c2,1,1,5,5,0
d3,1,1,-5,5,1
"""
CLASSES = """patientId,class
a0,No Lung Opacity / Not Normal
b1,Lung Opacity
b1,Lung Opacity
c2,Normal
d3,Lung Opacity
gone,Normal
b1,Normal
stranger,Normal
"""


def build(folder):
    write(folder / "stage_2_train_labels.csv", LABELS)
    write(folder / "stage_2_detailed_class_info.csv", CLASSES)
    write(folder / "stage_2_sample_submission.csv", "patientId,PredictionString\n")
    for seed, name in enumerate(("a0", "b1", "c2", "d3")):
        captured(folder / IMAGES / f"{name}.dcm", seed, inverted=name == "c2")
    (folder / IMAGES / "d3.dcm").write_bytes(b"\0" * 128 + b"DICM broken")
    captured(folder / "stage_2_test_images" / "t9.dcm", 9)
    return folder


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rsna")
    return Indexed(build(folder / "rsna"), "rsna-pneumonia", folder / "m")


def test_rows_and_images_are_accounted_for(found):
    assert found.summary.counts() == {
        "found": 8, "accepted": 5, "quarantined": 2, "ignored": 1,
    }  # fmt: skip
    assert [code for code in found.codes if code[0] != "row"] == [
        ("ignored", "not_of_the_set"),
        ("join", "no_row"),
        ("read", "truncated_header"),
    ]
    assert [code for stage, code in found.codes if stage == "row"] == [
        "bad_box", "bad_box", "label_conflict", "label_conflict", "no_sample",
    ]  # fmt: skip
    assert found.notes == {
        "rows": 9, "rows_published": 30_227,
        "images_in_table": 5, "images_in_table_published": 26_684,
        "rows_without_image": 1,
    }  # fmt: skip


def test_labels_are_the_target_and_one_of_three_classes(found):
    images = [f"{IMAGES}/{name}.dcm" for name in ("a0", "b1", "c2")]
    assert found.labels("Pneumonia") == dict(zip(images, (0, 1, 0), strict=True))
    assert found.labels("Lung Opacity") == dict(zip(images, (0, 1, 0), strict=True))
    assert found.labels("Normal") == dict(zip(images, (0, 0, 1), strict=True))
    assert found.manifest.labels.height == 3 * 4


def test_each_row_of_an_image_is_a_box(found):
    assert found.regions(f"{IMAGES}/b1.dcm") == [
        ("Pneumonia", "box", [2, 3, 12, 11]),
        ("Pneumonia", "box", [15, 3, 25.5, 11]),
    ]
    assert found.regions(f"{IMAGES}/a0.dcm") == []


def test_secondary_captures_are_read_the_right_way_round(found, tmp_path):
    sample = found.samples[f"{IMAGES}/c2.dcm"]
    assert {"monochrome1", "burned_in_allowed", "patient_is_image"} <= set(sample["flags"])
    assert "bad_age" not in sample["flags"]
    assert (sample["age_band"], sample["sex"], sample["view"]) == ("50-59", "F", "AP")
    shown = captured(tmp_path / "again.dcm", 2)
    read = read_xray(found.root / IMAGES / "c2.dcm")
    assert np.corrcoef(read.ravel(), shown.ravel())[0, 1] > 0.999


def test_each_image_is_a_patient_of_its_own_and_says_so(found):
    samples = found.manifest.samples
    assert samples["patient"].n_unique() == samples.height == 3
    assert all("no_patient_id" in flags for flags in samples["flags"])


def test_lists_of_the_user_decide_the_split(tmp_path):
    root = build(tmp_path / "rsna")
    lists = root / "lists"
    write(lists / "train.txt", "images/a0.png 0\na0\n")
    write(lists / "val.txt", "b1\nghost\n")
    write(lists / "test.txt", "")
    found = Indexed(root, "rsna-pneumonia", tmp_path / "m", "options.lists=lists")
    assert found.columns("source_split") == {
        f"{IMAGES}/a0.dcm": ("train",), f"{IMAGES}/b1.dcm": ("valid",), f"{IMAGES}/c2.dcm": (None,),
    }  # fmt: skip
    assert "in_no_list" in found.samples[f"{IMAGES}/c2.dcm"]["flags"]
    assert found.notes["listed_without_image"] == 1
    assert ("row", "duplicate_row") in found.codes
    write(lists / "test.txt", "b1\n")
    with pytest.raises(ArchiveError, match="stand in another list"):
        Indexed(root, "rsna-pneumonia", tmp_path / "n", "options.lists=lists")


def test_a_folder_without_the_table_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArchiveError, match=r"no file stage_2_train_labels\.csv"):
        Indexed(tmp_path / "empty", "rsna-pneumonia", tmp_path / "m")
