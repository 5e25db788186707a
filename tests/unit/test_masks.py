"""References on a model's grid, from phantoms whose truth is known."""

import numpy as np
import pytest

from medvlp.cxr.preprocess import CxrPreprocessConfig
from medvlp.data.items import PhantomData
from medvlp.data.manifest import Manifest
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
