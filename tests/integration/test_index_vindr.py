import pytest
from minisets import Indexed, captured, write

from medvlp.cxr.sets.vindr import CLASSES
from medvlp.cxr.sets.vindr_fusion import agreed, fused_boxes
from medvlp.errors import ArchiveError

BOXES = "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\n"


def labels(part, rows):
    """The label table: the published header, and rows of (image, reader, present labels)."""
    # The two parts are published with different words for one class.
    names = [
        n.replace("Other disease", "Other diseases") if part == "train" else n for n in CLASSES
    ]
    reader = ["rad_id"] if part == "train" else []
    lines = [",".join(["image_id", *reader, *names])]
    for image, who, present in rows:
        cells = ["1" if name in present else "0" for name in CLASSES]
        lines.append(",".join([image, *([who] if reader else []), *cells]))
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vindr")
    return Indexed(build(folder / "vindr"), "vindr-cxr", folder / "m")


@pytest.fixture
def root(tmp_path):
    return build(tmp_path / "vindr")


def build(folder):
    rows = [
        ("aa", "R1", ["Cardiomegaly", "Pneumonia"]),
        ("aa", "R2", ["Cardiomegaly"]),
        ("aa", "R3", ["No finding"]),
        *(("bb", f"R{i}", ["No finding"]) for i in range(3)),
        *(("broken", f"R{i}", ["Edema"]) for i in range(3)),
        *(("missing", f"R{i}", ["Edema"]) for i in range(3)),
        ("bb", "R0", ["Edema"]),
    ]
    notes = folder / "annotations"
    write(notes / "image_labels_train.csv", labels("train", rows))
    write(
        notes / "image_labels_test.csv",
        labels("test", [("cc", "", ["Pleural effusion", "Other disease"])]),
    )
    write(
        notes / "annotations_train.csv",
        BOXES + "aa,R1,Cardiomegaly,2,2,12,12\n"
        "aa,R2,Cardiomegaly,3,2,13,12\n"
        "aa,R1,Nodule/Mass,20,2,24,6\n"
        "aa,R3,No finding,,,,\n"
        "aa,R9,Edema,1,1,2,2\n"
        "aa,R1,Edema,9,9,2,2\n"
        "aa,R1,Edema,1,1,x,2\n",
    )
    write(
        notes / "annotations_test.csv",
        "image_id,class_name,x_min,y_min,x_max,y_max\ncc,Pleural effusion,1.5,2,8,9.25\n",
    )
    for seed, name in enumerate(("train/aa", "train/bb", "test/cc", "train/broken", "test/aa")):
        captured(folder / f"{name}.dicom", seed, inverted=name == "train/bb")
    (folder / "train" / "broken.dicom").write_bytes(b"")
    write(folder / "LICENSE.txt", "words")
    return folder


def test_rows_and_images_are_accounted_for(found):
    assert set(found.samples) == {"train/aa.dicom", "train/bb.dicom", "test/cc.dicom"}
    assert found.codes == [
        ("ignored", "not_of_the_set"),
        ("join", "no_row"),
        ("read", "not_dicom"),
        ("row", "bad_box"),
        ("row", "duplicate_row"),
        ("row", "no_sample"),
        ("row", "not_a_number"),
    ]
    assert found.notes == {
        "rows_train": 13, "rows_train_published": 45_000,
        "rows_test": 1, "rows_test_published": 3_000,
        "rows_without_image": 1,
    }  # fmt: skip
    assert "monochrome1" in found.samples["train/bb.dicom"]["flags"]


def test_all_28_classes_are_labels_in_both_parts(found):
    assert len(CLASSES) == 28
    assert found.manifest.labels.height == 3 * 28
    assert found.labels("Other disease") == {
        "train/aa.dicom": 0, "train/bb.dicom": 0, "test/cc.dicom": 1,
    }  # fmt: skip
    assert set(found.manifest.labels["source"]) == {"vindr-cxr:majority", "vindr-cxr:consensus"}


@pytest.mark.parametrize(
    ("fusion", "cardiomegaly", "pneumonia", "boxes"),
    [
        ("majority", 1, 0, [("Cardiomegaly", "box", [2.5, 2, 12.5, 12])]),
        (
            "any",
            1,
            1,
            [
                ("Cardiomegaly", "box", [2.5, 2, 12.5, 12]),
                ("Nodule/Mass", "box", [20, 2, 24, 6]),
            ],
        ),
        ("all", 0, 0, []),
    ],
)
def test_readers_are_fused_as_the_option_says(
    root, tmp_path, fusion, cardiomegaly, pneumonia, boxes
):
    found = Indexed(root, "vindr-cxr", tmp_path / "m", f"options.fusion={fusion}")
    assert found.labels("Cardiomegaly")["train/aa.dicom"] == cardiomegaly
    assert found.labels("Pneumonia")["train/aa.dicom"] == pneumonia
    assert found.regions("train/aa.dicom") == boxes
    assert found.regions("test/cc.dicom") == [("Pleural effusion", "box", [1.5, 2, 8, 9.25])]
    assert "readers_disagree" in found.samples["train/aa.dicom"]["flags"]
    assert "readers_disagree" not in found.samples["train/bb.dicom"]["flags"]


def test_the_official_test_part_is_the_test_split(found):
    assert {image: part for image, (part,) in found.columns("source_split").items()} == {
        "train/aa.dicom": "train_val", "train/bb.dicom": "train_val", "test/cc.dicom": "test",
    }  # fmt: skip
    assert found.samples["test/cc.dicom"]["split"] == "test"
    assert found.samples["train/aa.dicom"]["split"] != "test"
    assert found.manifest.samples["patient"].n_unique() == 3
    assert all("patient_is_image" in row["flags"] for row in found.samples.values())


def test_a_reader_counts_once_for_a_thing():
    box = (0.0, 0.0, 10.0, 10.0)
    assert fused_boxes([("R1", box), ("R1", box)], 3, "majority") == []
    assert fused_boxes([("R1", box), ("R2", box)], 3, "majority") == [box]
    apart = (0.0, 0.0, 10.0, 4.0)  # intersection over union 0.4
    assert fused_boxes([("R1", box), ("R2", apart)], 3, "majority") == []
    assert [agreed(n, 4, "majority") for n in range(5)] == [False, False, False, True, True]


def test_a_table_of_other_labels_is_refused(root, tmp_path):
    table = root / "annotations" / "image_labels_test.csv"
    table.write_text("image,Edema\ncc,1\n")
    with pytest.raises(ArchiveError, match="no column image_id"):
        Indexed(root, "vindr-cxr", tmp_path / "m")
