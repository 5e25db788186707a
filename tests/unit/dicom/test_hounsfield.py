"""Whether values are Hounsfield units, on phantoms of a body in air."""

import numpy as np
import pytest

from medvlp.archive.series.hounsfield import (
    HU_EDGES,
    OUTSIDE_HU,
    Values,
    clamp_padding,
    count_hu,
    count_stored,
    count_volume,
    judge_hu,
    scale_code,
)


def body(seed=0, size=64, air=0.5, padded=False):
    """A slice: air, fat, soft tissue, a little bone and lung, with noise; HU."""
    rng = np.random.default_rng(seed)
    shares = [air, (1 - air) * 0.25, (1 - air) * 0.55, (1 - air) * 0.05, (1 - air) * 0.15]
    means = rng.choice([-1000, -100, 45, 500, -830], size=(size, size), p=shares)
    values = np.clip(np.rint(means + rng.normal(0, 12, means.shape)), -1024, 3071)
    if padded:
        y, x = np.mgrid[:size, :size] - size / 2
        values[np.hypot(x, y) > size / 2] = -2000
    return values.astype(np.float32)


def judged(slices, intercepts=(-1024,), bits=12):
    return judge_hu([values_of(s) for s in slices], intercepts, bits)


def values_of(hu):
    return Values(low=float(hu.min()), high=float(hu.max()), counts=count_hu(hu))


def stack(change=lambda hu: hu, **kwargs):
    return [change(body(seed, **kwargs)) for seed in range(6)]


def test_the_histogram_is_numpy_s():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1500, 5000), HU_EDGES, [-9000, 9000]])
    reference, _ = np.histogram(values, bins=[-np.inf, *HU_EDGES, np.inf])
    assert list(count_hu(values)) == reference.tolist()


@pytest.mark.parametrize("dtype", ["<i2", "<u2", ">i2", "u1", "i1", "<i4", "<u4"])
@pytest.mark.parametrize("rescale", [(1, -1024), (0.5, 3.25), (-2, 0)])
def test_stored_values_are_counted_by_their_levels(dtype, rescale):
    info = np.iinfo(dtype)
    low, high = max(info.min, -4000), min(info.max, 4000)
    stored = np.random.default_rng(1).integers(low, high, (9, 11)).astype(dtype)
    slope, intercept = rescale
    expected = count_hu(stored.astype(np.float64) * slope + intercept)
    assert count_stored(stored, slope, intercept) == expected


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("air", [0.2, 0.5, 0.93])
def test_a_body_in_air_is_believed(air, padded):
    report = judged(stack(air=air, padded=padded))
    assert report.code == ""
    assert {*report.flags} == ({"padding_clamped"} if padded else set())
    assert report.air_peak_hu == pytest.approx(-1000, abs=30)
    assert (report.padding_fraction > 0.1) is padded


@pytest.mark.parametrize("intercept", [-1024, -1000])
@pytest.mark.parametrize("air", [0.2, 0.5, 0.9])
def test_a_rescale_applied_twice_is_found(intercept, air):
    report = judged(stack(lambda hu: hu + intercept, air=air), (intercept,))
    assert report.code == "double_rescale"


def test_a_rescale_that_never_was_is_found():
    assert judged(stack(lambda hu: hu + 1024), (0,)).code == "not_hu"


def test_a_screenshot_of_a_window_is_no_ct():
    def window(hu):
        return np.rint(np.clip((hu + 160) / 400, 0, 1) * 255)

    assert judged(stack(window), (0,)).code == "not_hu"
    assert judged(stack(lambda hu: window(hu) - 100), (-100,), bits=8).code == "not_hu"


def test_a_crop_without_air_or_without_tissue_is_flagged_only():
    inside = [np.clip(hu, -200, 300) for hu in stack(air=0.0)]
    assert judged(inside).flags == ("no_air_peak",)
    outside = [np.clip(hu, -1024, -940) for hu in stack(air=1.0)]
    assert judged(outside).flags == ("no_tissue_peak",)


def test_a_slice_that_decodes_unlike_its_neighbours_is_found():
    slices = stack()
    slices[3] = np.random.default_rng(0).uniform(-1024, 3000, slices[3].shape)
    report = judged(slices)
    assert report.odd_slices == (3,)
    assert "odd_slice" in report.flags


def test_flat_slices_are_counted():
    slices = stack()
    slices[0][:] = -1024
    report = judged(slices)
    assert report.constant_slices == (0,)
    assert report.flags == ("constant_slices",)
    flat = judged([np.full((8, 8), 40.0)] * 3)
    assert {"no_information", "constant_slices"} <= {*flat.flags}


def test_padding_is_raised_to_the_scale_s_end_and_nothing_else_is():
    values = np.array([[-3024, -2000, -1100, -1024, 40]], dtype=np.float32)
    assert clamp_padding(values, None)
    assert values.tolist() == [[OUTSIDE_HU, OUTSIDE_HU, -1100, -1024, 40]]
    assert not clamp_padding(values, None)
    assert clamp_padding(values, -1100)
    assert values.tolist() == [[OUTSIDE_HU, OUTSIDE_HU, OUTSIDE_HU, -1024, 40]]
    # A padding value within the scale is left alone: tissue may have it, too.
    assert not clamp_padding(values, 40)


@pytest.mark.parametrize("intercept", [0, -1024, -1000])
def test_a_whole_volume_s_scale_is_judged_without_headers(intercept):
    volume = np.stack(stack()) + np.float32(intercept)
    counts = count_volume(volume)
    assert counts == count_hu(volume)
    assert scale_code(counts) == ("double_rescale" if intercept else "")
