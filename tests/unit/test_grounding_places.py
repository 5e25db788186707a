"""Covered findings: a scorer that looks at a known place loses by it, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from medvlp.evaluate.masks import Reference
from medvlp.evaluate.robustness.places import blank, boxes_of, covered, elsewhere
from medvlp.evaluate.robustness.sentences import credit


def reference(shape, boxes, mask=None):
    masks = np.zeros((1, *shape), bool)
    if mask is not None:
        masks[(0, *mask)] = True
    whole = tuple((0, n) for n in shape)
    return Reference(
        masks=masks, known_K=np.array([True]), boxes={"mass": boxes} if boxes else {},
        spacing_mm=None, image=whole,
    )  # fmt: skip


def test_boxes_become_slices_rows_first():
    known = reference((50, 80), [(20.0, 10.0, 40.0, 30.0), (0.0, 0.0, 5.0, 5.0)])
    assert boxes_of(known, 0, "mass") == [
        (slice(10, 30), slice(20, 40)),
        (slice(0, 5), slice(0, 5)),
    ]
    volume = reference((10, 40, 40), [(20.0, 10.0, 2.0, 30.0, 20.0, 5.0)])
    assert boxes_of(volume, 0, "mass") == [(slice(2, 5), slice(10, 20), slice(20, 30))]


def test_a_box_is_cut_at_the_grid_and_left_out_beyond_it():
    known = reference((20, 20), [(-5.0, 3.0, 4.0, 40.0), (25.0, 0.0, 30.0, 9.0)])
    assert boxes_of(known, 0, "mass") == [(slice(3, 20), slice(0, 4))]


def test_a_mask_without_a_box_gives_the_least_box_around_it():
    known = reference((20, 20), None, (slice(4, 9), slice(2, 3)))
    assert boxes_of(known, 0, "mass") == [(slice(4, 9), slice(2, 3))]
    assert boxes_of(reference((20, 20), None), 0, "mass") == []


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
