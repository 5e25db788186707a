import itertools

import nibabel as nib
import numpy as np
import pytest

from medvlp.archive.series.geometry import Volume


@pytest.mark.parametrize(
    "codes",
    ["RAS", "LPS", "LAS", "SAR", "PIR", "ASL", "IPL"]
    + ["".join(p) for p in itertools.permutations("RAS")],
)
def test_canonical_moves_voxels_and_never_their_place(codes):
    """A mark at a known point of the patient is found there again, whatever the axes were."""
    rng = np.random.default_rng(0)
    base = nib.Nifti1Image(rng.random((4, 5, 6)).astype(np.float32), np.diag([2.0, 3, 4, 1]))
    change = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
    )
    turned = base.as_reoriented(change)
    volume = Volume.from_whd(np.asarray(turned.dataobj), turned.affine, ())
    assert volume.axcodes == codes
    canonical = volume.canonical()
    assert canonical.axcodes == "LPS"
    assert canonical.hu_DHW.shape == (6, 5, 4)
    assert canonical.spacing_mm == pytest.approx((4, 3, 2))
    for index in itertools.product((0, 3), (0, 4), (0, 5)):
        place = base.affine @ [*index, 1]
        d, h, w, _ = np.rint(np.linalg.inv(canonical.affine) @ place).astype(int)
        assert canonical.hu_DHW[d, h, w] == base.dataobj[index]


def test_left_stays_left_back_stays_back_and_head_is_up():
    """In canonical order the last column is the patient's left, by the affine's own word."""
    affine = np.array([[0, 0, 2, 0], [0, 2, 0, 0], [-2, 0, 0, 0], [0, 0, 0, 1.0]])  # R, A, I
    values = np.zeros((3, 3, 3), dtype=np.float32)
    values[0, 0, 0] = 1  # the most superior, posterior, left corner
    canonical = Volume(hu_DHW=values, affine=affine).canonical()
    assert np.argwhere(canonical.hu_DHW == 1).tolist() == [[2, 2, 2]]
    right, anterior, superior = (canonical.affine[:3, :3] @ [1, 1, 1]).tolist()
    assert right < 0
    assert anterior < 0
    assert superior > 0
