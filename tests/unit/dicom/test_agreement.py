"""Our volumes against two independent readers, nibabel and SimpleITK (GDCM)."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK

from medvlp.archive.dicom.files import read_header, read_planes
from medvlp.archive.series.grouping import group_series
from medvlp.archive.series.layout import lay_out, survey
from medvlp.archive.series.policy import Policy
from medvlp.archive.series.qc import examine_series
from medvlp.archive.series.read import read_headers, read_series
from medvlp.archive.verdict import Ignore, Reject
from medvlp_volumetric.nifti import read_nifti


def with_simpleitk(paths):
    """(D,H,W) values and the affine from (d,h,w,1) to RAS mm."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in paths])
    image = reader.Execute()
    columns = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine = np.eye(4)
    affine[:3, :3] = columns[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image), np.diag([-1, -1, 1, 1]) @ affine


def assert_same_volume(paths):
    ours = read_series(paths)
    ordered = sorted(paths, key=lambda p: place_along_normal(p))
    values, affine = with_simpleitk(ordered)
    np.testing.assert_allclose(ours.affine, affine, atol=1e-3)
    np.testing.assert_array_equal(ours.hu_DHW, values)


def place_along_normal(path):
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    direction = np.array(reader.GetDirection()).reshape(3, 3)
    return float(np.dot(reader.GetOrigin(), np.cross(direction[:, 0], direction[:, 1])))


@pytest.mark.parametrize("slope", [1, 2])
def test_an_oblique_series_agrees_with_simpleitk(series, slope):
    cos, sin = np.cos(0.3), np.sin(0.3)
    row, column, normal = (cos, sin, 0), (0, 0, -1), (-sin, cos, 0)
    paths = series(
        [5 + 3 * k * np.array(normal) for k in range(5)],
        ImageOrientationPatient=[f"{x:.10f}" for x in (*row, *column)],
        RescaleSlope=slope,
    )
    assert_same_volume(paths)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL"])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti_agrees_with_nibabel(tmp_path, codes, name):
    rng = np.random.default_rng(0)
    values = rng.integers(-1000, 1000, (4, 5, 6)).astype(np.int16)
    image = nib.Nifti1Image(values, np.array(
        [[2, 0.1, 0, -7], [-0.1, 2, 0, 5], [0, 0, 3, 1], [0, 0, 0, 1.0]]
    ))  # fmt: skip
    image.header.set_slope_inter(1, 0)
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
        )
    )
    nib.save(turned, tmp_path / name)
    ours = read_nifti(tmp_path / name)
    assert ours.axcodes == codes
    canonical = ours.canonical()
    reference = nib.as_closest_canonical(turned)  # RAS: mirror two axes to reach LPS
    np.testing.assert_array_equal(
        canonical.hu_DHW, reference.get_fdata()[::-1, ::-1].transpose(2, 1, 0)
    )
    corner = reference.affine @ [3, 4, 0, 1]
    np.testing.assert_allclose(canonical.affine[:, 3], corner, atol=1e-4)


@pytest.mark.parametrize("name", ["ct-cip/ct-64Dicom", "ct-totalseg/example_ct_dicom"])
def test_real_ct_series_agree_with_simpleitk(shared, name):
    assert_same_volume(sorted((shared / "data" / name).glob("*.dcm")))


def test_the_real_dicom_series_is_its_nrrd(shared):
    folder = shared / "data/ct-cip"
    ours = read_series(sorted((folder / "ct-64Dicom").glob("*.dcm"))).canonical()
    image = SimpleITK.ReadImage(str(folder / "ct-64.nrrd"))
    np.testing.assert_allclose(ours.spacing_mm, image.GetSpacing()[::-1], atol=0.01)
    np.testing.assert_array_equal(ours.hu_DHW, SimpleITK.GetArrayFromImage(image))


@pytest.mark.parametrize(
    "name",
    [
        "example_ct.nii.gz",
        "example_ct_sm.nii.gz",
        "aorta_report/test_result/models/ct_cropped.nii.gz",
        "pulmonary_report/models/ct_cropped.nii.gz",
    ],
)
def test_real_nifti_volumes_agree_with_nibabel(shared, name):
    path = shared / "data/ct-totalseg" / name
    canonical = read_nifti(path).canonical()
    reference = nib.as_closest_canonical(nib.load(path))
    assert "".join(nib.aff2axcodes(canonical.affine_whd)) == "LPS"
    np.testing.assert_array_equal(
        canonical.hu_DHW, np.asarray(reference.dataobj, np.float32)[::-1, ::-1].transpose(2, 1, 0)
    )
    assert canonical.flags == ()


