"""The laterality contract: left stays left through the whole path of a sample, mirrored or not."""

import dataclasses

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F

from medvlp.cxr.preprocess import CxrAugmentConfig, CxrPreprocessConfig
from medvlp.data.dataset import PairDataset, collater
from medvlp.data.items import DataConfig, Item, pair_items
from medvlp.data.manifest import Manifest
from medvlp.data.mirror import Mirror
from medvlp.data.phantom_source import PhantomData
from medvlp.data.placement import BoxRegion, Placement
from medvlp.data.preprocess import contract_digest, model_input
from medvlp.data.presence import PRESENT, UNTOLD
from medvlp.data.relations import LEFT, RIGHT, EntityConfig, Names, Relation
from medvlp.data.sides import load_side_words
from medvlp.data.text_nodes import TextNode
from medvlp.data.text_policy import TextPolicy
from medvlp.data.tokenizer import train_tokenizer
from medvlp.errors import ConfigError
from medvlp.train.phantom_data import phantom_manifest

WORDS = load_side_words()
NAMES = Names(
    labels=("left effusion", "right effusion", "Dextrocardia", "edema"),
    anatomies=("left lung", "right lung", "heart", "middle_lobe"),
    observations=("effusion", "opacity"),
)
STILL = CxrAugmentConfig(shift=0, scale=0, rotation_deg=0, contrast=0, brightness=0)


def item(*texts, labels=(1, 0, 0, np.nan), relations=(), view=None):
    nodes = [
        TextNode(node=f"n{i}", level="sentence", source="f", text=t, start_s=None, end_s=None)
        for i, t in enumerate(texts)
    ]
    return Item(
        sample="s", patient="p", sha256="0" * 64, source_paths=(), span=None, texts=tuple(nodes),
        labels_L=np.array(labels, np.float32), split="train", relations=relations, view=view,
    )  # fmt: skip


def relation(column, side=0, value=PRESENT):
    return Relation(
        nodes=frozenset({"n0"}), values=((column, value),), observation=0, value=value, side=side
    )


def test_texts_labels_columns_and_sides_change_together_and_twice_is_as_before():
    mirror = Mirror(1.0, WORDS, NAMES)
    given = item("Left effusion.", "No edema.", relations=(relation(0, LEFT), relation(2)))
    mirrored = mirror.item(given)
    assert [node.text for node in mirrored.texts] == ["Right effusion.", "No edema."]
    np.testing.assert_array_equal(mirrored.labels_L, [0, 1, 0, np.nan])
    assert mirrored.relations == (relation(1, RIGHT), relation(2))
    assert mirrored.key == given.key
    again = mirror.item(mirrored)
    np.testing.assert_array_equal(again.labels_L, given.labels_L)
    assert dataclasses.replace(again, labels_L=given.labels_L) == given


def test_texts_that_go_along_change_sides_too():
    given = item("No edema.", "Left effusion.", "Right lung clear.")
    given = dataclasses.replace(given, texts=given.texts[:1], along=given.texts[1:])
    mirrored = Mirror(1.0, WORDS, NAMES).item(given)
    assert [node.text for node in mirrored.texts] == ["No edema."]
    assert [node.text for node in mirrored.along] == ["Right effusion.", "Left lung clear."]
    stays = item("No edema.", "Right-sided aortic arch.")
    stays = dataclasses.replace(stays, texts=stays.texts[:1], along=stays.texts[1:])
    assert Mirror(1.0, WORDS, NAMES).item(stays) is None


@pytest.mark.parametrize(
    "given",
    [
        item("Left effusion.", "Right-sided aortic arch."),
        item("No edema.", labels=(0, 0, 1, 0)),
        item("No edema.", relations=(relation(3),)),
        item("Left effusion.", view="LATERAL"),
        item("Left effusion.", view="LL"),
    ],
)
def test_a_sample_of_which_something_cannot_change_sides_stays(given):
    assert Mirror(1.0, WORDS, NAMES).item(given) is None


def test_what_is_not_told_and_frontal_views_do_not_stand_in_the_way():
    mirror = Mirror(1.0, WORDS, NAMES)
    for given in (
        item("No edema.", labels=(0, 0, np.nan, 0)),
        item("No edema.", relations=(relation(3, value=UNTOLD),)),
        item("No edema.", view="PA"),
        item("No edema.", view="ap"),
        item(),
    ):
        assert mirror.item(given) is not None


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (Names(labels=("left",)), "data.labels has left and not right"),
        (
            Names(anatomies=("right lung",), observations=("opacity",)),
            "data.entities.anatomies has right lung and not left lung",
        ),
    ],
)
def test_a_side_without_the_other_is_refused(names, reason):
    with pytest.raises(ConfigError, match=reason):
        Mirror(1.0, WORDS, names)


