import json

import numpy as np
import polars as pl
import pytest
from minisets import Indexed, write
from minivolumes import affine, body, nifti

from medvlp.data.placement import MaskRegion
from medvlp.errors import ArchiveError
from medvlp_volumetric.preprocess import CtPreprocessConfig
from medvlp_volumetric.sets import abdomenct_1k, amos, ct_org

SHAPE = body(0).shape


def drawn(**blocks):
    """A mask or label map; ``v3=(2, 5)`` gives the columns 2 to 4 the value 3."""
    values = np.zeros(SHAPE, np.uint8)
    for value, (start, stop) in blocks.items():
        values[start:stop, 4:9, 2:7] = int(value[1:])
    return values


def names(found, image):
    return {(name, tuple(place or ())) for name, _, place in found.regions(image)}


@pytest.fixture(scope="module")
def total(tmp_path_factory):
    folder = tmp_path_factory.mktemp("total")
    root = folder / "Totalsegmentator_dataset_v201"
    for number in (0, 1, 2, 3):
        nifti(root / f"s000{number}/ct.nii.gz", body(number), affine((1.5, 1.5, 1.5)))
    nifti(root / "s0003/ct.nii.gz", body(3).astype(np.float32) * 0, affine((1.5, 1.5, 1.5)))
    place = affine((1.5, 1.5, 1.5))
    for number in (0, 3):
        masks = root / f"s000{number}/segmentations"
        nifti(masks / "liver.nii.gz", drawn(v1=(4, 8)), place)
        nifti(masks / "spleen.nii.gz", drawn(), place)
    masks = root / "s0000/segmentations"
    moved = place.copy()
    moved[0, 3] += 1.5
    nifti(masks / "aorta.nii.gz", drawn(v1=(4, 8)), moved)
    nifti(masks / "colon.nii.gz", drawn(v1=(4, 8))[:-1], place)
    nifti(masks / "heart.nii.gz", body(9), place)
    # The same voxels in the same places, written in another order.
    turned = place @ np.diag([-1.0, 1, 1, 1])
    turned[:3, 3] += place[:3, 0] * (SHAPE[0] - 1)
    nifti(masks / "kidney_left.nii.gz", drawn(v1=(4, 8))[::-1], turned)
    rows = ["s0000;59;m;A;ct thorax;train;maker;model", "s0001;80;f;B;ct;val;;", "s0003;;;;;test;;"]
    head = "image_id;age;gender;institute;study_type;split;manufacturer;scanner_model"
    write(root / "meta.csv", "\ufeff" + "\n".join([head, *rows, rows[0]]) + "\n")
    return Indexed(root, "totalsegmentator", folder / "m")


def test_total_masks_become_regions_and_empty_ones_say_absent(total):
    assert set(total.samples) == {"s0000/ct.nii.gz", "s0001/ct.nii.gz"}
    assert names(total, "s0000/ct.nii.gz") == {("liver", ()), ("kidney_left", ())}
    one = "s0000/ct.nii.gz"
    assert {n: total.labels(n) for n in ("liver", "spleen", "aorta")} == {
        "liver": {one: 1.0}, "spleen": {one: 0.0}, "aorta": {},
    }  # fmt: skip
    row = total.samples[one]
    assert (row["sex"], row["age_band"], row["scanner"], row["source_split"]) == (
        "M", "50-59", "maker model", "train",
    )  # fmt: skip
    assert {"mask_refused", "patient_is_image"} <= set(row["flags"])
    other = total.samples["s0001/ct.nii.gz"]
    assert (other["source_split"], "no_labels" in other["flags"]) == ("valid", True)


def test_total_masks_off_the_grid_and_masks_of_bad_volumes_are_refused(total):
    assert total.codes == [
        ("ignored", "label_map"),
        ("ignored", "label_map"),
        ("ignored", "label_map"),
        ("join", "no_row"),
        ("read", "mask_off_grid"),
        ("read", "mask_off_grid"),
        ("read", "not_a_mask"),
        ("row", "duplicate_row"),
    ]
    assert total.notes["rows_published"] == 1228


def test_a_turned_mask_lands_where_it_was_drawn(total):
    row = total.samples["s0000/ct.nii.gz"]
    regions = total.manifest.regions.filter(pl.col("sample") == row["sample"])
    paths = {r["name"]: total.manifest.paths(r["ref"]) for r in regions.to_dicts()}
    contract = CtPreprocessConfig(shape=(12, 18, 20), spacing_mm=(1.5, 1.5, 1.5)).build()
    placed = [
        contract.regions(total.manifest.paths(row["source"]), row["flags"], [region])
        for region in (MaskRegion(paths=tuple(paths[n])) for n in ("liver", "kidney_left"))
    ]
    masks = [np.asarray(one.masks[0]) for one in placed]
    assert masks[0].sum() == 4 * 5 * 5
    assert np.array_equal(masks[0], masks[1])


