"""Which slices make one volume: phases, copies, stripped identifiers, strays and bad numbers."""

import time
from dataclasses import replace

import numpy as np
import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from medvlp.archive.dicom.files import read_header
from medvlp.archive.series.grouping import group_series
from medvlp.archive.series.layout import lay_out
from medvlp.archive.series.marks import MARKS
from medvlp.archive.series.policy import Policy, part_of
from medvlp.archive.series.read import read_series
from medvlp.archive.series.spacing import measure
from medvlp.archive.verdict import Ignore, Reject, Verdict

AXIAL = [(0, 0, 3.0 * k) for k in range(6)]


def groups_of(paths, policy=None):
    return group_series(map(read_header, paths), policy or Policy())


def verdicts_of(paths):
    """For each group, its spacing along D or its code, sorted as text."""
    found = []
    for group in groups_of(paths):
        try:
            found.append(f"{lay_out(group).spacing_mm[0]:.2f}")
        except Verdict as verdict:
            found.append(verdict.code)
    return sorted(found)


def phases(series, count, **marks):
    """`count` stacks over the same places; each of `marks` maps (phase, slice) to a value."""
    rng = np.random.default_rng(7)
    paths = []
    for phase in range(count):
        volume = rng.integers(0, 2000, (len(AXIAL), 6, 5)).astype(np.int16)
        per_slice = {
            k: {name: value(phase, k) for name, value in marks.items()} for k in range(len(AXIAL))
        }
        paths += series(AXIAL, volume, per_slice, folder=f"phase{phase}")
    return paths


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TemporalPositionIdentifier", lambda phase, k: phase + 1),
        ("TriggerTime", lambda phase, k: 100 * phase),
        ("ConvolutionKernel", lambda phase, k: ["B30f", "B70f", "I26"][phase]),
        ("ContrastBolusAgent", lambda phase, k: ["", "agent", "other"][phase]),
        ("EchoTime", lambda phase, k: 10 + phase),
        ("KVP", lambda phase, k: 80 + 20 * phase),
        ("AcquisitionNumber", lambda phase, k: phase),
        ("AcquisitionTime", lambda phase, k: f"10150{phase}"),
        ("ImageType", lambda phase, k: ["ORIGINAL", "PRIMARY", "AXIAL", "ABC"[phase]]),
        # Sequential scanning: time and number rise with every slice of every pass.
        ("AcquisitionTime", lambda phase, k: f"10{phase:02d}{k:02d}"),
        ("AcquisitionNumber", lambda phase, k: 10 * phase + k),
        # The second phase runs back down.
        ("AcquisitionTime", lambda phase, k: f"10{phase:02d}{(k if phase != 1 else 9 - k):02d}"),
    ],
)
@pytest.mark.parametrize("count", [2, 3])
def test_phases_in_one_series_become_volumes_of_their_own(series, name, value, count):
    paths = phases(series, count, **{name: value})
    groups = groups_of(paths)
    assert [len(group.slices) for group in groups] == [len(AXIAL)] * count
    for group in groups:
        assert len({path.parent for path in group.paths}) == 1
        assert lay_out(group).spacing_mm[0] == pytest.approx(3)
    with pytest.raises(Reject, match="mixed_series"):
        read_series(paths)


def test_two_kernels_of_two_phases_become_four_volumes(series):
    paths = phases(
        series,
        4,
        ConvolutionKernel=lambda phase, k: "AB"[phase % 2],
        TemporalPositionIdentifier=lambda phase, k: phase // 2,
    )
    assert [len(group.slices) for group in groups_of(paths)] == [6] * 4


def test_phases_that_nothing_tells_apart_are_refused(series):
    assert verdicts_of(phases(series, 2)) == ["duplicate_position"]


