import numpy as np
import pytest
from matplotlib.path import Path as Outline

from medvlp.data.regions import fault_of, mask_runs, region_mask

SHAPE = (20, 30)


def centres():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    return x, y


def test_a_box_has_exclusive_far_edges():
    mask = region_mask("box", (2, 3, 5, 4), SHAPE)
    assert np.argwhere(mask).tolist() == [[3, 2], [3, 3], [3, 4]]
    assert region_mask("box", (-9, -9, 99, 99), SHAPE).all()
    assert not region_mask("box", (40, 40, 50, 50), SHAPE).any()


def test_triangles_agree_with_an_independent_point_test():
    rng = np.random.default_rng(0)
    x, y = centres()
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    for _ in range(100):
        corners = rng.uniform(-3, 33, (3, 2))
        inside = Outline(corners).contains_points(points).reshape(SHAPE)
        np.testing.assert_array_equal(region_mask("polygon", corners.ravel(), SHAPE), inside)


def test_a_polygon_that_crosses_itself_is_even_odd():
    # A square drawn around twice encloses nothing twice over.
    square = [2, 2, 12, 2, 12, 12, 2, 12]
    assert region_mask("polygon", square, SHAPE).sum() == 100
    assert not region_mask("polygon", square * 2, SHAPE).any()


def test_polygons_beside_each_other_share_no_pixel():
    left = region_mask("polygon", [0, 0, 10.5, 0, 10.5, 20, 0, 20], SHAPE)
    right = region_mask("polygon", [10.5, 0, 30, 0, 30, 20, 10.5, 20], SHAPE)
    assert not (left & right).any()
    assert (left | right).all()


def test_runs_give_any_mask_back():
    rng = np.random.default_rng(1)
    for share in (0, 0.1, 0.5, 1):
        mask = rng.random(SHAPE) < share
        geometry = mask_runs(mask)
        assert fault_of("runs", geometry) == ""
        np.testing.assert_array_equal(region_mask("runs", geometry, SHAPE), mask)
    with pytest.raises(ValueError, match="20 x 30"):
        region_mask("runs", mask_runs(mask), (30, 20))


@pytest.mark.parametrize(
    ("kind", "geometry"),
    [
        ("mask", (1,)),
        ("box", (1, 1, 1, 2)),
        ("ellipse", (0, 0, 1)),
        ("polygon", (0, 0, 1, 1)),
        ("polygon", (0, 0, 1, 1, 2, float("inf"))),
        ("runs", (0, 5)),
        ("runs", (2, 2, 0, 0)),
        ("runs", (2, 2, 0, 5)),
        ("runs", (2, 2, 1, 2, 2, 1)),
        ("runs", (2, 2, 0.5, 1)),
        ("runs", (2,)),
    ],
)
def test_a_wrong_geometry_is_named(kind, geometry):
    assert fault_of(kind, geometry)
    with pytest.raises(ValueError, match=f"a region of kind {kind}"):
        region_mask(kind, geometry, SHAPE)
