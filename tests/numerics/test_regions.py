"""Metrics of masks against MONAI, and against loops that follow the words."""

import math

import numpy as np
import polars as pl
import pytest

from medvlp.evaluate.metrics.estimate import metric_rows
from medvlp.evaluate.metrics.regions import case, dice, region_measures, surface_scores
from medvlp.evaluate.packed import MASKS, mask_row, unpack_mask


def random_masks(rng, dims):
    shape = tuple(rng.integers(2, 7, dims))
    share = rng.uniform(0, 0.8)
    return rng.random(shape) < share, rng.random(shape) < rng.uniform(0, 0.8)


def test_dice_is_monais_over_a_thousand_random_masks():
    import torch
    from monai.metrics.meandice import compute_dice

    rng = np.random.default_rng(0)
    empty = 0
    for shape in ((5, 4), (3, 2, 4)):
        share = rng.uniform(-0.2, 0.9, (2, 600) + (1,) * len(shape))
        both = rng.random((2, 600, *shape)) < share
        monai = compute_dice(*(torch.from_numpy(part[:, None]).double() for part in both))
        for a, b, found in zip(*both, monai[:, 0].tolist(), strict=True):
            if not b.any():  # MONAI says nothing of an empty reference
                empty += 1
                assert math.isnan(found)
                continue
            hits = sum(x and y for x, y in zip(a.flat, b.flat, strict=True))
            literal = 2 * hits / (sum(a.flat) + sum(b.flat))
            assert abs(dice(a, b) - literal) < 1e-9
            assert abs(dice(a, b) - found) < 1e-6  # MONAI's own precision is single
    assert 0 < empty < 600
    assert math.isnan(dice(np.zeros((2, 2), bool), np.zeros((2, 2), bool)))


def edge(mask):
    """Voxels of the mask with a neighbour outside it, or outside the picture."""
    found = []
    for place in np.argwhere(mask):
        for axis in range(mask.ndim):
            for step in (-1, 1):
                other = place.copy()
                other[axis] += step
                inside = 0 <= other[axis] < mask.shape[axis]
                if not inside or not mask[tuple(other)]:
                    found.append(tuple(place))
    return sorted(set(found))


def nearest(of, to, spacing):
    return [
        min(math.sqrt(sum(((a - b) * s) ** 2 for a, b, s in zip(p, q, spacing, strict=True)))
            for q in to)
        for p in of
    ]  # fmt: skip


def test_surfaces_are_those_of_literal_loops():
    rng = np.random.default_rng(1)
    checked = 0
    for i in range(200):
        a, b = random_masks(rng, 2 + i % 2)
        if not a.any() or not b.any():
            continue
        spacing = rng.uniform(0.5, 3, a.ndim)
        tolerance = float(rng.uniform(0.3, 4))
        there = nearest(edge(a), edge(b), spacing)
        back = nearest(edge(b), edge(a), spacing)
        near, far = surface_scores(a, b, spacing.tolist(), tolerance)
        hits = sum(d <= tolerance for d in there + back)
        assert near == pytest.approx(hits / len(there + back), abs=1e-6)
        expected = max(np.percentile(there, 95), np.percentile(back, 95))
        assert far == pytest.approx(expected, abs=1e-5)
        checked += 1
    assert checked > 150
    with pytest.raises(ValueError, match="no surface"):
        surface_scores(np.zeros((3, 3), bool), np.ones((3, 3), bool), (1, 1), 1)


def row(sample, prediction, reference, spacing=(1.0, 1.0), name="s"):
    about = {"model": "m", "seed": 0, "sample": sample, "name": name}
    return mask_row(about, prediction, reference, spacing)


def test_a_hand_case_with_empty_masks_apart():
    full, half, none = np.ones((4, 4), bool), np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    half[:2] = True
    rows = [
        row("a", half, full), row("b", none, full), row("c", half, none), row("d", none, none),
        row("e", full, full, None),
    ]  # fmt: skip
    masks = pl.DataFrame(rows, schema=MASKS)
    predictions = pl.DataFrame(
        {
            "model": "m", "protocol": "p", "seed": 0, "sample": list("abcde"),
            "patient": list("ppqqr"), "name": "s", "label": [1, 1, 0, 0, 1], "score": 0.5,
            "control": False,
        }
    )  # fmt: skip
    found = {
        r.metric: r
        for r in metric_rows(
            predictions, lambda m, s: region_measures(masks, 1.0),
            domain="cxr", draws=50, confidence=0.95, seed=0,
        )
    }  # fmt: skip
    assert found["dice"].value == pytest.approx((2 * 8 / 24 + 0 + 1) / 3)
    assert found["missed"].value == pytest.approx(1 / 3)
    assert found["false_positive_empty"].value == pytest.approx(1 / 2)
    assert found["surface_dice"].n == 2  # of one case the spacing is not known
    assert found["hd95_mm"].n == 1  # what was missed has no distance
    # Half against full: the lower two rows' edge lies one and two away.
    assert found["hd95_mm"].value == pytest.approx(2.0)
    assert "dice_macro" not in found  # too few cases for a mean over structures
    assert found["dice"].low < found["dice"].value < found["dice"].high
    assert math.isnan(case(rows[3], 1.0).dice)


def test_masks_come_back_from_their_bits():
    rng = np.random.default_rng(2)
    for i in range(50):
        mask, other = random_masks(rng, 2 + i % 2)
        told = row("a", mask, other, None)
        np.testing.assert_array_equal(unpack_mask(told["prediction"], told["shape"]), mask)
        np.testing.assert_array_equal(unpack_mask(told["reference"], told["shape"]), other)
    with pytest.raises(ValueError, match="bytes"):
        unpack_mask(told["prediction"], (100, 100))
    assert row("a", mask, other)["digest"] != row("a", ~mask, other)["digest"]
