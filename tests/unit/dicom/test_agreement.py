"""Our volumes against two independent readers, nibabel and SimpleITK (GDCM)."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from medvlp.archive.series import read_series
from medvlp.archive.verdict import Reject
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
