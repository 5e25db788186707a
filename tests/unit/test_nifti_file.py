"""NIfTI against nibabel's own reading, and damage anywhere in a file."""

import io
import warnings

import nibabel as nib
import numpy as np
import pytest
from catalogue.nifti import AFFINE, body, nifti, packed

from medvlp.archive.verdict import Reject
from medvlp_volumetric.nifti import examine_nifti, read_nifti

TYPES = ("u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8")


def nibabel_reads(data):
    image = nib.Nifti1Image.from_bytes(data)
    return np.asarray(image.dataobj, np.float32).transpose(2, 1, 0), image.affine


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("scale", [(1.0, 0.0), (0.5, -24.0), (-2.0, 7.5)])
def test_as_nibabel_reads_it(tmp_path, kind, order, scale):
    values = (body() % 100).astype(kind)
    data = nifti(values, order=order, scl_slope=scale[0], scl_inter=scale[1])
    (tmp_path / "a.nii").write_bytes(data)
    found = read_nifti(tmp_path / "a.nii")
    expected, affine = nibabel_reads(data)
    np.testing.assert_allclose(found.hu_DHW, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.affine_whd, affine, atol=1e-6)


@pytest.mark.parametrize("turn", [0.0, 0.3, 1.2, 3.0])
def test_a_rotation_in_the_quaternion_alone(tmp_path, turn):
    c, s = np.cos(turn), np.sin(turn)
    affine = np.array([[c, -s, 0, 5], [s, c, 0, -6], [0, 0, -1, 7], [0, 0, 0, 1]]) @ np.diag(
        [0.7, 0.8, 2.5, 1]
    )
    image = nib.Nifti1Image(body(), affine)
    image.set_sform(None, code=0)
    image.set_qform(affine, code=1)
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    np.testing.assert_allclose(read_nifti(tmp_path / "a.nii").affine_whd, affine, atol=1e-4)
    assert read_nifti(tmp_path / "a.nii").spacing_mm == pytest.approx((2.5, 0.8, 0.7), abs=1e-5)


def test_units_become_millimetres(tmp_path):
    metres = AFFINE / [[1000], [1000], [1000], [1]]
    steps = (1.0, 8e-4, 8e-4, 2e-3, 0, 0, 0, 0)
    data = nifti(xyzt_units=1, srow=tuple(metres[:3].ravel()), pixdim=steps)
    (tmp_path / "a.nii").write_bytes(data)
    found = read_nifti(tmp_path / "a.nii")
    np.testing.assert_allclose(found.affine_whd, AFFINE, atol=1e-4)
    assert "units_converted" in found.flags


@pytest.mark.parametrize("gz", [False, True])
def test_damage_anywhere_is_a_verdict_or_a_finite_volume(tmp_path, gz):
    data = packed(nifti()) if gz else nifti()
    path = tmp_path / ("a.nii.gz" if gz else "a.nii")
    rng = np.random.default_rng(0)
    read = 0
    for _ in range(500):
        spoilt = bytearray(data)
        for place in rng.integers(0, len(data) if gz else 352, 2):
            spoilt[place] = rng.integers(256)
        path.write_bytes(spoilt)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                volume = read_nifti(path)
            except Reject:
                continue
        read += 1
        assert np.isfinite(volume.hu_DHW).all()
        assert np.isfinite(volume.affine).all()
    assert read < 450


def test_no_cut_file_is_read(tmp_path):
    for data, name in ((nifti(), "a.nii"), (packed(nifti()), "a.nii.gz")):
        for end in range(0, len(data) - 1, 97):
            (tmp_path / name).write_bytes(data[:end])
            with pytest.raises(Reject):
                read_nifti(tmp_path / name)


def test_nifti_2_in_both_orders(tmp_path):
    image = nib.Nifti2Image(body(), AFFINE)
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii").hu_DHW, body().transpose(2, 1, 0))
    swapped = nib.Nifti2Image(body(), AFFINE, image.header.as_byteswapped())
    buffer = io.BytesIO(swapped.to_bytes())
    (tmp_path / "a.nii").write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii").hu_DHW, body().transpose(2, 1, 0))


@pytest.mark.parametrize(("slope", "flags"), [(1, ()), (-1, ("no_air_peak", "no_tissue_peak"))])
def test_an_inverted_scale_has_no_peaks_where_a_body_has_them(tmp_path, slope, flags):
    hu = np.full((16, 16, 16), -1000.0, np.float32)
    hu[4:12, 4:12, 4:12] = 40
    hu[6:8, 6:8, 6:8] = 700
    path = tmp_path / "ct.nii"
    nib.save(nib.Nifti1Image(hu * slope, np.diag([2.0, 2.0, 2.0, 1.0])), path)
    assert examine_nifti((path,)).probe.flags == flags
