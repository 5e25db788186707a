"""Tilted and incomplete series, against functions of space whose value is known everywhere."""

import numpy as np
import pytest

from medvlp.archive.dicom.files import read_header
from medvlp.archive.series.grouping import group_series
from medvlp.archive.series.layout import lay_out
from medvlp.archive.series.policy import Policy, part_of
from medvlp.archive.series.read import read_series
from medvlp.archive.series.repair import Shear, fill_missing
from medvlp.archive.verdict import Reject

RESAMPLE = Policy(tilt="resample")
FILL = Policy(missing="interpolate")
SLOPE = 0.01
GRADIENT = np.array([0.7, -0.4, 1.1])
SPACING = (0.5, 0.75)
ROWS, COLUMNS = 14, 11


def linear(points_lps):
    """A value for each point (..., 3) that changes evenly in space: linear reading is exact."""
    return points_lps @ GRADIENT + 40


def sampled(function, origins, row, column):
    """Stored values of `function` at every pixel of slices at `origins`."""
    h, w = np.meshgrid(np.arange(ROWS), np.arange(COLUMNS), indexing="ij")
    inside = h[..., None] * SPACING[0] * column + w[..., None] * SPACING[1] * row
    values = np.array([function(origin + inside) for origin in origins])
    return np.rint(values / SLOPE).astype(np.int16)


def written(series, function, origins, row, column, **elements):
    return series(
        origins,
        sampled(function, np.asarray(origins, float), row, column),
        ImageOrientationPatient=[f"{x:.12f}" for x in (*row, *column)],
        RescaleSlope=SLOPE,
        RescaleIntercept=0,
        **elements,
    )


def places_lps(volume):
    """Where each voxel lies by the affine's word, in LPS mm, (D,H,W,3)."""
    index = np.stack(np.meshgrid(*map(np.arange, volume.hu_DHW.shape), indexing="ij"), -1)
    return (index @ volume.affine[:3, :3].T + volume.affine[:3, 3]) * [-1, -1, 1]


def assert_true_to_space(volume, function, least):
    """Every voxel that was scanned holds the value of the place the affine gives it."""
    inside = volume.hu_DHW > -1000  # air was put where nothing was scanned
    assert inside.sum() >= least * len(inside) * ROWS * COLUMNS
    expected = function(places_lps(volume))
    np.testing.assert_allclose(volume.hu_DHW[inside], expected[inside], atol=2 * SLOPE)


def tilted_axes(degrees, about="x"):
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    if about == "x":
        return np.array([1.0, 0, 0]), np.array([0, cos, -sin])
    return np.array([cos, 0, sin]), np.array([0.0, 1, 0])


@pytest.mark.parametrize("about", ["x", "y"])
@pytest.mark.parametrize("degrees", [-20, -3, 14.0, 27.5])
def test_a_tilt_is_undone_without_moving_anything(series, degrees, about):
    row, column = tilted_axes(degrees, about)
    origins = [np.array([-3.0, 5, -20 + 4 * k]) for k in range(6)]
    paths = written(series, linear, origins, row, column)
    with pytest.raises(Reject, match="gantry_tilt"):
        read_series(paths)
    volume = read_series(paths, RESAMPLE)
    cosines = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    np.testing.assert_allclose(cosines.T @ cosines, np.eye(3), atol=1e-9)
    assert volume.spacing_mm == pytest.approx((4 * np.cos(np.radians(degrees)), *SPACING))
    assert_true_to_space(volume, linear, least=12 / 14)
    assert {"tilt", "tilt_resampled"} <= {*volume.flags}
    assert len(volume.provenance.slices) == 6


def test_a_plane_of_the_patient_is_flat_again_after_the_tilt_is_undone(series):
    """A coronal plane, bright on one side: its edge must lie where the affine says, to 0.01 mm."""
    edge_mm = 8.3
    row, column = tilted_axes(17)

    def ramp(points_lps):
        return np.clip((points_lps[..., 1] - edge_mm) * 40, -60, 60)

    origins = [np.array([0.0, 4, 3 * k]) for k in range(5)]
    volume = read_series(written(series, ramp, origins, row, column), RESAMPLE)
    for plane_HW, places_mm in zip(volume.hu_DHW, places_lps(volume), strict=True):
        line, y_mm = plane_HW[:, 5], places_mm[:, 5, 1]
        steep = np.flatnonzero((line > -55) & (line < 55))
        assert len(steep) > 1
        crossing = np.interp(0, line[steep], y_mm[steep])
        assert crossing == pytest.approx(edge_mm, abs=0.01)


