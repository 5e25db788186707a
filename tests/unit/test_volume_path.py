"""Real CT from file to stored array, beside readers and resamplers that are not ours."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from medvlp_volumetric.preprocess import CtPreprocessConfig
from medvlp_volumetric.read import read_volume

CT = [
    "ct-totalseg/example_ct.nii.gz",
    "ct-totalseg/example_ct_sm.nii.gz",
    "ct-totalseg/aorta_report/test_result/models/ct_cropped.nii.gz",
    "ct-totalseg/pulmonary_report/models/ct_cropped.nii.gz",
    "ct-totalseg/example_ct_dicom",
    "ct-cip/ct-64Dicom",
    "dicom2nifti-awkward/failing/slicecount/001",
    "dicom2nifti-awkward/generic/compressed/001",
    "dicom2nifti-awkward/generic/compressed_j2k/001",
    "dicom2nifti-awkward/generic/compressed_jpeg/001",
    "dicom2nifti-awkward/generic/compressed_jpegls/001",
    "dicom2nifti-awkward/generic/compressed_rle/001",
]
"""Every CT of the shared data that makes a sound volume; `test_agreement` has those that do not."""

SHAPE = (40, 72, 90)
COARSER = (1.6, 1.3, 1.15)
"""The grid's spacing in voxels of the volume: less than 2, from which on we average."""


def files_of(shared, name):
    path = shared / "data" / name
    return sorted(path.rglob("*.dcm")) if path.is_dir() else [path]


def with_simpleitk(paths):
    """The volume, towards left, back and head."""
    if len(paths) == 1:
        image = SimpleITK.ReadImage(str(paths[0]), SimpleITK.sitkFloat32)
    else:
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(paths[0].parent)))
        image = SimpleITK.Cast(reader.Execute(), SimpleITK.sitkFloat32)
    return SimpleITK.DICOMOrient(image, "LPS")


def grid_of(image, spacing_mm):
    """The contract's grid on a volume, as SimpleITK would describe it: an empty image."""
    size, mm = np.array(image.GetSize()), np.array(image.GetSpacing())
    wanted = np.array(SHAPE[::-1])
    count = np.round(size * mm / spacing_mm[::-1])
    steps = size / count  # in voxels of the volume
    middle = np.sign(count - wanted) * (np.abs(count - wanted) // 2)
    first = (middle + 0.5) * steps - 0.5
    grid = SimpleITK.Image([int(n) for n in wanted], SimpleITK.sitkFloat32)
    grid.SetSpacing((steps * mm).tolist())
    grid.SetDirection(image.GetDirection())
    grid.SetOrigin(image.TransformContinuousIndexToPhysicalPoint(first.tolist()))
    return grid


@pytest.mark.parametrize("name", CT)
def test_real_ct_is_what_simpleitk_reads_turns_and_resamples(shared, name):
    paths = files_of(shared, name)
    volume, image = read_volume(paths), with_simpleitk(paths)
    canonical = volume.canonical()
    assert canonical.axcodes == "LPS"
    np.testing.assert_array_equal(canonical.hu_DHW, SimpleITK.GetArrayFromImage(image))
    np.testing.assert_allclose(canonical.spacing_mm, image.GetSpacing()[::-1], atol=1e-3)
    # SimpleITK's millimetres are towards left and back, ours towards right and front.
    corner = np.array(image.GetOrigin()) * (-1, -1, 1)
    np.testing.assert_allclose(canonical.affine[:3, 3], corner, atol=1e-3)

    spacing_mm = tuple(c * mm for c, mm in zip(COARSER, image.GetSpacing()[::-1], strict=True))
    contract = CtPreprocessConfig(spacing_mm=spacing_mm, shape=SHAPE)
    stored = contract.build().read(paths, flags=volume.flags)
    air = contract.window_hu[0]
    expected = SimpleITK.Resample(
        image, grid_of(image, spacing_mm), SimpleITK.Transform(), SimpleITK.sitkLinear, air
    )
    # Rounded to whole HU; float32 takes the rest, and takes more where noise is of 16 bits.
    reach = float(np.ptp(canonical.hu_DHW))
    np.testing.assert_allclose(
        stored, SimpleITK.GetArrayFromImage(expected), atol=0.5 + 2e-5 * reach, rtol=0
    )
    assert stored.dtype == np.int16


@pytest.mark.parametrize("name", [name for name in CT if name.endswith(".nii.gz")])
def test_real_nifti_keeps_every_voxel_that_nibabel_has(shared, name):
    """At the volume's own spacing and size the stored array is the file's own values."""
    (path,) = files_of(shared, name)
    image = nib.as_closest_canonical(nib.load(path))
    values_DHW = np.asarray(image.dataobj, np.float32)[::-1, ::-1].transpose(2, 1, 0)
    mm = tuple(float(x) for x in image.header.get_zooms()[::-1])
    contract = CtPreprocessConfig(spacing_mm=mm, shape=values_DHW.shape)
    np.testing.assert_array_equal(contract.build().read([path]), np.rint(values_DHW))


def test_the_real_dicom_series_is_stored_as_its_nrrd_is(shared):
    series = files_of(shared, "ct-cip/ct-64Dicom")
    image = SimpleITK.ReadImage(str(shared / "data/ct-cip/ct-64.nrrd"))
    contract = CtPreprocessConfig(spacing_mm=(5, 5, 5), shape=(64, 48, 56)).build()
    values_DHW = SimpleITK.GetArrayFromImage(image)
    expected = contract.from_array(values_DHW, image.GetSpacing()[::-1])
    np.testing.assert_allclose(contract.read(series), expected, atol=1)
