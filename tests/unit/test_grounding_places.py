"""Covered findings: a scorer that looks at a known place loses by it, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from medvlp.cxr.preprocess import CxrPreprocessConfig
from medvlp.evaluate.robustness.places import blank, covered, elsewhere, stored_box
from medvlp.evaluate.robustness.sentences import credit
from medvlp_volumetric.preprocess import CtPreprocessConfig


def test_a_box_goes_where_letterbox_puts_it():
    contract = CxrPreprocessConfig(size=100).build()
    # 200 rows by 400 columns become 50 by 100, 25 rows of black above and below.
    box = stored_box(contract, (200, 400), None, (80, 40, 160, 120))
    assert box == (slice(35, 55), slice(20, 40))


def test_a_box_at_the_edge_keeps_its_edge():
    contract = CxrPreprocessConfig(size=64, resize="squash").build()
    assert stored_box(contract, (128, 128), None, (0, 0, 64, 128)) == (slice(0, 64), slice(0, 32))


def test_a_box_of_a_volume_follows_its_spacing_and_crop():
    contract = CtPreprocessConfig(spacing_mm=(4, 2, 2), shape=(10, 40, 40)).build()
    # 20 slices of 2 mm are 10 of 4 mm; 60 columns of 2 mm are cut to 40 about the middle.
    box = stored_box(contract, (20, 60, 60), (2.0, 2.0, 2.0), (20, 30, 4, 30, 50, 10))
    assert box == (slice(2, 5), slice(20, 40), slice(10, 20))


def test_a_box_outside_the_crop_is_not_there():
    contract = CtPreprocessConfig(spacing_mm=(2, 2, 2), shape=(20, 20, 20)).build()
    assert stored_box(contract, (20, 60, 60), (2.0, 2.0, 2.0), (0, 0, 0, 5, 60, 20)) is None


def scene(rng, row, column):
    """Soft noise with a bright square lesion, and a bright decoy."""
    image = 20000 + 3000 * rng.standard_normal((64, 64))
    image[row : row + 12, column : column + 12] += 20000
    image[50:62, 4:16] += 18000
    return np.clip(image, 0, 65535).astype(np.uint16)


def falls(score, seed):
    rng = np.random.default_rng(seed)
    row, column = int(rng.integers(2, 34)), int(rng.integers(20, 50))
    image = scene(rng, row, column)
    box = slice(row, row + 12), slice(column, column + 12)
    other = elsewhere(image, [box], box, rng)
    whole = score(image, box)
    return whole - score(covered(image, box), box), whole - score(covered(image, other), box)


def looks(image, box):
    return float(image[box].mean())


@pytest.mark.parametrize(
    ("score", "share"),
    [
        (looks, 1.0),
        (lambda image, box: -looks(image, box), 0.0),
        (lambda image, box: 3.0, 0.5),
    ],
)
def test_a_scorer_that_sees_the_lesion_loses_by_its_cover_alone(score, share):
    credits_ = [credit(*falls(score, seed)) for seed in range(60)]
    assert np.mean(credits_) == share


def test_the_place_elsewhere_is_of_the_same_size_apart_and_about_as_rich():
    rng = np.random.default_rng(0)
    image = scene(rng, 10, 30)
    box = slice(10, 22), slice(30, 42)
    for seed in range(20):
        other = elsewhere(image, [box], box, np.random.default_rng(seed))
        assert [s.stop - s.start for s in other] == [12, 12]
        assert not (other[0].start < 22 and other[0].stop > 10
                    and other[1].start < 42 and other[1].stop > 30)  # fmt: skip
        changed = covered(image, other).astype(int) - image
        assert np.abs(changed).sum() > 0
        assert (changed == 0).sum() >= 64 * 64 - 144


def test_there_may_be_no_room_elsewhere():
    image = np.zeros((8, 8), np.uint16)
    box = slice(0, 8), slice(0, 6)
    assert elsewhere(image, [box], box, np.random.default_rng(0)) is None


def test_a_blank_image_shows_its_median():
    image = np.array([[1, 2], [3, 30]], np.uint16)
    assert (blank(image) == 2).all()
    clip = np.zeros((2, 4, 4, 3), np.uint8)
    clip[..., 1] = 90
    assert (blank(clip) == clip).all()
