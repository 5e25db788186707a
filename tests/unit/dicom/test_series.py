import numpy as np
import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from medvlp.archive.dicom.files import read_header
from medvlp.archive.series.grouping import group_series
from medvlp.archive.series.layout import lay_out
from medvlp.archive.series.policy import part_of
from medvlp.archive.series.read import read_series
from medvlp.archive.verdict import Ignore, Reject, Verdict

AXIAL = [(-10, -20, 30 + 2.5 * k) for k in range(5)]


def rotation(*degrees):
    """Rotations about x, y and z, one after another."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        cos, sin = np.cos(angle), np.sin(angle)
        a, b = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = cos
        turn[a, b], turn[b, a] = -sin, sin
        matrix = turn @ matrix
    return matrix


def code_of(paths):
    with pytest.raises(Verdict) as verdict:
        read_series(paths)
    return verdict.value.code


def test_slices_are_ordered_by_position_and_spaced_by_it(series):
    volume = np.random.default_rng(1).integers(0, 99, (5, 6, 5)).astype(np.int16)
    got = read_series(series(AXIAL, volume, SliceThickness=5, InstanceNumber=1))
    np.testing.assert_array_equal(got.hu_DHW, volume - 1024)
    assert got.spacing_mm == pytest.approx((2.5, 0.5, 0.75))
    assert got.axcodes == "LPS"
    # The centre of voxel (d,h,w) = (2,3,4), by hand: x = -10 + 4*0.75, y = -20 + 3*0.5, z = 35.
    np.testing.assert_allclose(got.affine @ [2, 3, 4, 1], [7, 18.5, 35, 1])


def test_order_of_files_and_of_acquisition_does_not_matter(series):
    volume = np.random.default_rng(1).integers(0, 99, (5, 6, 5)).astype(np.int16)
    up = read_series(series(AXIAL, volume))
    down = read_series(series(AXIAL[::-1], volume[::-1], folder="t")[::-1])
    np.testing.assert_array_equal(up.hu_DHW, down.hu_DHW)
    np.testing.assert_allclose(up.affine, down.affine)


def test_an_oblique_series_keeps_its_angles(series):
    turn = rotation(20, -10, 5)
    origin = np.array([3.0, -7, 11])
    paths = series(
        [origin + 4 * k * turn[:, 2] for k in range(4)],
        ImageOrientationPatient=[f"{x:.9f}" for x in [*turn[:, 0], *turn[:, 1]]],
    )
    got = read_series(paths)
    assert got.spacing_mm == pytest.approx((4, 0.5, 0.75), abs=1e-4)
    corner = origin + 3 * 4 * turn[:, 2] + 5 * 0.5 * turn[:, 1] + 4 * 0.75 * turn[:, 0]
    np.testing.assert_allclose((got.affine @ [3, 5, 4, 1])[:3], corner * [-1, -1, 1], atol=1e-3)


def test_a_repeated_slice_is_dropped_and_named(series):
    volume = np.random.default_rng(2).integers(0, 99, (5, 6, 5)).astype(np.int16)
    paths = series(AXIAL, volume)
    twin = series([AXIAL[2]], volume[2:3], folder="again")
    got = read_series([*paths, *twin])
    np.testing.assert_array_equal(got.hu_DHW, volume - 1024)
    assert got.spacing_mm[0] == pytest.approx(2.5)
    assert "repeated_slice" in got.flags


def test_two_different_slices_in_one_place_are_refused(series):
    paths = series(AXIAL)
    rival = series([AXIAL[2]], np.full((1, 6, 5), 7, np.int16), folder="rival")
    assert code_of([*paths, *rival]) == "duplicate_position"


def test_acquisitions_that_share_places_are_separate_volumes(series):
    first = series(AXIAL, AcquisitionNumber=1)
    second = series(AXIAL, np.ones((5, 6, 5), np.int16), folder="later", AcquisitionNumber=2)
    groups = group_series(map(read_header, [*first, *second]))
    assert sorted(len(group.slices) for group in groups) == [5, 5]
    assert code_of([*first, *second]) == "mixed_series"


def test_a_missing_slice_is_refused_in_millimetres(series):
    paths = series([(0, 0, z) for z in (0, 5, 10, 20)])
    with pytest.raises(Reject) as verdict:
        read_series(paths)
    assert verdict.value.code == "spacing_gap"
    assert verdict.value.message == "10.00 mm in a series of 5.00 mm: 1 slices missing (3)"


@pytest.mark.parametrize(
    ("positions", "code"),
    [
        ([(0, 0, z) for z in (0, 5, 15)], "spacing_gap"),  # not one 7.5 mm series
        ([(0, 0, z) for z in (0, 5, 10, 13)], "irregular_spacing"),
        ([(0, 0, 0), (0, 0, 202.5)], "spacing_gap"),
        ([(0, 0, 61.5)] * 4, "constant_position"),
        ([(0, 0, 0)], "too_few_slices"),
        ([(0, 0, 0), (0, 0, 2), (3, 0, 4), (0, 0, 6)], "irregular_position"),
    ],
)
def test_slices_that_make_no_volume_are_refused(series, positions, code):
    assert code_of(series(positions)) == code


def test_gantry_tilt_is_found_from_positions_without_its_tag(series):
    turn = rotation(-14, 0, 0)
    tilted = [f"{x:.9f}" for x in [*turn[:, 0], *turn[:, 1]]]
    paths = series([(0, 0, 5 * k) for k in range(4)], ImageOrientationPatient=tilted)
    with pytest.raises(Reject) as verdict:
        read_series(paths)
    assert (verdict.value.code, verdict.value.message) == ("gantry_tilt", "14.0 degrees")


def test_every_slice_has_its_own_rescale(series):
    stored = np.full((3, 6, 5), 10, dtype=np.int16)
    paths = series(AXIAL[:3], stored, {1: {"RescaleSlope": 3, "RescaleIntercept": -7}})
    got = read_series(paths)
    assert [float(plane[0, 0]) for plane in got.hu_DHW] == [-1014, 23, -1014]


def test_a_localizer_is_split_off(series):
    scout = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    paths = series([*AXIAL, (0, 0, 0)], per_slice={5: scout})
    got = read_series(paths)
    assert got.hu_DHW.shape == (5, 6, 5)
    assert "localizer_removed" in got.flags
    assert code_of(series(AXIAL[:2], folder="scouts", **scout)) == "localizer"


def test_mixed_orientations_and_matrices_are_separate_volumes(series, dicom):
    axial = series(AXIAL)
    coronal = {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}
    other = series([(0, 3 * k, 0) for k in range(4)], folder="cor", **coronal)
    small = series(AXIAL[:3], np.zeros((3, 4, 4), np.int16), folder="small")
    groups = group_series(map(read_header, [*axial, *other, *small]))
    assert sorted(len(group.slices) for group in groups) == [3, 4, 5]
    assert code_of([*axial, *other]) == "mixed_series"


def test_without_series_identifiers_a_folder_is_a_series(series):
    stripped = {"StudyInstanceUID": "", "SeriesInstanceUID": ""}
    paths = [*series(AXIAL, folder="a", **stripped), *series(AXIAL, folder="b", **stripped)]
    assert [len(group.slices) for group in group_series(map(read_header, paths))] == [5, 5]


def test_patients_and_screen_pictures_under_one_series_number_are_kept_apart(series):
    first = series(AXIAL)
    second = series(AXIAL, folder="other", PatientID="PAT-0043")
    sheet = {"SOPClassUID": SecondaryCaptureImageStorage, "ImagePositionPatient": None}
    (dose,) = series(AXIAL[:1], folder="dose", per_slice={0: sheet})
    groups = group_series(map(read_header, [*first, *second, dose]))
    assert [len(group.slices) for group in groups] == [5, 5, 1]
    with pytest.raises(Ignore, match="secondary_capture"):
        lay_out(groups[2])


def test_slices_without_a_place_make_no_volume(series):
    assert code_of(series(AXIAL, ImageOrientationPatient=None)) == "no_geometry"
    assert code_of(series(AXIAL, folder="z", ImageOrientationPatient=[0] * 6)) == "bad_orientation"
    assert code_of(series(AXIAL, folder="p", PixelSpacing=[0, 0])) == "bad_spacing"


def test_an_enhanced_file_is_read_frame_by_frame(enhanced):
    got = read_series([enhanced([(0, 0, z) for z in (6, 4, 2, 0)])])
    assert got.spacing_mm == pytest.approx((2, 0.5, 0.75))
    # Frames come in order of height: 3, 2, 1, 0 with slopes 4, 3, 2, 1.
    assert got.hu_DHW[:, 0, 0].tolist() == [3 * 4 - 5, 2 * 3 - 5, 1 * 2 - 5, -5]


def test_an_enhanced_file_with_several_frames_in_one_place_is_refused(enhanced):
    assert code_of([enhanced([(0, 0, 0), (0, 0, 2), (0, 0, 2)])]) == "duplicate_position"


TWICE = [(0, 0, 2.0 * k) for k in range(4)] * 2


@pytest.mark.parametrize(
    "content",
    [
        [{"TemporalPositionIndex": 1 + k // 4} for k in range(8)],
        [{"StackID": str(1 + k // 4), "InStackPositionNumber": 1 + k % 4} for k in range(8)],
        [{"DimensionIndexValues": [1 + k // 4, 1 + k % 4]} for k in range(8)],
        [{"FrameAcquisitionDateTime": f"20200101120{k}00"} for k in range(8)],
    ],
)
def test_several_volumes_in_one_enhanced_file_are_parted_and_found_again(enhanced, content):
    path = enhanced(TWICE, content)
    assert code_of([path]) == "mixed_series"
    groups = group_series([read_header(path)])
    assert [lay_out(group).flags for group in groups] == [
        ("part_1", "mixed_rescale"),
        ("part_2", "mixed_rescale"),
    ]
    for part, frames in ((1, range(4)), (2, range(4, 8))):
        volume = read_series([path], part=part_of([f"part_{part}"]))
        # A frame holds its number, and its slope is one more.
        assert volume.hu_DHW[:, 0, 0].tolist() == [k * (k + 1) - 5 for k in frames]
        assert volume.provenance.slices == tuple((0, k) for k in frames)


def test_a_volume_in_several_enhanced_files_is_one(enhanced):
    low = enhanced([(0, 0, 2.0 * k) for k in range(3)], name="low.dcm")
    high = enhanced([(0, 0, 6 + 2.0 * k) for k in range(3)], name="high.dcm")
    volume = read_series([high, low])
    assert volume.hu_DHW.shape[0] == 6
    assert volume.spacing_mm[0] == pytest.approx(2)


def test_a_layout_says_which_files_in_which_order(series):
    paths = series(AXIAL)
    layout = lay_out(group_series(map(read_header, paths))[0])
    assert layout.paths == tuple(paths)
    assert layout.shape == (5, 6, 5)