def test_a_rotation_s_number_does_not_cut_a_scan_to_pieces(series):
    """Axial scanning: four slices a rotation. One of them is there twice, with other pixels."""
    turns = {k: {"AcquisitionNumber": k // 2} for k in range(6)}
    paths = series(AXIAL, per_slice=turns)
    assert verdicts_of(paths) == ["3.00"]
    rival = series([AXIAL[1]], np.full((1, 6, 5), 7, np.int16), folder="r", AcquisitionNumber=0)
    assert verdicts_of([*paths, *rival]) == ["duplicate_position"]


def test_a_stray_slice_of_another_acquisition_is_set_aside(series):
    paths = series(AXIAL, AcquisitionNumber=1)
    stray = series([AXIAL[2]], np.full((1, 6, 5), 7, np.int16), folder="stray", AcquisitionNumber=2)
    assert verdicts_of([*paths, *stray]) == ["3.00", "too_few_slices"]


def test_equal_slices_of_two_phases_are_no_copies(series):
    """Beyond the body both phases are air: dropping one would tear a hole into its phase."""
    rng = np.random.default_rng(3)
    paths = []
    for phase in range(2):
        volume = rng.integers(0, 2000, (6, 6, 5)).astype(np.int16)
        volume[[1, 5]] = 24
        paths += series(AXIAL, volume, folder=f"p{phase}", TemporalPositionIdentifier=phase)
    groups = groups_of(paths)
    assert [len(group.slices) for group in groups] == [6, 6]
    assert not any(group.repeated for group in groups)


def test_a_series_that_is_there_twice_is_one(series):
    volume = np.random.default_rng(5).integers(0, 99, (6, 6, 5)).astype(np.int16)
    first = series(AXIAL, volume, AcquisitionNumber=1)
    again = series(AXIAL, volume, folder="again", AcquisitionNumber=2)
    (group,) = groups_of([*first, *again])
    assert (len(group.slices), len(group.repeated), group.flags) == (6, 6, ("repeated_slice",))


def test_interleaved_reconstructions_are_parted_but_a_scan_with_a_hole_is_not(series):
    soft = series(AXIAL, ConvolutionKernel="B30")
    sharp = series(
        [(0, 0, 3.0 * k + 1.1) for k in range(6)], folder="sharp", ConvolutionKernel="B70"
    )
    assert verdicts_of([*soft, *sharp]) == ["3.00", "3.00"]
    heights = [0, 5, 10, 20]  # as in the real series: acquisitions 4, 4, 5, 5
    marks = {k: {"AcquisitionNumber": 4 + k // 2} for k in range(4)}
    torn = series([(0, 0, z) for z in heights], per_slice=marks, folder="torn")
    assert verdicts_of(torn) == ["spacing_gap"]


def test_two_fields_of_view_of_one_scan_are_two_volumes(series):
    first = series(AXIAL)
    other = np.random.default_rng(9).integers(0, 99, (6, 6, 5)).astype(np.int16)
    shifted = series([(40, -25, z) for _, _, z in AXIAL], other, folder="shifted")
    assert verdicts_of([*first, *shifted]) == ["3.00", "3.00"]


def test_bolus_tracking_is_no_volume(series):
    marks = {k: {"AcquisitionNumber": 15 - k} for k in range(4)}
    assert verdicts_of(series([(0, 0, 61.5)] * 4, per_slice=marks)) == ["constant_position"]


@pytest.mark.parametrize("stated", ["LOCALIZER", "SCOUT"])
def test_scouts_dose_sheets_and_screens_leave_the_volume_alone(series, dicom, stated):
    paths = series(AXIAL)
    scout = dicom("scout.dcm", ImageType=["ORIGINAL", "PRIMARY", stated])
    nowhere = {"ImagePositionPatient": None, "ImageOrientationPatient": None}
    sheet = dicom("dose.dcm", SOPClassUID=SecondaryCaptureImageStorage, **nowhere)
    screen = dicom("screen.dcm", ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"], **nowhere)
    found = verdicts_of([*paths, scout, sheet, screen])
    assert sorted({*found}) == ["3.00", "localizer", "secondary_capture"]
    volume = read_series([*paths, scout, sheet, screen])
    assert volume.hu_DHW.shape == (6, 6, 5)


def test_unrelated_series_in_a_folder_without_identifiers(series):
    stripped = {"StudyInstanceUID": "", "SeriesInstanceUID": "", "SOPClassUID": ""}
    one = series(AXIAL, SeriesNumber=2, **stripped)
    two = series(
        [(0, 0, 100 + 2 * k) for k in range(4)], None, None, "t", SeriesNumber=3, **stripped
    )
    two = [path.rename(one[0].with_name(f"t{path.name}")) for path in two]
    assert verdicts_of([*one, *two]) == ["2.00", "3.00"]


def test_a_series_spread_over_folders_is_one(series):
    low = series(AXIAL[:3], folder="a")
    high = series(AXIAL[3:], folder="b/c")
    assert verdicts_of([*high, *low]) == ["3.00"]


def test_other_matrices_in_a_series_are_flagged(series):
    whole = series(AXIAL)
    wide = series([AXIAL[2]], np.zeros((1, 3, 10), np.int16), folder="wide")
    groups = groups_of([*whole, *wide])
    assert [group.flags for group in groups] == [("mixed_matrix",)] * 2
    assert verdicts_of([*whole[:2], *whole[3:], *wide]) == ["spacing_gap", "too_few_slices"]


@pytest.mark.parametrize("first", [0, -450.5, 1000])
@pytest.mark.parametrize(
    ("step", "digits", "count"), [(0.7, 3, 60), (0.625, 2, 40), (1 / 3, 4, 30), (0.8, 1, 30)]
)
def test_positions_rounded_by_the_scanner_are_even(series, first, step, digits, count):
    paths = series([(0, 0, round(first + step * k, digits)) for k in range(count)])
    assert read_series(paths).spacing_mm[0] == pytest.approx(step, abs=0.01)


def test_odd_ways_to_write_a_position(series, dicom):
    paths = [
        dicom(f"{k}.dcm", ImagePositionPatient=["-0.0", "1.25E+01", z], InstanceNumber=None)
        for k, z in enumerate(["-2.5e+00", "-0.0", "2.5", "+5.0"])
    ]
    volume = read_series(paths)
    assert volume.spacing_mm[0] == pytest.approx(2.5)
    np.testing.assert_allclose(volume.affine[:3, 3], [0, -12.5, -2.5])


def test_orientation_rounded_slice_by_slice(series):
    cos, sin = np.cos(0.3), np.sin(0.3)
    rounded = {
        k: {"ImageOrientationPatient": [f"{x:.{3 + k % 4}f}" for x in (cos, sin, 0, -sin, cos, 0)]}
        for k in range(6)
    }
    assert verdicts_of(series(AXIAL, per_slice=rounded)) == ["3.00"]


def test_numbers_and_locations_that_lie_are_not_believed(series):
    lies = {
        k: {"InstanceNumber": 7 * k % 5, "SliceLocation": 100 - k, "SliceThickness": 9}
        for k in range(6)
    }
    volume = np.random.default_rng(0).integers(0, 99, (6, 6, 5)).astype(np.int16)
    got = read_series(series(AXIAL, volume, lies, GantryDetectorTilt=20))
    np.testing.assert_array_equal(got.hu_DHW, volume - 1024)
    assert got.spacing_mm[0] == pytest.approx(3)


@pytest.mark.parametrize(
    ("heights", "kind", "gap", "missing"),
    [
        ([0, 2, 4, 6], "regular", 2, ()),
        ([0, 2.02, 4, 6.01], "regular", 2.01, ()),
        ([0, 2, 4, 8, 10, 16], "missing", 2, (3, 6, 7)),
        ([0, 5, 15], "missing", 5, (2,)),
        ([0, 5, 10, 13], "irregular", 5, ()),
        ([0, 5, 10, 20.4], "irregular", 5, ()),
        # The posterior fossa at 2.5 mm, then the rest of the head at 5 mm: nothing is missing.
        ([0, 2.5, 5, 7.5, 10, 12.5, 17.5, 22.5, 27.5], "irregular", 2.5, ()),
        ([0, 5, 10, 15, 17.5, 20, 22.5, 25, 27.5, 30], "irregular", 2.5, ()),
        # Every other slice lost in the middle is a loss, not another spacing.
        ([0, 1, 2, 3, 5, 7, 9, 10, 11, 12], "missing", 1, (4, 6, 8)),
    ],
)
def test_spacing_says_what_is_missing(heights, kind, gap, missing):
    found = measure(heights)
    assert (found.kind, found.missing) == (kind, missing)
    assert found.gap_mm == pytest.approx(gap, abs=0.011)


def test_overlapping_reconstruction_is_regular(series):
    assert verdicts_of(series([(0, 0, 0.4 * k) for k in range(9)], SliceThickness=5)) == ["0.40"]


def test_one_per_cent_off_is_accepted_and_said(series):
    paths = series([(0, 0, z) for z in (0, 5, 10.05, 15, 20)])
    volume = read_series(paths)
    assert volume.spacing_mm[0] == pytest.approx(5)
    assert volume.flags == ("uneven_spacing",)


@pytest.mark.parametrize("flip", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
@pytest.mark.parametrize(("row", "column"), [(0, 1), (1, 2), (0, 2), (2, 0)])
def test_any_way_a_patient_lies_ends_in_one_canonical_volume(series, row, column, flip):
    """Axial, sagittal, coronal; supine or prone; feet or head first: one corner of the patient
    is bright, and is found in the same corner of the canonical volume."""
    axes = np.eye(3)
    r, c = axes[row] * flip[0], axes[column] * flip[1]
    n = np.cross(r, c)
    volume = np.zeros((5, 6, 5), np.int16)
    origins = [2 * k * n for k in range(5)]
    points = [
        [[o + h * 0.5 * c + w * 0.75 * r for w in range(5)] for h in range(6)] for o in origins
    ]
    towards_left_back_head = np.array(points) @ [1, 1, 1]
    volume.flat[int(towards_left_back_head.argmax())] = 999
    got = read_series(
        series(
            [tuple(o) for o in origins][::-1],
            volume[::-1],
            ImageOrientationPatient=[float(x) for x in (*r, *c)],
        )
    ).canonical()
    assert got.axcodes == "LPS"
    where = np.argwhere(got.hu_DHW == 999 - 1024).tolist()
    assert where == [[n - 1 for n in got.hu_DHW.shape]]
    assert got.provenance.steps[-1] == "oriented_LPS"


def test_a_plane_s_flags_choose_its_part_again():
    assert part_of(["x", "part_12"]) == 12
    assert part_of(["part_0", "part_x", "apart_1"]) == 0


def test_no_image_at_all(tmp_path, dicom):
    sr = dicom("sr.dcm", Rows=None, Columns=None, pixel_bytes=None)
    with pytest.raises(Ignore, match="no_pixels"):
        read_series([sr])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"position": (0.0, 1e300, 0.0)}, "no_geometry"),
        ({"orientation": (1e200, 0, 0, 0, 1e200, 0)}, "bad_orientation"),
        ({"orientation": (0.0,) * 6}, "bad_orientation"),
        ({"spacing": (1e9, 1e9)}, "bad_spacing"),
    ],
)
def test_places_beyond_all_measure_are_refused(series, change, code):
    headers = [read_header(path) for path in series(AXIAL)]
    headers = [replace(h, planes=(replace(h.planes[0], **change),)) for h in headers]
    for group in group_series(headers):
        with pytest.raises(Reject) as verdict:
            lay_out(group)
        assert verdict.value.code == code


def frames(dicom, planes):
    header = read_header(dicom())
    made = tuple(replace(header.planes[0], **plane) for plane in planes)
    return replace(header, planes=made, frames=len(made))


def test_a_hostile_file_s_frames_cost_little_time(dicom):
    """Thousands of frames in one place, in as many directions, or a light year apart."""
    rng = np.random.default_rng(0)
    turned = rng.normal(size=(1500, 6))
    turned[:, :3] /= np.linalg.norm(turned[:, :3], axis=1, keepdims=True)
    turned[:, 3:] /= np.linalg.norm(turned[:, 3:], axis=1, keepdims=True)
    several = [tuple(f"{k % m}" for m in range(2, 2 + len(MARKS))) for k in range(1500)]
    hostile = {
        "directions": [{"orientation": tuple(row.tolist())} for row in turned],
        "one place": [{"marks": marks} for marks in several],
        "distance": [{"position": (0, 0, z)} for z in (*np.linspace(0, 0.9, 80), 9e4)],
    }
    start = time.perf_counter()
    for planes in hostile.values():
        for group in group_series([frames(dicom, planes)]):
            with pytest.raises(Reject):
                lay_out(group)
    assert time.perf_counter() - start < 60