def test_words_of_another_language_are_noticed():
    mirror = Mirror(1.0, WORDS, NAMES)
    mirror.check([item("Left effusion.")])
    mirror.check([item()])
    with pytest.raises(ConfigError, match=r"no text of the training split names a side"):
        mirror.check([item("Erguss links."), item("Kein Erguss.")])


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """X-rays with pneumothoraces on one side, their reports, entities and boxes."""
    folder = tmp_path_factory.mktemp("phantom")
    made = PhantomData(n=40, kind="dicom", settings=("size=96", "masks=false"))
    path = phantom_manifest("cxr", made, folder)
    manifest = Manifest.open(path)
    config = DataConfig(
        manifests=(path,),
        texts=TextPolicy(levels=("sentence",), choose="all", n=12),
        labels=("pneumothorax",),
        entities=EntityConfig(
            anatomies=("left pleural space", "right pleural space"), observations=("pneumothorax",)
        ),
    )
    sided = manifest.entities.filter(
        (pl.col("observation") == "pneumothorax")
        & (pl.col("presence") == 1)
        & pl.col("laterality").is_in(["left", "right"])
    )
    side = dict(sided.select("sample", "laterality").iter_rows())
    boxes = {
        row["sample"]: tuple(row["geometry"])
        for row in manifest.regions.filter(pl.col("name") == "pneumothorax").to_dicts()
    }
    items = [
        found
        for split in ("train", "valid", "test")
        for found in pair_items([manifest], config, split, domain="cxr")
        if found.sample in side
    ]
    return items, side, boxes, config


def dataset(items, config, contract, mirror):
    tokenizer = train_tokenizer([n.text for i in items for n in i.texts] * 2, 600)
    return PairDataset(
        items, contract.build(), tokenizer, None, config.texts, 0, max_tokens=48, augment=True,
        names=config.names, mirror=mirror,
    ), tokenizer  # fmt: skip


def read(data, config):
    batch = collater(0, {"items": config.texts.n})([data[(0, i)] for i in range(len(data))])
    return batch.ready(data.preprocess)


def test_left_stays_left_through_the_whole_path(phantom):
    items, side, boxes, config = phantom
    contract = CxrPreprocessConfig(size=64, augment=dataclasses.replace(STILL, mirror=1.0))
    mirror = Mirror(1.0, WORDS, config.names)
    mirrored, tokenizer = dataset(items, config, contract, mirror)
    given, _ = dataset(items, config, dataclasses.replace(contract, augment=STILL), None)
    plain, turned = read(given, config), read(mirrored, config)
    changed = 0
    for i, one in enumerate(items):
        left = side[one.sample] == "left"
        words = [
            tokenizer.decode(ids, skip_special_tokens=True).lower()
            for ids in turned.text_BNT[i][turned.text_mask_BNT[i].any(1)]
        ]
        said = next(w for w in words if "pneumothorax" in w)
        own = next(n.text for n in one.texts if "pneumothorax" in n.text).lower()
        assert side[one.sample] in own
        placement = given.preprocess.placement((96, 96))
        box = BoxRegion(corners=boxes[one.sample])
        middle = placement.box(box.corners)[[0, 2]].mean()
        assert (middle > 32) == left
        column = 0 if left else 1
        assert plain.relations_BAQ[i, column, 0] == 1
        if mirror.item(one) is None:
            assert torch.equal(turned.image[i], plain.image[i])
            assert torch.equal(turned.relations_BAQ[i], plain.relations_BAQ[i])
            assert side[one.sample] in said
            continue
        changed += 1
        other = "right" if left else "left"
        assert other in said
        assert side[one.sample] not in said
        torch.testing.assert_close(turned.image[i], plain.image[i].flip(2), rtol=0, atol=1e-4)
        assert turned.relations_BAQ[i].tolist() == plain.relations_BAQ[i].flip(0).tolist()
        there = placement.mirrored()
        assert there.box(box.corners)[[0, 2]].tolist() == pytest.approx(
            [64 - placement.box(box.corners)[k] for k in (2, 0)]
        )
        here, moved = placement.lay(box).mask, there.lay(box).mask
        np.testing.assert_array_equal(moved, here[:, ::-1])
        before, after = plain.image[i, 0].numpy()[here], turned.image[i, 0].numpy()[moved]
        np.testing.assert_allclose(np.sort(after), np.sort(before), atol=1e-4)
    assert changed >= 3


