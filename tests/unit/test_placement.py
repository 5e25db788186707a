"""Boxes and masks go where the image itself goes."""

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medvlp.cxr.preprocess import CxrPreprocessConfig
from medvlp.data.placement import BoxRegion, MaskRegion, Placement, ShapeRegion
from medvlp.errors import InputError
from medvlp_volumetric.preprocess import CtPreprocessConfig


def overlap(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("resize", ["letterbox", "squash"])
@pytest.mark.parametrize("shape", [(120, 80), (60, 90), (30, 20)])
def test_a_mask_lies_on_the_bright_part_of_its_x_ray(tmp_path, resize, shape):
    picture = np.zeros(shape, np.uint8)
    box = (5, 10, 15, 25)
    picture[box[1] : box[3], box[0] : box[2]] = 255
    Image.fromarray(picture).save(tmp_path / "x.png")
    Image.fromarray((picture > 0).astype(np.uint8) * 3).save(tmp_path / "m.png")
    config = CxrPreprocessConfig(size=48, resize=resize, percentiles=(0, 100))
    preprocess = config.build()
    stored = preprocess.read([tmp_path / "x.png"])
    regions = (
        MaskRegion(paths=(tmp_path / "m.png",)),
        MaskRegion(paths=(tmp_path / "m.png",), value=3),
        MaskRegion(paths=(tmp_path / "m.png",), value=2),
        BoxRegion(corners=box),
    )
    placed = preprocess.regions([tmp_path / "x.png"], (), regions)
    assert placed.masks.shape == (4, 48, 48)
    # Enlarged bright parts fade over a pixel, so half of the grey is half of the area at most
    # a pixel's edge away.
    assert overlap(placed.masks[0], stored > 65535 // 2) > 0.9
    np.testing.assert_array_equal(placed.masks[0], placed.masks[1])
    np.testing.assert_array_equal(placed.masks[0], placed.masks[3])
    assert not placed.masks[2].any()


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL"])
@pytest.mark.parametrize("fit", ["crop_pad", "resize"])
def test_a_mask_lies_on_the_bright_part_of_its_volume(tmp_path, codes, fit):
    values = np.full((24, 20, 28), -1000, np.int16)
    values[3:11, 4:12, 15:23] = 1000
    image = nib.Nifti1Image(values, np.diag([2.0, 1.5, 3.0, 1]))
    mask = nib.Nifti1Image((values > 0).astype(np.uint8), image.affine)
    change = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
    )
    turned = image.as_reoriented(change)
    nib.save(turned, tmp_path / "a.nii.gz")
    nib.save(mask, tmp_path / "m.nii.gz")  # in another orientation than its volume
    config = CtPreprocessConfig(shape=(26, 16, 32), spacing_mm=(3, 2, 1.5), fit=fit)
    preprocess = config.build()
    stored = preprocess.read([tmp_path / "a.nii.gz"])
    native = np.argwhere(np.asarray(turned.dataobj).transpose(2, 1, 0) > 0)
    low, high = native.min(0)[::-1], native.max(0)[::-1] + 1
    regions = (
        MaskRegion(paths=(tmp_path / "m.nii.gz",)),
        BoxRegion(corners=(*map(float, low), *map(float, high))),
    )
    placed = preprocess.regions([tmp_path / "a.nii.gz"], (), regions)
    assert overlap(placed.masks[0], stored > 0) > 0.95
    np.testing.assert_array_equal(placed.masks[0], placed.masks[1])
    spacing = placed.placement.spacing(np.linalg.norm(turned.affine[:3, :3], axis=0)[::-1])
    if fit == "crop_pad":
        np.testing.assert_allclose(spacing, config.spacing_mm, rtol=0.05)


def test_a_box_comes_back_in_the_grids_pixels_even_beyond_its_edge():
    placement = Placement(
        native=(10, 20), grid=(10, 10), axes=(0, 1), scale=(1.0, -0.5), offset=(0.0, 9.0)
    )
    np.testing.assert_allclose(placement.box((0, 2, 4, 6)), (7, 2, 9, 6))
    np.testing.assert_allclose(placement.box((18, 0, 20, 1)), (-1, 0, 0, 1))
    laid = placement.lay(BoxRegion(corners=(18, 0, 20, 1)))
    assert (laid.mask.any(), laid.seen, laid.size) == (False, 0.0, 1.0)
    assert placement.spacing((0.2, 0.3)) == (0.2, 0.6)


def test_what_is_smaller_than_a_pixel_of_the_grid_is_kept_as_one():
    placement = Placement(
        native=(64, 64), grid=(8, 8), axes=(0, 1), scale=(1 / 8, 1 / 8), offset=(0.0, 0.0)
    )
    native = np.zeros((64, 64), bool)
    native[17, 41] = True
    assert np.argwhere(placement.lay_mask(native).mask).tolist() == [[2, 5]]
    assert np.argwhere(placement.lay(BoxRegion(corners=(41, 17, 42, 18))).mask).tolist() == [[2, 5]]
    assert not placement.lay_mask(np.zeros((64, 64), bool)).mask.any()


def test_a_mask_that_is_not_on_its_images_pixels_is_refused(tmp_path):
    Image.fromarray(np.eye(40, dtype=np.uint8)).save(tmp_path / "x.png")
    Image.fromarray(np.eye(39, dtype=np.uint8)).save(tmp_path / "m.png")
    region = MaskRegion(paths=(tmp_path / "m.png",))
    with pytest.raises(InputError, match="a mask has shape"):
        CxrPreprocessConfig(size=32).build().regions([tmp_path / "x.png"], (), [region])
    values = np.zeros((20, 20, 20), np.int16)
    values[:5], values[5:9] = -1000, 1000
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii.gz")
    nib.save(nib.Nifti1Image(values, np.diag([1, 1, 1.1, 1])), tmp_path / "m.nii.gz")
    region = MaskRegion(paths=(tmp_path / "m.nii.gz",))
    with pytest.raises(InputError, match="does not lie on the voxels"):
        CtPreprocessConfig().build().regions([tmp_path / "a.nii.gz"], (), [region])
    with pytest.raises(InputError, match="2 dimensions"):
        CtPreprocessConfig().build().regions(
            [tmp_path / "a.nii.gz"], (), [BoxRegion(corners=(0, 0, 1, 1))]
        )


def test_shapes_of_a_picture_lie_where_their_boxes_do(tmp_path):
    Image.fromarray(np.eye(40, dtype=np.uint8)).save(tmp_path / "x.png")
    box = (4.0, 10.0, 24.0, 30.0)
    corners = (4.0, 10.0, 24.0, 10.0, 24.0, 30.0, 4.0, 30.0)
    regions = (
        BoxRegion(corners=box),
        ShapeRegion(kind="polygon", geometry=corners),
        ShapeRegion(kind="ellipse", geometry=box),
    )
    preprocess = CxrPreprocessConfig(size=32).build()
    filled, polygon, ellipse = preprocess.regions([tmp_path / "x.png"], (), regions).masks
    np.testing.assert_array_equal(polygon, filled)
    assert ellipse.sum() / filled.sum() == pytest.approx(np.pi / 4, abs=0.03)
    assert not (ellipse & ~filled).any()
    with pytest.raises(InputError, match="three corners"):
        preprocess.regions(
            [tmp_path / "x.png"], (), [ShapeRegion(kind="polygon", geometry=(1.0, 2.0))]
        )
