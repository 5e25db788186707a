"""Grounding metrics against literal counting, with ties, flat maps and known answers."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medvlp.errors import InputError
from medvlp.evaluate.controls.places import centre_map, chance_map, mean_map
from medvlp.evaluate.metrics.grounding import (
    MIOU_LEVELS,
    Case,
    choose_level,
    make_case,
    upsample,
)
from medvlp.evaluate.packed import pack_mask, unpack_mask
from medvlp.evaluate.packed_heat import pack_heat, unpack_heat


def literal(heat, mask, level):
    """Every metric by its definition, pixel by pixel, on plain lists."""
    pixels = [(float(h), bool(m)) for h, m in zip(heat.ravel(), mask.ravel(), strict=True)]
    top = max(h for h, _ in pixels)
    tied = [m for h, m in pixels if h == top]
    inside = [h for h, m in pixels if m]
    outside = [h for h, m in pixels if not m]
    area, precision, recall = len(inside), 0.0, 0.0
    for value in sorted({h for h, _ in pixels}, reverse=True):
        called = [m for h, m in pixels if h >= value]
        reached = sum(called) / area
        precision += (reached - recall) * sum(called) / len(called)
        recall = reached
    mean_in, mean_out = math.fsum(inside) / area, math.fsum(outside) / len(outside)
    noise = sum((h - mean_in) ** 2 for h in inside) / area
    noise += sum((h - mean_out) ** 2 for h in outside) / len(outside)
    gap = abs(mean_in - mean_out)
    cnr = gap / math.sqrt(noise) if noise > 0 else (0.0 if gap == 0 else math.nan)
    hit = sum(m for h, m in pixels if h > level)
    above = sum(h > level for h, _ in pixels)
    ious = []
    for tau in MIOU_LEVELS:
        both = sum(m for h, m in pixels if h > tau)
        ious.append(both / (sum(h > tau for h, _ in pixels) + area - both))
    return {
        "pointing": sum(tied) / len(tied), "precision": precision, "cnr": cnr,
        "iou": hit / (above + area - hit), "dice": 2 * hit / (above + area),
        "miou": sum(ious) / len(ious), **literal_slices(heat, mask),
    }  # fmt: skip


def literal_slices(heat, mask):
    if mask.ndim < 3:
        return dict.fromkeys(("right slice", "slice precision", "slice share"), math.nan)
    slices = [
        (max(float(h) for h in values.ravel()), any(bool(m) for m in held.ravel()))
        for values, held in zip(heat, mask, strict=True)
    ]
    tied = [held for best, held in slices if best == max(b for b, _ in slices)]
    count, precision, recall = sum(held for _, held in slices), 0.0, 0.0
    for value in sorted({best for best, _ in slices}, reverse=True):
        called = [held for best, held in slices if best >= value]
        reached = sum(called) / count
        precision += (reached - recall) * sum(called) / len(called)
        recall = reached
    return {
        "right slice": sum(tied) / len(tied), "slice precision": precision,
        "slice share": count / len(slices),
    }  # fmt: skip


def computed(case, level):
    return {
        "pointing": case.pointing(), "precision": case.average_precision(),
        "cnr": case.contrast_to_noise(), "iou": float(case.iou("value", [level])[0]),
        "dice": case.dice("value", level), "miou": case.mean_iou("raw"),
        "right slice": case.slice_pointing(), "slice precision": case.slice_average_precision(),
        "slice share": case.slice_share,
    }  # fmt: skip


def some_case(rng):
    shape = tuple(rng.integers(2, 7, size=rng.choice([2, 3])))
    steps = rng.choice([1, 2, 5, 1000])
    heat = rng.integers(0, steps, shape) / max(steps - 1, 1)
    mask = rng.random(shape) < rng.uniform(0.1, 0.9)
    mask.flat[rng.integers(mask.size)] = True
    mask.flat[0] = not mask.flat[1:].any()
    return heat, mask


def test_metrics_equal_literal_counting_over_1200_maps_with_ties():
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(1200):
        heat, mask = some_case(rng)
        level = float(rng.choice([0.0, 0.25, 0.5, rng.random()]))
        found = computed(Case(heat, heat, mask), level)
        expected = literal(heat, mask, level)
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, abs=1e-9, nan_ok=True), name
        kinds.add((heat.ndim, (heat == heat.max()).sum() > 1, len(np.unique(heat)) == 1))
    assert {(2, True, False), (3, True, False), (2, False, False), (2, True, True)} <= kinds


def test_an_oracle_points_right_and_ranks_all_pixels_right():
    rng = np.random.default_rng(1)
    for _ in range(50):
        _, mask = some_case(rng)
        case = make_case(mask + 0.1 * rng.random(mask.shape), mask)
        assert case.pointing() == 1.0
        assert case.average_precision() == pytest.approx(1.0, abs=1e-12)
        level, iou = choose_level([case], "value")
        assert iou == case.iou("value", [level])[0] == case.dice("value", level) == 1.0


@pytest.mark.parametrize("value", [-0.3, 0.0, 0.123456789, 1.0])
def test_a_flat_map_has_the_area_share_and_no_contrast(value):
    mask = np.zeros((37, 53), bool)
    mask[3:20, 11:30] = True
    case = make_case(np.full((5, 7), value), mask)
    share = 17 * 19 / (37 * 53)
    assert case.pointing() == pytest.approx(share, abs=1e-12)
    assert case.average_precision() == pytest.approx(share, abs=1e-12)
    assert case.area_share == pytest.approx(share, abs=1e-12)
    assert case.contrast_to_noise() == 0
    # No threshold marks every pixel of a map that says nothing.
    assert case.iou("quantile", [0.0, 0.5, 0.99]).tolist() == [0, 0, 0]


def test_the_right_slice_is_found_by_depth_alone():
    mask = np.zeros((8, 4, 4), bool)
    mask[2:4, 1, 1] = True
    heat = np.zeros(mask.shape)
    heat[3, 3, 3] = 1.0  # beside the region, in one of its slices
    case = Case(heat, heat, mask)
    assert (case.pointing(), case.slice_pointing(), case.slice_share) == (0.0, 1.0, 0.25)
    assert case.slice_average_precision() == pytest.approx(0.5 * 1 + 0.5 * 2 / 8)
    heat[5, 0, 0] = 1.0  # as high, in a slice without it
    assert Case(heat, heat, mask).slice_pointing() == 0.5
    flat = Case(np.zeros(mask.shape), np.zeros(mask.shape), mask)
    assert flat.slice_pointing() == flat.slice_average_precision() == flat.slice_share


def test_order_alone_decides_pointing_and_average_precision():
    rng = np.random.default_rng(2)
    for _ in range(100):
        heat, mask = some_case(rng)
        plain, bent = Case(heat, heat, mask), Case(np.exp(3 * heat), heat, mask)
        assert bent.pointing() == plain.pointing()
        assert bent.average_precision() == pytest.approx(plain.average_precision(), abs=1e-12)
        np.testing.assert_array_equal(
            bent.iou("quantile", [0.3, 0.9]), plain.iou("quantile", [0.3, 0.9])
        )


def test_rescaling_by_each_maps_own_range_knows_no_scale_and_contrast_no_sign():
    rng = np.random.default_rng(3)
    heat, mask = rng.random((6, 6)), rng.random((24, 24)) < 0.3
    one, other = make_case(heat, mask), make_case(heat, mask, low=0.7, high=0.71)
    assert other.mean_iou("unit") == one.mean_iou("unit")
    # On raw cosines, all of this map lies above every level: it marks the whole image.
    assert other.mean_iou("raw") == pytest.approx(mask.mean())
    inverted = make_case(-heat, mask)
    assert inverted.contrast_to_noise() == pytest.approx(one.contrast_to_noise())


@pytest.mark.parametrize(
    ("grid", "shape"), [((7, 7), (224, 224)), ((4, 6), (33, 50)), ((3, 4, 5), (16, 20, 24))]
)
def test_upsampling_is_torchs(grid, shape):
    heat = np.random.default_rng(4).standard_normal(grid)
    mode = "bilinear" if len(grid) == 2 else "trilinear"
    expected = F.interpolate(
        torch.from_numpy(heat)[None, None], shape, mode=mode, align_corners=False
    )[0, 0].numpy()
    np.testing.assert_allclose(upsample(heat, shape), expected, atol=1e-12)


def test_padding_around_the_image_is_left_out():
    mask = np.zeros((8, 8), bool)
    mask[3:5, 2:4] = True
    heat = np.zeros((8, 8))
    heat[0], heat[3:5, 2:4] = 5, 1
    assert make_case(heat, mask).pointing() == 0
    case = make_case(heat, mask, [(2, 6), (0, 8)])
    assert case.pointing() == case.average_precision() == 1
    assert case.area_share == 4 / 32
    with pytest.raises(ValueError, match="empty mask"):
        make_case(heat, mask, [(5, 8), (0, 8)])


@pytest.mark.parametrize("kind", ["quantile", "value"])
def test_the_chosen_level_is_the_best_of_a_dense_search(kind):
    rng = np.random.default_rng(5)
    cases = []
    for _ in range(8):
        mask = np.zeros((20, 20), bool)
        mask[5:12, 4:13] = True
        cases.append(make_case(mask + 0.8 * rng.standard_normal((20, 20)), mask))
    span = (min(c.raw.min() for c in cases), max(c.raw.max() for c in cases))
    level, iou = choose_level(cases, kind, span)
    assert iou == pytest.approx(np.mean([c.iou(kind, [level])[0] for c in cases]))
    ends = (0.0, 0.999) if kind == "quantile" else span
    dense = [np.mean([c.iou(kind, [t])[0] for c in cases]) for t in np.linspace(*ends, 1500)]
    assert max(dense) - iou < 0.01


def test_packing_gives_masks_back_and_heat_to_a_thousandth_of_its_range():
    rng = np.random.default_rng(6)
    for shape in ((1, 1), (7, 9), (3, 5, 11)):
        mask = rng.random(shape) < 0.5
        np.testing.assert_array_equal(unpack_mask(pack_mask(mask), shape), mask)
        heat = 0.9 + 1e-4 * rng.standard_normal(shape)
        packed = pack_heat(heat)
        unit = unpack_heat(packed.data, packed.shape)
        back = packed.low + (packed.high - packed.low) * unit
        np.testing.assert_allclose(back, heat, atol=1e-3 * (np.ptp(heat) or 1))
    with pytest.raises(ValueError, match="a mask of shape"):
        unpack_mask(pack_mask(np.ones((4, 4), bool)), (5, 5))
    with pytest.raises(InputError, match="bytes of a heatmap"):
        unpack_heat(b"\0" * 6, (2, 2))


def test_random_maps_point_into_a_region_as_often_as_its_area():
    mask = np.zeros((32, 32), bool)
    mask[6:18, 10:20] = True
    hits = [make_case(chance_map((32, 32), 0, str(i)), mask).pointing() for i in range(3000)]
    share = mask.mean()
    assert np.mean(hits) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 3000))


def test_priors_of_place_are_the_middle_and_the_mean_of_masks():
    centre = upsample(centre_map((60, 90)), (60, 90))
    assert np.abs(np.argwhere(centre == centre.max()) - [29.5, 44.5]).max() < 1.5
    a, b = np.zeros((2, 64, 64), bool)
    a[:32], b[:, :32] = True, True
    mean = mean_map([a, b])
    assert (mean.shape, mean[0, 0], mean[0, -1], mean[-1, -1]) == ((32, 32), 1.0, 0.5, 0.0)
    assert mean_map([]) is None
    assert mean_map([np.ones((8, 40, 40), bool)]).shape == (8, 32, 32)
    # Volumes of one contract may differ in depth: the lower half is the lower half.
    shallow, deep = np.zeros((4, 8, 8), bool), np.zeros((40, 8, 8), bool)
    shallow[:2] = deep[:20] = True
    np.testing.assert_allclose(mean_map([shallow, deep])[:, 0, 0], [1, 1, 0, 0])
