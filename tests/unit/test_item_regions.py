"""Regions of items: where they lie in the augmented image, and what reports say of them."""

import dataclasses

import nibabel as nib
import numpy as np
import pytest
import torch

from medvlp.data.cache import ArrayCache
from medvlp.data.dataset import PairDataset, collater
from medvlp.data.items import DataConfig, pair_items
from medvlp.data.manifest import write_manifest
from medvlp.data.permuted import permute_images
from medvlp.data.placement import BoxRegion, MaskRegion
from medvlp.data.preprocess import contract_digest
from medvlp.data.region_maps import MapCache, RegionMaps, cell_cover
from medvlp.data.region_texts import RegionConfig, RegionText
from medvlp.data.text_policy import TextPolicy
from medvlp.data.tokenizer import train_tokenizer
from medvlp.errors import ConfigError
from medvlp_volumetric.preprocess import CtAugmentConfig, CtPreprocessConfig

SHAPE, CELL = (12, 16, 16), (4, 4, 8)
CONTRACT = CtPreprocessConfig(
    shape=SHAPE,
    spacing_mm=(2, 2, 2),
    augment=CtAugmentConfig(shift=(3, 5, 5), scale_hu=0, offset_hu=0, noise_hu=0),
)
CONFIG = RegionConfig(
    names=("liver", "left kidney", "right kidney"),
    masks={"left kidney": ("kidney_left",), "right kidney": ("kidney_right",)},
    anatomies={"kidney": ("kidney", "renal_pelvis")},
)
BOXES = {  # D, H, W of a canonical volume of 20 x 24 x 20 voxels of 2 mm, centred on the grid
    "liver": (slice(6, 12), slice(6, 15), slice(4, 9)),
    "kidney_left": (slice(8, 13), slice(12, 18), slice(12, 17)),
    "kidney_right": (slice(1, 6), slice(10, 14), slice(5, 8)),  # cut by the grid's first slice
}
VALUES = {"liver": 3, "kidney_left": 5, "kidney_right": 7}

SENTENCES = {
    "s1": "The liver is enlarged.",
    "s2": "No hydronephrosis.",
    "s3": "Left renal cyst.",
    "s4": "Hepatic veins are patent.",
}
ENTITIES = [
    ("s1", "liver", "hepatomegaly", 1.0, None),
    ("s2", "renal_pelvis", "hydronephrosis", 0.0, None),
    ("s3", "kidney", "cyst", 1.0, "left"),
    ("s4", "liver", "thrombosis", 0.0, None),
]


def volume_and_masks(folder, name="a"):
    """A volume in which organs are bright, and a label map of them."""
    values, labels = np.full((20, 24, 20), -1000, np.int16), np.zeros((20, 24, 20), np.uint8)
    for organ, box in BOXES.items():
        values[box] = 100 * VALUES[organ]
        labels[box] = VALUES[organ]
    # W to the left, H to the back, D to the head, as nibabel has it.
    affine = np.diag([-2.0, -2.0, 2.0, 1.0])
    for file, array in ((f"{name}.nii.gz", values), (f"{name}-organs.nii.gz", labels)):
        nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), affine), folder / file)
    return [folder / f"{name}.nii.gz"], folder / f"{name}-organs.nii.gz"


def regions_of(masks):
    names = [CONFIG.members(name)[0] for name in CONFIG.names]
    return tuple(
        (r, MaskRegion(paths=(masks,), value=VALUES[name])) for r, name in enumerate(names)
    )


@pytest.fixture
def manifest(tmp_path):
    """Three patients: one with a report, one whose table alone tells, one without a report."""
    rows = {"samples": [], "texts": [], "entities": [], "regions": []}
    sources = []
    for name in ("told", "tabled", "silent"):
        volume, masks = volume_and_masks(tmp_path, name)
        rows["samples"].append(
            {"sample": name, "domain": "volumetric", "patient": name, "source": name,
             "sha256": f"{name:0<64}".replace("t", "7"), "kind": "nifti", "split": "train"}
        )  # fmt: skip
        sources += [
            {"source": name, "part": 0, "path": str(volume[0])},
            {"source": f"{name}-m", "part": 0, "path": str(masks)},
        ]
        rows["regions"] += [
            {"sample": name, "name": organ, "kind": "mask", "geometry": [float(value)],
             "ref": f"{name}-m"} for organ, value in VALUES.items()
        ]  # fmt: skip
        if name == "silent":
            continue
        report = {"sample": name, "node": name, "level": "report", "source": "report", "order": 0}
        rows["texts"].append({**report, "text": " ".join(SENTENCES.values())})
        for order, (node, text) in enumerate(SENTENCES.items()):
            own = {"node": f"{name}-{node}", "parent": name, "level": "sentence", "text": text}
            rows["texts"].append({**report, **own, "order": order})
        for node, anatomy, observation, presence, side in ENTITIES:
            found = {"sample": name, "anatomy": anatomy, "observation": observation}
            found |= {"presence": presence, "laterality": side, "source": "rules"}
            if name == "told":
                rows["entities"].append({**found, "node": f"{name}-{node}"})
            elif node == "s1":
                rows["entities"].append({**found, "node": None, "source": "truth"})
    info = {"key_id": "t", "counts": {}}
    return write_manifest(tmp_path / "m", rows, sources, info, key=b"k" * 32)