AWKWARD = {
    "failing/gantrytilting/001": "gantry_tilt",
    "failing/notavolume/001": "constant_position",
    "failing/slicecount/001": (1, 1, 1),
    "failing/sliceincrement/001": "spacing_gap",
    "failing/sliceincrement/002": "spacing_gap",
    "failing/sliceorientation/001": "mixed_series",
    "ge/anatomical/001_single_slice": "too_few_slices",
    "generic/anatomical/002_non_isotropic": (0.5, 4, 6.4),
    "generic/compressed/001": (1, 1, 1),
    "generic/compressed_j2k/001": (1, 1, 1),
    "generic/compressed_jpeg/001": (1, 1, 1),
    "generic/compressed_jpegls/001": (1, 1, 1),
    "generic/compressed_rle/001": (1, 1, 1),
    "generic/rgb/001": "colour",
    "hyperfine/anatomical/001": (5, 1.61, 1.59),
    "philips_enhanced/anatomical/001": (1.2, 1, 1),
    "siemens_multiframe/anatomical/001": (0.9, 0.9375, 0.9375),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_real_series_have_the_right_spacing_or_the_right_code(shared, name):
    paths = sorted((Path(shared) / "data/dicom2nifti-awkward" / name).rglob("*.dcm"))
    expected = AWKWARD[name]
    if isinstance(expected, str):
        with pytest.raises(Reject) as verdict:
            read_series(paths)
        assert verdict.value.code == expected
    else:
        assert read_series(paths).spacing_mm == pytest.approx(expected, abs=0.01)


def test_all_compressed_copies_of_the_real_series_are_one_volume(shared):
    folder = shared / "data/dicom2nifti-awkward/generic"
    volumes = [
        read_series(sorted((folder / f"compressed{kind}/001").rglob("*.dcm"))).hu_DHW
        for kind in ("", "_j2k", "_jpeg", "_jpegls", "_rle")
    ]
    for volume in volumes[1:]:
        np.testing.assert_array_equal(volume, volumes[0])


PYDICOM = Path(pydicom.__file__).parent / "data/test_files/dicomdirtests"


def bundled(name):
    """The files of one of pydicom's own series; skips where the package came without them."""
    if not (PYDICOM / name).is_dir():
        pytest.skip("pydicom came without its test files")
    return sorted((PYDICOM / name).iterdir())


def test_pydicom_s_own_series():
    good = read_series(bundled("98892001/CT5N"))
    assert good.spacing_mm == pytest.approx((2.5, 0.488281, 0.488281), abs=1e-6)
    assert good.hu_DHW.shape == (5, 16, 16)
    with pytest.raises(Ignore, match="localizer"):
        read_series(bundled("98892001/CT2N"))
    torn = bundled("77654033/CT2")
    for policy in (Policy(), Policy(missing="interpolate")):
        with pytest.raises(Reject) as verdict:
            read_series(torn, policy)
        assert verdict.value.code == "spacing_gap"
        assert verdict.value.message.startswith("202.50 mm in a series of 1.25 mm")
    parts = [finding.qc for finding in examine_series(torn, Policy(missing="split"))]
    assert [part["verdict"] for part in parts] == ["REJECT:too_few_slices", "accept"]
    assert parts[1]["volume"]["spacing_mm"] == [1.25, 0.488, 0.488]


@pytest.mark.parametrize(
    ("name", "spacing_mm", "missing"),
    [
        ("gantrytilting/001", 5 * 0.970295726276, ()),
        ("sliceincrement/001", 5.0, (3,)),
        ("sliceincrement/002", 0.778 * 0.96363045320862, (3,)),
    ],
)
def test_real_failing_series_are_mended_to_the_millimetre(shared, name, spacing_mm, missing):
    """Each scanned slice lies in the plane, and shifted by as much, as its own header says."""
    paths = sorted((shared / "data/dicom2nifti-awkward/failing" / name).glob("*.dcm"))
    volume = read_series(paths, Policy(missing="interpolate", tilt="resample"))
    assert volume.spacing_mm[0] == pytest.approx(spacing_mm, abs=1e-3)
    filled = [i for i, source in enumerate(volume.provenance.slices) if source is None]
    assert tuple(filled) == missing
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    shifts = []
    for place, source in enumerate(volume.provenance.slices):
        if source is None:
            continue
        header = read_header(volume.provenance.files[source[0]])
        position = np.append(np.array(header.planes[0].position) * [-1, -1, 1], 1)
        d, h, w, _ = np.linalg.solve(volume.affine, position)
        assert d == pytest.approx(place, abs=1e-3)
        assert w == pytest.approx(0, abs=1e-3)
        shifts.append(h)
        whole = read_planes(header.path)[0]
        # The slice's own pixels, moved by that many rows, linearly.
        rows = np.arange(round(h + 0.5) + 2, round(h - 0.5) + len(whole) - 2)
        at = rows - h
        low = np.floor(at + 1e-5).astype(int)
        part = np.float32(at - low)[:, None]
        expected = (1 - part) * whole[low] + part * whole[low + 1]
        np.testing.assert_allclose(volume.hu_DHW[place][rows], expected, atol=0.5)
    assert min(shifts) == pytest.approx(0, abs=1)


def test_real_series_mixed_in_one_folder_are_parted(shared):
    files = [
        *(shared / "data/ct-totalseg/example_ct_dicom").glob("*.dcm"),
        *(shared / "data/ct-cip/ct-64Dicom").glob("*.dcm"),
    ]
    findings = examine_series(files[::-1])
    assert sorted(f.qc["volume"]["spacing_mm"][0] for f in findings) == [2.0, 3.987]
    assert [f.qc["verdict"] for f in findings] == ["accept", "accept"]
    for finding in findings:
        assert finding.qc["values"]["air_peak_hu"] == pytest.approx(-1000, abs=60)
        assert not {"no_air_peak", "no_tissue_peak", "padding_clamped"} & {*finding.flags}


@pytest.mark.parametrize("lost", [1, 9, 17])
def test_a_slice_taken_from_a_real_series_is_missed_and_found_by_its_number(shared, lost):
    headers = read_headers(sorted((shared / "data/ct-totalseg/example_ct_dicom").glob("*.dcm")))
    order = lay_out(group_series(headers)[0]).paths
    (torn,) = group_series(header for header in headers if header.path != order[lost])
    spacing = survey(torn).spacing
    assert (spacing.kind, spacing.missing) == ("missing", (lost,))
    with pytest.raises(Reject) as verdict:
        lay_out(torn)
    assert verdict.value.message.startswith("4.00 mm in a series of 2.00 mm")