def test_a_whole_pixel_s_shift_copies_values_as_they_are():
    plane = np.arange(12, dtype=np.float32).reshape(4, 3)
    shear = Shear.over(row_shift=-1.0, column_shift=2.0, depth=3)
    assert shear.shape((3, 4, 3)) == (3, 6, 7)
    for place, (h, w) in enumerate([(2, 0), (1, 2), (0, 4)]):
        moved = shear.apply(plane, place, fill=-1)
        np.testing.assert_array_equal(moved[h : h + 4, w : w + 3], plane)
        assert (moved == -1).sum() == moved.size - plane.size


def test_small_drift_is_no_tilt_and_stays_in_the_affine(series):
    row, column = tilted_axes(0.2)
    origins = [np.array([0.0, 0, 2.0 * k]) for k in range(4)]
    volume = read_series(written(series, linear, origins, row, column))
    assert volume.hu_DHW.shape == (4, ROWS, COLUMNS)
    assert_true_to_space(volume, linear, least=1)


def test_a_small_tilt_of_a_long_series_is_found_by_its_drift(series):
    row, column = tilted_axes(0.4)
    origins = [np.array([0.0, 0, 5.0 * k]) for k in range(60)]
    with pytest.raises(Reject, match="gantry_tilt"):
        read_series(written(series, linear, origins, row, column))


@pytest.mark.parametrize("lost", [(3,), (2, 3), (1, 4), (2, 3, 4)])
def test_missing_slices_are_filled_where_asked_and_lie_in_place(series, lost):
    row, column = tilted_axes(0)
    origins = [np.array([1.0, 2, 3 * k]) for k in range(8) if k not in lost]
    paths = written(series, linear, origins, row, column)
    with pytest.raises(Reject) as verdict:
        read_series(paths)
    assert verdict.value.code == "spacing_gap"
    assert f"{len(lost)} slices missing" in verdict.value.message
    volume = read_series(paths, FILL)
    assert volume.hu_DHW.shape == (8, ROWS, COLUMNS)
    assert volume.spacing_mm[0] == pytest.approx(3)
    assert_true_to_space(volume, linear, least=1)
    filled = [i for i, source in enumerate(volume.provenance.slices) if source is None]
    assert filled == list(lost)
    assert {"spacing_gap", "interpolated_slices"} <= {*volume.flags}
    assert Policy.of(volume.flags) == FILL


def test_too_wide_a_hole_is_never_filled(series):
    paths = series([(0, 0, 2 * k) for k in range(12) if k not in (4, 5, 6, 7)])
    with pytest.raises(Reject, match="spacing_gap"):
        read_series(paths, FILL)


def test_a_tilted_series_with_a_hole_is_mended_in_both_ways(series):
    row, column = tilted_axes(11)
    origins = [np.array([0.0, 0, 2 * k]) for k in (0, 1, 2, 4, 5)]
    paths = written(series, linear, origins, row, column)
    volume = read_series(paths, Policy(missing="interpolate", tilt="resample"))
    assert volume.spacing_mm[0] == pytest.approx(2 * np.cos(np.radians(11)))
    inside = volume.hu_DHW > -1000
    # Rows that one neighbour of the filled slice lacks are blended with air: leave them out.
    inside[3] &= inside[2] & inside[4] & (volume.hu_DHW[3] > -100)
    expected = linear(places_lps(volume))
    np.testing.assert_allclose(volume.hu_DHW[inside], expected[inside], atol=2 * SLOPE)


def test_a_series_is_split_at_its_holes_where_asked(series):
    heights = [0, 2, 4, 6, 14, 16, 18, 40]
    paths = series([(0, 0, z) for z in heights], AcquisitionNumber=1)
    split = Policy(missing="split")
    groups = group_series(map(read_header, paths), split)
    assert [len(group.slices) for group in groups] == [4, 3, 1]
    layouts = [lay_out(group, split) for group in groups[:2]]
    assert [layout.spacing_mm[0] for layout in layouts] == pytest.approx([2, 2])
    assert all("split_at_gap" in layout.flags for layout in layouts)
    # Reading one side later needs its files and flags alone.
    again = read_series(layouts[1].paths, Policy.of(layouts[1].flags), part_of(layouts[1].flags))
    np.testing.assert_allclose(again.affine, layouts[1].affine)
    with pytest.raises(Reject, match="too_few_slices"):
        lay_out(groups[2], split)


def test_filling_is_linear_between_the_slices_on_both_sides():
    values = np.zeros((5, 1, 1), np.float32)
    values[0], values[4] = 10, 30
    fill_missing(values, [0, 4])
    assert values.ravel().tolist() == [10, 15, 20, 25, 30]