@pytest.fixture(scope="module")
def multi(tmp_path_factory):
    """BTCV in its two layouts; one label map with a value that means nothing."""
    folder = tmp_path_factory.mktemp("btcv")
    root = folder / "btcv"
    place = affine()
    nifti(root / "imagesTr/img0001.nii.gz", body(1), place)
    nifti(root / "labelsTr/label0001.nii.gz", drawn(v6=(3, 6), v1=(6, 9)), place)
    nifti(root / "RawData/Training/img/img0002.nii.gz", body(2), place)
    nifti(root / "RawData/Training/label/label0002.nii.gz", drawn(v14=(3, 6)), place)
    nifti(root / "RawData/Training/img/img0003.nii.gz", body(3) + 1024, place)
    nifti(root / "RawData/Training/label/label0003.nii.gz", drawn(v1=(3, 6)), place)
    nifti(root / "RawData/Training/label/label0004.nii.gz", drawn(v1=(3, 6)), place)
    nifti(root / "RawData/Testing/img/img0061.nii.gz", body(4), place)
    return Indexed(root, "btcv", folder / "m")


def test_one_file_holds_many_organs_each_under_its_value(multi):
    first, other, test = (
        "imagesTr/img0001.nii.gz",
        "RawData/Training/img/img0002.nii.gz",
        "RawData/Testing/img/img0061.nii.gz",
    )
    assert set(multi.samples) == {first, other, test}
    assert names(multi, first) == {("liver", (6.0,)), ("spleen", (1.0,))}
    assert multi.labels("pancreas") == {first: 0.0}
    assert multi.labels("liver") == {first: 1.0}
    assert len(multi.manifest.regions["ref"].unique()) == 1
    assert "mask_refused" in multi.samples[other]["flags"]
    assert multi.columns("source_split")[test] == ("test",)
    assert "labels_withheld" in multi.samples[test]["flags"]
    assert multi.codes == [
        ("join", "mask_without_sample"),
        ("join", "mask_without_sample"),
        ("read", "not_hu"),
        ("read", "unknown_label"),
    ]


def test_amos_leaves_mr_out_and_believes_no_other_order_of_organs(tmp_path):
    root = tmp_path / "amos22"
    labels = {str(value): name.replace("_", " ") for value, name in amos.ORGANS.items()}
    labels |= {"0": "background", "2": "right kidney", "3": "left kidney", "4": "gall bladder"}
    labels |= {"8": "arota", "9": "postcava", "11": "right adrenal gland", "14": "bladder"}
    labels |= {"12": "left adrenal gland", "15": "prostate/uterus"}
    write(root / "dataset.json", json.dumps({"labels": labels, "training": []}))
    nifti(root / "imagesTr/amos_0001.nii.gz", body(1), affine())
    nifti(root / "labelsTr/amos_0001.nii.gz", drawn(v8=(3, 6), v15=(6, 9)), affine())
    nifti(root / "imagesTr/amos_0507.nii.gz", body(2) + 1024, affine())
    nifti(root / "labelsTr/amos_0507.nii.gz", drawn(v8=(3, 6)), affine())
    nifti(root / "imagesTs/amos_0003.nii.gz", body(3), affine())
    found = Indexed(root, "amos", tmp_path / "m")
    one = "imagesTr/amos_0001.nii.gz"
    assert found.columns("source_split") == {
        one: ("train",), "imagesTs/amos_0003.nii.gz": ("test",),
    }  # fmt: skip
    assert names(found, one) == {("aorta", (8.0,)), ("prostate_or_uterus", (15.0,))}
    assert found.labels("urinary_bladder") == {}
    assert found.labels("liver") == {one: 0.0}
    assert found.codes == [("ignored", "other_modality")] * 2
    swapped = labels | {"2": "left kidney", "3": "right kidney"}
    write(root / "dataset.json", json.dumps({"labels": swapped}))
    with pytest.raises(ArchiveError, match="15 organs"):
        Indexed(root, "amos", tmp_path / "other")


@pytest.mark.parametrize(
    ("kind", "image", "mask", "split", "organs"),
    [
        (
            "abdomenct-1k",
            "AbdomenCT-1K-ImagePart1/Case_00001_0000.nii.gz",
            "Mask/Case_00001.nii.gz",
            None,
            abdomenct_1k.ORGANS,
        ),
        ("ct-org", "volume-21.nii.gz", "labels-21.nii.gz", "train", ct_org.ORGANS),
    ],
)
def test_sets_of_numbered_files(tmp_path, kind, image, mask, split, organs):
    nifti(tmp_path / "set" / image, body(1), affine())
    nifti(tmp_path / "set" / mask, drawn(v1=(3, 6), v4=(6, 9)).astype(np.float32), affine())
    write(tmp_path / "set/README.txt", "of the publishers\n")
    found = Indexed(tmp_path / "set", kind, tmp_path / "m")
    assert names(found, image) == {(organs[1], (1.0,)), (organs[4], (4.0,))}
    assert found.labels(organs[3]) == {image: 0.0}
    assert found.columns("source_split") == {image: (split,)}
    assert found.codes == [("ignored", "not_of_the_set")]