def items_of(manifest, **changes):
    texts = TextPolicy(levels=("report",), required=False)
    regions = dataclasses.replace(CONFIG, **changes)
    config = DataConfig(manifests=(manifest.path,), texts=texts, regions=regions)
    return {
        item.sample: item for item in pair_items([manifest], config, "train", domain="volumetric")
    }


def test_a_regions_text_are_the_sentences_whose_entities_stand_there(manifest):
    items = items_of(manifest)
    assert items["told"].region_texts == (
        RegionText("The liver is enlarged. Hepatic veins are patent.", normal=False),
        RegionText("No hydronephrosis. Left renal cyst.", normal=False),
        RegionText("No hydronephrosis.", normal=True),
    )
    # A table affirms something of the liver, and no sentence says so.
    assert items["tabled"].region_texts == (
        RegionText(None, normal=False),
        RegionText("The left kidney shows nothing abnormal.", normal=True),
        RegionText("The right kidney shows nothing abnormal.", normal=True),
    )
    assert items["silent"].region_texts == (RegionText(None, normal=True),) * 3
    (_, kidney, _) = items_of(manifest, untold=None)["tabled"].region_texts
    assert kidney == RegionText(None, normal=True)
    # Of another extractor, nothing tells of anything.
    with pytest.raises(ConfigError, match="no sentence of the manifests has an entity of source x"):
        items_of(manifest, entities="x")
    with pytest.raises(ConfigError, match="spleen: no such region"):
        items_of(manifest, names=(*CONFIG.names, "spleen"))


def test_regions_go_with_their_image_and_texts_stay(manifest):
    items = list(items_of(manifest).values())
    paths = {item.sample: item.regions[0][1].paths for item in items}
    assert len(set(paths.values())) == 3
    for before, after in zip(items, permute_images(items, 0), strict=True):
        donor = next(item for item in items if item.source_paths == after.source_paths)
        assert donor.sample != before.sample
        assert after.regions == donor.regions
        assert after.region_texts == before.region_texts


def batches(manifest, *, augment, epochs=1, config=CONFIG, cache=None):
    items = list(items_of(manifest).values())
    tokenizer = train_tokenizer([*SENTENCES.values()] * 20, 400)
    maps = RegionMaps(config, CONTRACT.build(), CELL, cache)
    data = PairDataset(
        items, CONTRACT.build(), tokenizer, None, TextPolicy(levels=("report",)), 3,
        max_tokens=32, augment=augment, regions=maps,
    )  # fmt: skip
    collate = collater(tokenizer.pad_token_id, {data.stream: 1}, 4)
    return [collate([data[epoch, i] for i in range(3)]) for epoch in range(epochs)], tokenizer


def test_regions_move_with_the_image_and_those_that_are_cut_are_left_out(manifest):
    found, _ = batches(
        manifest, augment=True, epochs=12, config=dataclasses.replace(CONFIG, in_view=1.0)
    )
    cut = whole = 0
    for batch in found:
        image = batch.ready(CONTRACT.build()).image[:, 0]
        for b in range(3):
            for r, organ in enumerate(BOXES):
                bright = (image[b] - VALUES[organ] / 10).abs() < 1e-3
                size = np.prod([s.stop - s.start for s in BOXES[organ]])
                if bright.sum() < size:
                    cut += organ != "kidney_right"
                    assert not batch.cover_BRDHW[b, r].any()
                    continue
                whole += 1
                expected = cell_cover(bright.numpy().astype(np.uint16), 1, CELL)[0]
                np.testing.assert_allclose(batch.cover_BRDHW[b, r], expected)
    assert cut > 5
    assert whole > 5


