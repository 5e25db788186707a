import pytest
from minisets import Indexed, picture, write

TRAIN = [
    "1 a.DX.1.png positive cohen",
    "1 a.DX.2.png positive cohen",
    "1 other.jpg negative rsna",
    "ANON 7 scan (2).png positive actmed",
    "5 a.DX.1.png positive cohen",  # contradicts the first about the patient
    "8 gone.png negative rsna",
    "9 twice.png negative rsna",
    "9 twice.png negative rsna",
    "3 broken.png negative rsna",
    "4 maybe.png unknown rsna",
    "short.png negative",
    "no such file.png negative rsna",
]
VAL = ["2 b.png negative ricord"]
TEST = ["6 c.png positive ricord", "6 c.v2.png positive ricord"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("covidx")
    return Indexed(build(folder / "covidx"), "covidx-cxr4", folder / "m")


@pytest.fixture
def root(tmp_path):
    return build(tmp_path / "covidx")


def build(folder):
    for part, lines in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        write(folder / f"{part}.txt", "\n".join(lines) + "\n")
    names = (
        "train/a.DX.1.png", "train/a.DX.2.png", "train/other.jpg", "train/scan (2).png",
        "train/twice.png", "train/broken.png", "train/maybe.png", "train/extra.png", "val/b.png",
        "test/c.png", "test/c.v2.png",
    )  # fmt: skip
    for seed, name in enumerate(names):
        picture(folder / name, seed)
    (folder / "train" / "broken.png").write_bytes(b"\x89PNG cut")
    return folder


def test_every_line_is_accounted_for_and_none_is_a_header(found):
    assert set(found.samples) == {
        "train/a.DX.2.png", "train/other.jpg", "train/scan (2).png", "train/twice.png",
        "val/b.png", "test/c.png", "test/c.v2.png",
    }  # fmt: skip
    assert found.notes == {
        "rows_train": 12, "rows_train_published": 67_863,
        "rows_val": 1, "rows_val_published": 8_473,
        "rows_test": 2, "rows_test_published": 8_482,
        "rows_without_image": 1,
        "images_with_contradicting_rows": 1,
    }  # fmt: skip
    assert found.codes == [
        ("join", "no_row"),  # the image whose lines contradict each other
        ("join", "no_row"),  # the image whose label is none
        ("join", "no_row"),  # the image that no line names
        ("read", "not_a_picture"),
        ("row", "bad_labels"),
        ("row", "duplicate_row"),
        ("row", "label_conflict"),
        ("row", "ragged_row"),
        ("row", "ragged_row"),
    ]
    refused, taken, broken, missing, disputed = 5, 7, 1, 1, 1
    assert refused + taken + broken + missing + disputed == 15


def test_labels_sources_and_the_official_split(found):
    assert found.labels("COVID-19") == {
        "train/a.DX.2.png": 1, "train/other.jpg": 0, "train/scan (2).png": 1,
        "train/twice.png": 0, "val/b.png": 0, "test/c.png": 1, "test/c.v2.png": 1,
    }  # fmt: skip
    assert found.columns("site", "source_split", "split")["train/other.jpg"] == (
        "rsna", "train", "train",
    )  # fmt: skip
    assert found.columns("site", "split")["val/b.png"] == ("ricord", "valid")


def test_names_that_differ_after_a_dot_are_different_images(found):
    samples = found.samples
    assert samples["test/c.png"]["sha256"] != samples["test/c.v2.png"]["sha256"]
    assert samples["test/c.png"]["patient"] == samples["test/c.v2.png"]["patient"]


def test_one_number_in_two_sources_means_two_patients(found):
    samples = found.samples
    assert samples["train/a.DX.2.png"]["patient"] != samples["train/other.jpg"]["patient"]


def test_blanks_in_names_are_resolved_by_the_files_or_not_at_all(root, tmp_path):
    picture(root / "train" / "7 scan (2).png", 99)  # now two files fit the line
    found = Indexed(root, "covidx-cxr4", tmp_path / "m")
    assert "train/scan (2).png" not in found.samples
    assert [code for _, code in found.codes].count("ragged_row") == 3


def test_a_patient_in_two_parts_is_not_split(root, tmp_path):
    write(root / "val.txt", "6 b.png negative ricord\n")
    found = Indexed(root, "covidx-cxr4", tmp_path / "m")
    assert found.manifest.info["split"] == {"policy": "hash", "conflicts": 1}