def test_without_a_mirror_nothing_differs_to_the_last_bit(phantom):
    items, _, _, config = phantom
    contract = CxrPreprocessConfig(size=64)
    # As bundles that are older than the field have it.
    digest = "59b65d5030344017fdd75ed4cd0204c186852c928a754381afbfca408c30ce64"
    assert contract_digest(contract) == digest
    asked = dataclasses.replace(contract, augment=CxrAugmentConfig(mirror=0.5))
    assert contract_digest(asked) != digest
    data, _ = dataset(items, config, contract, None)
    batch = collater(0, {"items": config.texts.n})([data[(3, i)] for i in range(len(items))])
    x, y, scale, turn, contrast, brightness, mirror = batch.drawn_BK.unbind(1)
    assert not mirror.any()
    cos, sin = turn.cos() / scale, turn.sin() / scale
    theta = torch.stack([cos, -sin, -2 * x, sin, cos, -2 * y], 1).view(-1, 2, 3).float()
    grey = batch.image[:, None].float() / 65535
    grid = F.affine_grid(theta, list(grey.shape), align_corners=False)
    moved = F.grid_sample(grey, grid, align_corners=False)
    contrast, brightness = (v.float().view(-1, 1, 1, 1) for v in (contrast, brightness))
    expected = (((moved - 0.5) * contrast + 0.5 + brightness).clamp(0, 1) - 0.5) / 0.25
    assert torch.equal(batch.ready(data.preprocess).image, expected)


def test_a_share_is_mirrored_by_seed_epoch_and_sample_alone(phantom):
    items, _, _, config = phantom
    contract = CxrPreprocessConfig(size=32, augment=CxrAugmentConfig(mirror=0.5))
    plain = CxrPreprocessConfig(size=32)
    mirror = Mirror(0.5, WORDS, config.names)
    data, _ = dataset(items, config, contract, mirror)
    other, _ = dataset(items, config, plain, None)
    ways = []
    for epoch in range(6):
        for i in range(len(items)):
            one, again, unmirrored = data[(epoch, i)], data[(epoch, i)], other[(epoch, i)]
            assert torch.equal(one.drawn_K, again.drawn_K)
            # All else that is drawn stays what it would have been.
            assert torch.equal(one.drawn_K[:-1], unmirrored.drawn_K[:-1])
            assert (one.ids != unmirrored.ids) is bool(one.drawn_K[-1])
            ways.append(one.drawn_K[-1].item())
    possible = sum(mirror.item(one) is not None for one in items) / len(items)
    assert np.mean(ways) == pytest.approx(possible / 2, abs=0.2)
    data.augment = False
    assert data[(0, 0)].ids == other[(0, 0)].ids


def test_a_mirrored_pose_moves_the_mirrored_image():
    preprocess = CxrPreprocessConfig(size=32).build()
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 65535, (32, 32)).astype(np.uint16)
    drawn = torch.from_numpy(preprocess.draw(rng))[None]
    turned = torch.from_numpy(preprocess.mirrored(drawn[0].numpy()))[None]
    flipped = torch.from_numpy(np.ascontiguousarray(stored[:, ::-1]))[None]
    torch.testing.assert_close(
        preprocess.tensor(torch.from_numpy(stored)[None], turned),
        preprocess.tensor(flipped, drawn),
        rtol=0, atol=1e-4,
    )  # fmt: skip
    assert model_input(preprocess, [stored]).shape == (1, 1, 32, 32)


def test_a_mirrored_placement_is_one_s_own_after_two():
    placement = Placement(native=(4, 10), grid=(8, 8), axes=(0, 1), scale=(0.8, 0.8), offset=(2, 0))
    box = (1, 0, 3, 4)
    assert placement.mirrored().mirrored() == placement
    mask = np.zeros((4, 10), bool)
    mask[:, 1:3] = True
    np.testing.assert_array_equal(
        placement.mirrored().lay_mask(mask).mask, placement.lay_mask(mask).mask[:, ::-1]
    )
    assert placement.mirrored().box(box)[0] == pytest.approx(8 - placement.box(box)[2])
    assert placement.mirrored().image() == placement.image()
