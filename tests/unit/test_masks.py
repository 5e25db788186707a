"""References on a model's grid, from phantoms whose truth is known."""

import numpy as np
import pytest
from PIL import Image

from medvlp.cxr.preprocess import CxrPreprocessConfig
from medvlp.data.manifest import Manifest, write_manifest
from medvlp.data.phantom_source import PhantomData
from medvlp.evaluate.cases import sample_items
from medvlp.evaluate.masks import Regions, known_regions
from medvlp.train.phantom_data import phantom_manifest

NAMES = ("heart", "left lung", "right lung", "consolidation")


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    data = PhantomData(n=10, seed=5, kind="dicom", settings=("size=96",))
    folder = tmp_path_factory.mktemp("phantom")
    manifest = Manifest.open(phantom_manifest("cxr", data, folder, ("split.policy=hash",)))
    items = [
        item
        for split in ("train", "valid", "test")
        for item in sample_items([manifest], split, (), domain="cxr")
    ]
    return manifest, items


def test_lungs_lie_on_what_is_dark_beside_the_heart(phantom):
    manifest, items = phantom
    assert set(NAMES) <= set(known_regions([manifest], ["mask"]))
    regions = Regions([manifest], NAMES, boxes=False)
    preprocess = CxrPreprocessConfig(size=64).build()
    for item in items:
        reference = regions.reference(item, preprocess)
        image = preprocess.read(item.source_paths, None, item.flags)
        heart, left, right, _ = reference.masks
        assert image[heart].mean() > image[left | right].mean()
        # The patient's left is on the picture's right.
        assert np.argwhere(left)[:, 1].mean() > np.argwhere(right)[:, 1].mean()
        assert reference.spacing_mm is not None
        assert 3 < reference.spacing_mm[0] < 10
        assert reference.known_K.all()


def test_a_finding_known_to_be_absent_has_an_empty_region_and_an_unknown_one_has_none(phantom):
    manifest, items = phantom
    regions = Regions([manifest], ("consolidation", "unheard_of"), boxes=False)
    preprocess = CxrPreprocessConfig(size=64).build()
    labels = dict(
        manifest.labels.filter(name="consolidation").select("sample", "value").iter_rows()
    )
    assert {0.0, 1.0} <= set(labels.values())
    for item in items:
        reference = regions.reference(item, preprocess)
        assert reference.known_K.tolist() == [True, False]
        if labels[item.sample] != -1:
            assert reference.masks[0].any() == (labels[item.sample] == 1)


def test_boxes_stand_in_for_masks_only_if_asked_and_hold_them(phantom):
    manifest, items = phantom
    preprocess = CxrPreprocessConfig(size=64).build()
    boxed = type("Boxed", (), {})()
    boxed.regions = manifest.regions.filter(kind="box")
    boxed.labels, boxed.samples = manifest.labels.clear(), manifest.samples
    masks = Regions([manifest], ("consolidation",), boxes=True)
    boxes = Regions([boxed], ("consolidation",), boxes=True)
    assert not Regions([boxed], ("consolidation",), boxes=False).among(items)
    some = boxes.among(items)
    assert some
    for item in some:
        inner = masks.reference(item, preprocess)
        outer = boxes.reference(item, preprocess)
        assert not inner.boxes
        assert len(outer.boxes["consolidation"][0]) == 4
        assert (inner.masks & outer.masks).sum() > 0.9 * inner.masks.sum()
        assert outer.masks.sum() >= inner.masks.sum()


def test_shapes_join_boxes_unless_boxes_do_not_count(tmp_path):
    picture = tmp_path / "x.png"
    Image.fromarray(np.eye(20, dtype=np.uint8) * 9).save(picture)
    rows = [
        {"sample": "a", "name": "coin", "kind": "box", "geometry": [0.0, 0.0, 4.0, 4.0]},
        {"sample": "a", "name": "coin", "kind": "polygon",
         "geometry": [10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]},
    ]  # fmt: skip
    sample = {
        "sample": "a", "domain": "cxr", "patient": "p", "study": "t", "source": "s",
        "sha256": "0" * 64, "kind": "image", "split": "test",
    }  # fmt: skip
    write_manifest(
        tmp_path / "m", {"samples": [sample], "regions": rows},
        [{"source": "s", "part": 0, "path": str(picture)}], {"key_id": "t", "counts": {}},
        key=b"k" * 32,
    )  # fmt: skip
    manifest = Manifest.open(tmp_path / "m")
    (item,) = sample_items([manifest], "test", (), domain="cxr")
    preprocess = CxrPreprocessConfig(size=32).build()
    areas = {}
    for boxes in (True, False):
        regions = Regions([manifest], ("coin", "pin"), boxes=boxes)
        assert regions.drawn("a").tolist() == [True, False]
        reference = regions.reference(item, preprocess)
        areas[boxes] = int(reference.masks[0].sum())
        assert reference.image == ((0, 32), (0, 32))
    assert areas[False] == 16 * 16
    assert areas[True] == 16 * 16 + 6 * 6
