import numpy as np
import pytest
from minisets import Indexed, picture, write

from medvlp.archive.verdict import Reject
from medvlp.cxr.sets.object_cxr import shapes_of
from medvlp.data.regions import region_mask

TRAIN = """image_name,annotation
00001.jpg,0 2 3 10 9;1 12 4 28 16;2 1 1 9 1 5 9
00002.jpg,
00003.jpg,3 1 1 2 2
00004.jpg,0 1 1 x 2
gone.jpg,
00001.jpg,
broken.jpg,
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("object")
    root = folder / "object-CXR"
    write(root / "train.csv", TRAIN)
    write(root / "dev.csv", "image_name,annotation\n00001.jpg,1 0 0 4 2\n")
    for seed, name in enumerate(("00001", "00002", "00003", "00004", "extra", "broken")):
        picture(root / "train" / f"{name}.jpg", seed)
    picture(root / "dev" / "00001.jpg", 50)
    (root / "train" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    write(root / "readme.md", "words")
    return Indexed(root, "object-cxr", folder / "m")


def test_rows_and_images_are_accounted_for(found):
    assert set(found.samples) == {"train/00001.jpg", "train/00002.jpg", "dev/00001.jpg"}
    assert [code for code in found.codes if code[0] != "read"] == [
        ("ignored", "not_of_the_set"),
        ("join", "no_row"),
        ("join", "no_row"),
        ("join", "no_row"),
        ("row", "bad_region"),
        ("row", "duplicate_row"),
        ("row", "not_a_number"),
    ]
    assert [code[0] for code in found.codes].count("read") == 1
    assert found.notes == {
        "rows_train": 7, "rows_train_published": 8_000,
        "rows_dev": 1, "rows_dev_published": 1_000,
        "rows_without_image": 1,
    }  # fmt: skip


def test_each_shape_is_kept_as_what_it_is(found):
    assert found.regions("train/00001.jpg") == [
        ("Foreign object", "box", [2, 3, 10, 9]),
        ("Foreign object", "ellipse", [12, 4, 28, 16]),
        ("Foreign object", "polygon", [1, 1, 9, 1, 5, 9]),
    ]
    assert found.labels("Foreign object") == {
        "train/00001.jpg": 1, "train/00002.jpg": 0, "dev/00001.jpg": 1,
    }  # fmt: skip


def test_an_ellipse_is_no_box(found):
    (ellipse,) = (r for r in found.regions("train/00001.jpg") if r[1] == "ellipse")
    mask = region_mask("ellipse", ellipse[2], (24, 32))
    y, x = np.mgrid[:24, :32] + 0.5
    np.testing.assert_array_equal(mask, ((x - 20) / 8) ** 2 + ((y - 10) / 6) ** 2 <= 1)
    assert mask.sum() == pytest.approx(np.pi * 8 * 6, rel=0.02)
    assert mask.sum() < region_mask("box", ellipse[2], (24, 32)).sum() == 16 * 12


def test_the_official_parts_are_the_splits(found):
    assert found.columns("source_split", "split")["dev/00001.jpg"] == ("dev", "valid")
    assert found.columns("source_split", "split")["train/00001.jpg"] == ("train", "train")
    assert found.manifest.samples["patient"].n_unique() == 3


def test_shapes_that_are_none_are_refused():
    assert shapes_of("") == []
    assert shapes_of("0 1 1 2 2;") == [("box", [1, 1, 2, 2])]
    for cell in (
        "0 1 1 1 2",
        "0 1 1 2",
        "2 1 1 2 2",
        "2 1 1 2 2 3 3 4",
        "1 0 0 nan 2",
        "7 1 1 2 2",
    ):
        with pytest.raises(Reject):
            shapes_of(cell)