def test_how_much_of_a_region_must_be_in_view_is_asked(manifest):
    # Of the right kidney's five slices, the grid has two: 4 voxels lie below it.
    for in_view, seen in ((0.41, False), (0.4, True)):
        config = dataclasses.replace(CONFIG, in_view=in_view)
        (batch,), _ = batches(manifest, augment=False, config=config)
        assert batch.cover_BRDHW[:, 2].any() == seen
        assert batch.cover_BRDHW[:, 0].flatten(1).sum(1).tolist() == [6 * 9 * 5 / 128] * 3
    maps = RegionMaps(CONFIG, CONTRACT.build(), CELL, None)
    blank = dataclasses.replace(items_of(manifest)["told"], regions=())
    np.testing.assert_array_equal(maps.cover(blank, SHAPE, None), np.zeros((3, 3, 4, 2)))


def test_a_batch_holds_the_regions_texts_and_whether_they_are_normal(manifest):
    (batch,), tokenizer = batches(manifest, augment=False)
    assert batch.normal_BR.tolist() == [[True] * 3, [False, True, True], [False, False, True]]
    said = batch.region_mask_BRT.any(2)
    assert said.tolist() == [[False] * 3, [False, True, True], [True] * 3]
    ids = batch.region_text_BRT[2, 2][batch.region_mask_BRT[2, 2]]
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "no hydronephrosis."
    assert batch.region_text_BRT.shape[2] % 4 == 0
    part, rows = batch.part(slice(1, 3)), batch.rows(torch.tensor([2, 0]))
    assert torch.equal(part.cover_BRDHW, batch.cover_BRDHW[1:])
    assert torch.equal(rows.region_text_BRT, batch.region_text_BRT[[2, 0]])


def test_maps_are_kept_and_made_anew_when_a_mask_changes(manifest, tmp_path):
    images = ArrayCache(tmp_path / "cache", contract_digest(CONTRACT))
    cache = MapCache(1.0, images)
    first, _ = batches(manifest, augment=True, cache=cache)
    files = [file for item in items_of(manifest).values() for file in cache.files(item)]
    # Each begins with its image's digest, by which whoever withdraws is found.
    assert sorted(f.name[:64] for f in files) == sorted(
        i.sha256 for i in items_of(manifest).values()
    )
    again, _ = batches(manifest, augment=True, cache=MapCache(1.0, images))
    assert torch.equal(first[0].cover_BRDHW, again[0].cover_BRDHW)
    item = items_of(manifest)["told"]
    masks = nib.load(item.regions[0][1].paths[0])
    emptied = np.where(masks.get_fdata() == VALUES["liver"], 0, masks.get_fdata()).astype(np.uint8)
    nib.save(nib.Nifti1Image(emptied, masks.affine), item.regions[0][1].paths[0])
    changed = MapCache(1.0, images)
    assert changed.key(item) != cache.key(item)
    assert changed.key(dataclasses.replace(item, sample="x", regions=())) != changed.key(item)
    (batch,), _ = batches(manifest, augment=True, cache=changed)
    assert not batch.cover_BRDHW[2, 0].any()


def test_where_regions_lie_beyond_the_grid_is_measured(tmp_path):
    volume, masks = volume_and_masks(tmp_path)
    box = BOXES["kidney_right"]
    corners = [*(s.start for s in box[::-1]), *(s.stop for s in box[::-1])]
    regions = [region for _, region in regions_of(masks)]
    turned = BoxRegion(corners=tuple(map(float, corners)))
    placed = CONTRACT.build().regions(volume, (), [*regions, turned])
    np.testing.assert_allclose(placed.size_R, [270, 150, 60, 60])
    np.testing.assert_allclose(placed.seen_R, [270, 150, 24, 24])
    np.testing.assert_array_equal(placed.masks.sum((1, 2, 3)), [270, 150, 24, 24])
    np.testing.assert_array_equal(placed.masks[2], placed.masks[3])


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"names": ("a", "b"), "masks": {"a": ("x",), "b": ("x", "y")}}, "x stands in two regions"),
        ({"names": ("a",), "masks": {"b": ("x",)}}, "masks: b is not among names"),
        ({"names": ("left a",), "anatomies": {"left a": ("x",)}}, "anatomies: left a is none of"),
        ({"names": ("a",), "untold": "Nothing."}, "untold does not hold"),
    ],
)
def test_what_cannot_be_asked_is_refused(values, fault):
    with pytest.raises(ValueError, match=fault):
        RegionConfig(**values)
