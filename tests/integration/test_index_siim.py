import numpy as np
import pytest
from minisets import Indexed, captured, picture, write
from PIL import Image

from medvlp.archive.verdict import Reject
from medvlp.cxr.sets.siim_rle import decode_rle
from medvlp.data.regions import region_mask

SIDE = 1024
FULL = (SIDE, SIDE)


def rle(mask):
    """A literal encoder: relative gaps and lengths down the columns."""
    words, gap, length = [], 0, 0
    for value in mask.T.ravel():
        if value:
            length += 1
        elif length:
            words += [gap, length]
            gap, length = 1, 0
        else:
            gap += 1
    return " ".join(str(w) for w in ([*words, gap, length] if length else words))


def uid(seed):
    return f"1.2.826.0.1.3680043.8.498.{seed + 1}"


def blob(rows, columns):
    mask = np.zeros(FULL, bool)
    mask[rows, columns] = True
    return mask


ONE, TWO = blob(slice(100, 130), slice(10, 14)), blob(slice(500, 510), slice(900, 1000))


def dicoms(folder):
    """The challenge's layout: a header and a code with a leading blank, several rows an image."""
    rows = [
        (0, " -1"),
        (1, rle(ONE)),
        (1, rle(TWO)),
        (2, "-1"),
        (3, rle(ONE)),
        (3, " -1"),
        (4, "1 2 3"),
        (5, rle(ONE)),
        (6, "-1"),
        (9, "-1"),
    ]
    lines = [f"{uid(seed)},{code}" for seed, code in rows]
    write(folder / "train-rle.csv", "ImageId, EncodedPixels\n" + "\n".join(lines) + "\n")
    for seed in range(8):
        part = "test" if seed == 7 else "train"
        place = folder / f"dicom-images-{part}" / f"study{seed}" / f"series{seed}"
        shape = (512, 512) if seed == 5 else FULL
        captured(place / f"{uid(seed)}.dcm", seed, shape=shape, inverted=seed == 2)
        if seed == 6:
            (place / f"{uid(seed)}.dcm").write_bytes(b"no dicom")
    return folder


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siim")
    return Indexed(dicoms(folder / "siim"), "siim-acr", folder / "m")


def image(seed):
    return f"dicom-images-train/study{seed}/series{seed}/{uid(seed)}.dcm"


def test_rows_and_images_are_accounted_for(found):
    assert set(found.samples) == {image(seed) for seed in (0, 1, 2)}
    assert found.codes == [
        ("join", "no_row"),
        ("read", "bad_mask"),
        ("read", "label_conflict"),
        ("read", "mask_size"),
        ("read", "not_dicom"),
        ("row", "bad_mask"),
        ("row", "label_conflict"),
        ("row", "mask_size"),
    ]
    assert found.notes == {
        "images_in_table": 8, "images_in_table_published": 12_047, "rows_without_image": 1,
    }  # fmt: skip


def test_rows_of_one_image_are_one_mask(found):
    assert found.labels("Pneumothorax") == {image(0): 0, image(1): 1, image(2): 0}
    ((name, kind, geometry),) = found.regions(image(1))
    assert (name, kind) == ("Pneumothorax", "runs")
    np.testing.assert_array_equal(region_mask(kind, geometry, FULL), ONE | TWO)
    assert found.regions(image(0)) == []


def test_one_part_alone_is_no_split(found):
    assert set(found.columns("source_split").values()) == {(None,)}
    assert all("patient_is_image" in row["flags"] for row in found.samples.values())


def test_a_labelled_test_part_is_the_test_split(tmp_path):
    root = tmp_path / "siim"
    rows = [f"{uid(0)},{rle(ONE)}", f"{uid(1)}, -1"]
    write(root / "stage_2_train.csv", "ImageId,EncodedPixels\n" + "\n".join(rows) + "\n")
    for seed, part in enumerate(("train", "test")):
        captured(root / f"dicom-images-{part}" / "a" / "b" / f"{uid(seed)}.dcm", seed, shape=FULL)
    found = Indexed(root, "siim-acr", tmp_path / "m")
    assert sorted(found.columns("source_split").values()) == [("test",), ("train_val",)]
    assert sorted(found.manifest.samples["split"])[0] == "test"


def test_codes_are_relative_and_run_down_the_columns():
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (3, 5), (5, 3), (7, 7)):
        for _ in range(50):
            mask = rng.random(shape) < rng.random()
            if mask.any():
                np.testing.assert_array_equal(decode_rle(rle(mask), shape), mask)


@pytest.mark.parametrize("code", ["", "1", "1 2 3", "a 1", "0 0", "-1 2", "0 10", "9 1", "1.5 2"])
def test_codes_that_are_none_are_refused(code):
    with pytest.raises(Reject, match="bad_mask"):
        decode_rle(code, (3, 3))


def test_the_form_of_png_files(tmp_path):
    root = tmp_path / "siim"
    head = "new_filename,ImageId,has_pneumo\n"
    write(
        root / "stage_1_train_images.csv",
        head + f"0_train_1_.png,{uid(0)},1\n1_train_0_.png,{uid(1)},0\n2_train_1_.png,{uid(2)},1\n"
        f"3_train_1_.png,{uid(3)},1\n9_train_0_.png,{uid(9)},0\n0_train_1_.png,{uid(0)},1\n",
    )
    write(root / "stage_1_test_images.csv", head + f"0_test_0_.png,{uid(5)},0\n")
    names = ("0_train_1_", "1_train_0_", "2_train_1_", "3_train_1_", "0_test_0_", "stray")
    for seed, name in enumerate(names):
        picture(root / "png_images" / f"{name}.png", seed)
        mask = np.zeros((24, 32), np.uint8)
        mask[2:9, 3:7] = 255 * (name == "0_train_1_" or name == "stray")
        (root / "png_masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(root / "png_masks" / f"{name}.png")
    Image.fromarray(mask[:5]).save(root / "png_masks" / "3_train_1_.png")
    found = Indexed(root, "siim-acr", tmp_path / "m")
    assert found.labels("Pneumothorax") == {
        "png_images/0_train_1_.png": 1, "png_images/1_train_0_.png": 0,
        "png_images/0_test_0_.png": 0,
    }  # fmt: skip
    assert found.codes == [
        ("join", "mask_without_sample"),
        ("join", "mask_without_sample"),
        ("join", "mask_without_sample"),
        ("join", "no_row"),
        ("read", "label_conflict"),
        ("read", "mask_size"),
        ("row", "duplicate_row"),
    ]
    (region,) = found.manifest.regions.to_dicts()
    assert (region["kind"], region["geometry"]) == ("mask", None)
    assert [p.name for p in found.manifest.paths(region["ref"])] == ["0_train_1_.png"]
    assert found.columns("source_split", "split")["png_images/0_test_0_.png"] == ("test", "test")
