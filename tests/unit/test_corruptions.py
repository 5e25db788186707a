"""Corruptions of X-rays, CT and video: range, order of levels, repeatability, speed."""

from __future__ import annotations

import time

import numpy as np
import pytest

from medvlp.errors import ConfigError
from medvlp.evaluate.robustness.corruptions import planes
from medvlp.evaluate.robustness.corruptions.apply import (
    KINDS,
    LEVELS,
    corrupted,
    psnr,
    strengths,
)
from medvlp.evaluate.robustness.forms import FORMS

ALL = [(form, kind) for form, kinds in KINDS.items() for kind in kinds]


def smooth(rng, shape, cells):
    return (0.5 + 0.35 * planes.field(shape, rng, cells)).astype(np.float32)


def xray(rng, size=96):
    grey = smooth(rng, (size, size), 5) + 0.05 * planes.field((size, size), rng, 24)
    return FORMS["xray"].restored(np.clip(grey, 0.05, 0.95))


def ct(rng):
    body = np.clip((0.9 - planes.radius((64, 64))) * 20, 0, 1)
    texture = np.stack([smooth(rng, (64, 64), 6) for _ in range(20)])
    bone = np.clip((0.12 - planes.radius((64, 64), 0.7)) * 20, 0, 1)
    return FORMS["ct"].restored(-1000 + body * (960 + 300 * (texture - 0.5)) + 700 * bone)


def video(rng):
    scene = np.stack([smooth(rng, (64, 80), 6) for _ in range(3)], axis=-1)
    moving = np.stack([np.roll(scene, 3 * k, axis=1)[:, :64] for k in range(12)])
    return FORMS["video"].restored(moving * np.float32(0.9))


MAKE = {"xray": xray, "ct": ct, "video": video}
SETS = {form: [make(np.random.default_rng(k)) for k in range(4)] for form, make in MAKE.items()}


@pytest.mark.parametrize("form", list(KINDS))
def test_every_form_has_twenty_kinds_with_five_levels_each(form):
    assert len(KINDS[form]) >= 20
    assert set(strengths()[form]) == set(KINDS[form])
    assert all(len(set(levels)) == len(LEVELS) == 5 for levels in strengths()[form].values())


@pytest.mark.parametrize(("form", "kind"), ALL)
def test_levels_take_ever_more_of_the_picture_and_stay_in_its_range(form, kind):
    means = []
    for level in LEVELS:
        after = [corrupted(x, kind, level, seed=5, sample=str(i)) for i, x in enumerate(SETS[form])]
        for before, changed in zip(SETS[form], after, strict=True):
            assert changed.dtype == before.dtype
            assert changed.shape == before.shape
            values = FORMS[form].physical(changed)
            assert np.isfinite(values).all()
            assert values.min() >= FORMS[form].lowest
            assert values.max() <= FORMS[form].highest
        means.append(np.mean([psnr(a, b) for a, b in zip(SETS[form], after, strict=True)]))
    assert np.isfinite(means).all()
    assert (np.diff(means) < 0).all(), means


@pytest.mark.parametrize(("form", "kind"), ALL)
def test_bytes_follow_from_seed_sample_kind_and_level_alone(form, kind):
    stored = SETS[form][0]
    kept = stored.copy()
    first = corrupted(stored, kind, 3, seed=1, sample="a")
    np.testing.assert_array_equal(stored, kept)
    assert first.tobytes() == corrupted(stored.copy(), kind, 3, seed=1, sample="a").tobytes()


@pytest.mark.parametrize("kind", ["quantum_noise", "dead_pixels", "collimation", "banding"])
def test_another_sample_or_seed_draws_anew(kind):
    stored = SETS["xray"][0]
    first = corrupted(stored, kind, 3, seed=1, sample="a")
    assert not np.array_equal(first, corrupted(stored, kind, 3, seed=1, sample="b"))
    assert not np.array_equal(first, corrupted(stored, kind, 3, seed=2, sample="a"))


@pytest.mark.parametrize("kind", list(KINDS["xray"]))
def test_twenty_xrays_of_224_pixels_a_second(kind):
    stored = xray(np.random.default_rng(0), 224)
    corrupted(stored, kind, 3, seed=0, sample="warm")
    best = min(_seconds(stored, kind, sample) for sample in "abc")
    assert best < 1 / 20


def _seconds(stored, kind, sample):
    start = time.process_time()
    corrupted(stored, kind, 3, seed=0, sample=sample)
    return time.process_time() - start


def test_quantum_noise_has_the_variance_of_poisson_counts():
    flat = np.full((256, 256), 0.4, np.float32)
    noisy = KINDS["xray"]["quantum_noise"](flat, np.random.default_rng(0), 4000.0)
    counts = 4000 * np.exp(-3 * noisy)
    assert counts.var() == pytest.approx(counts.mean(), rel=0.03)


def test_slice_thickness_averages_neighbours():
    hu = np.zeros((9, 2, 2), np.float32)
    hu[4] = 300
    done = KINDS["ct"]["slice_thickness"](hu, np.random.default_rng(0), 3)
    np.testing.assert_allclose(done[:, 0, 0], [0, 0, 0, 100, 100, 100, 0, 0, 0])


def test_a_held_frame_repeats_and_a_missing_slice_is_its_neighbour():
    clip = np.arange(6, dtype=np.float32)[:, None, None, None] * np.ones((6, 3, 2, 2), np.float32)
    rng = np.random.default_rng(0)
    assert KINDS["video"]["frame_rate"](clip, rng, 3)[:, 0, 0, 0].tolist() == [0, 0, 0, 3, 3, 3]
    assert KINDS["video"]["frozen_frames"](clip, rng, 0.5)[:, 0, 0, 0].tolist() == [
        0, 1, 2, 2, 2, 2,
    ]  # fmt: skip
    hu = np.arange(30, dtype=np.float32)[:, None, None] * np.ones((30, 2, 2), np.float32)
    lost = KINDS["ct"]["missing_slices"](hu, rng, 0.5)[:, 0, 0]
    assert set(lost) < set(range(30))
    assert (np.diff(lost) >= 0).all()
    assert (lost <= np.arange(30)).all()


def test_a_smear_keeps_the_sum_and_reaches_as_far_as_it_is_long():
    point = np.zeros((61, 61), np.float32)
    point[30, 30] = 1
    done = planes.smeared(point, 20 / 61, 0.0)
    assert done.sum() == pytest.approx(1, abs=1e-5)
    reached = np.flatnonzero(done[30] > 1e-3)
    assert reached[0] == pytest.approx(20, abs=1)
    assert reached[-1] == pytest.approx(40, abs=1)
    assert np.abs(done[[28, 32]]).max() < 1e-5


def test_an_unknown_kind_or_form_says_what_there_is():
    with pytest.raises(ConfigError, match="no corruption 'smoke' of xray"):
        corrupted(SETS["xray"][0], "smoke", 1, seed=0, sample="a")
    with pytest.raises(ConfigError, match="no known form"):
        corrupted(np.zeros((4, 4), np.float64), "gamma", 1, seed=0, sample="a")
