"""A map that is hot at a known place of the patient is hot there on the volume's own voxels."""

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medvlp.data.placement import Placement
from medvlp.errors import InputError
from medvlp.models.heat_volume import HeatVolume
from medvlp.models.heatmap import Heatmap
from medvlp.models.montage import choose_slices, context_slices
from medvlp_volumetric.preprocess import CtPreprocessConfig
from medvlp_volumetric.preprocess_slices import CtSlicesConfig

SHAPE_RAS = (24, 20, 12)
SPACING_RAS = (1.0, 1.5, 4.0)


def turned_affine(degrees):
    """Anisotropic voxels, turned about two axes, far from the origin."""
    a, b = np.radians(degrees), np.radians(degrees / 2)
    about_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    about_z = [[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]]
    affine = np.eye(4)
    affine[:3, :3] = np.array(about_z) @ about_x @ np.diag(SPACING_RAS)
    affine[:3, 3] = (-71.5, 33.25, 1210.0)
    return affine


def write(path, codes, degrees):
    rng = np.random.default_rng(3)
    values = rng.integers(-1000, 400, SHAPE_RAS).astype(np.int16)
    image = nib.Nifti1Image(values, turned_affine(degrees))
    change = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
    )
    nib.save(image.as_reoriented(change), path)
    return path


CONTRACTS = {
    # Stored grids in mm: smaller and larger than the volume of 48 x 30 x 24 mm, or its very extent.
    "crop": CtPreprocessConfig(spacing_mm=(4, 3, 2), shape=(6, 8, 8)),
    "pad": CtPreprocessConfig(spacing_mm=(4, 3, 2), shape=(20, 16, 24)),
    "both": CtPreprocessConfig(spacing_mm=(2, 1.5, 3), shape=(40, 12, 8)),
    "resize": CtPreprocessConfig(shape=(16, 24, 32), fit="resize"),
    "slices": CtSlicesConfig(spacing_mm=(3, 2), size=(8, 14), slice_mm=6, max_slices=6),
}


def edges_mm(image, contract, stored_DHW):
    """Where edges of the stored grid lie, by nibabel's geometry and the contract's words alone."""
    ras = nib.as_closest_canonical(image)
    size_DHW = np.array(ras.shape)[::-1]
    extent_mm = size_DHW * np.linalg.norm(ras.affine[:3, :3], axis=0)[::-1]
    grid = np.array(stored_DHW.shape)
    if getattr(contract, "fit", None) == "resize":
        resampled = grid
    else:
        slice_mm = getattr(contract, "slice_mm", None)
        spacing = contract.spacing_mm if slice_mm is None else (slice_mm, *contract.spacing_mm)
        resampled = np.rint(extent_mm / spacing).astype(int)
    start = np.maximum(0, (grid - resampled) // 2) - np.maximum(0, (resampled - grid) // 2)

    def place(edge_DHW):
        d, h, w = (np.asarray(edge_DHW) - start) * size_DHW / resampled
        # D goes to the head as S does; H to the back and W to the left, against A and R.
        voxel = (ras.shape[0] - w - 0.5, ras.shape[1] - h - 0.5, d - 0.5)
        return (ras.affine @ (*voxel, 1))[:3]

    return place


def heatmap_of(grid, underlay):
    picture = np.zeros((4, 4, 3), np.uint8)
    flat = np.zeros((4, 4), np.float32)
    return Heatmap(
        text="x", picture=picture, map_HW=flat, similarity=0.0, grid=grid, underlay=underlay
    )


@pytest.mark.parametrize(("codes", "degrees"), [("RAS", 0), ("LPS", 14), ("PIR", 14)])
@pytest.mark.parametrize("name", CONTRACTS)
def test_a_map_lies_where_it_lies_in_the_patient(tmp_path, codes, degrees, name):
    source = write(tmp_path / "a.nii.gz", codes, degrees)
    image = nib.load(source)
    contract = CONTRACTS[name]
    preprocess = contract.build()
    stored, underlay = preprocess.read_in_place([source])
    np.testing.assert_array_equal(stored, preprocess.read([source]))
    place = edges_mm(image, contract, stored)
    cells = np.array((len(stored) if name == "slices" else 5, 4, 4))
    step = np.array(stored.shape) / cells

    # One hot cell: the highest voxel is within half a voxel of its centre, along each axis.
    hot = (cells - 1) // 2
    grid = np.zeros(cells, np.float32)
    grid[tuple(hot)] = 1
    heatmap_of(grid, underlay).save_nifti(tmp_path / "heat.nii.gz")
    heat = nib.load(tmp_path / "heat.nii.gz")
    assert heat.shape == image.shape
    np.testing.assert_allclose(heat.affine, image.affine, atol=1e-4)
    assert heat.header.get_xyzt_units()[0] == "mm"
    values = heat.get_fdata()
    top = np.unravel_index(np.nanargmax(values), values.shape)
    centre = np.linalg.inv(image.affine) @ (*place((hot + 0.5) * step), 1)
    assert np.abs(centre[:3] - top).max() <= 0.5 + 1e-4
    assert values[top] > 0.3

    # A map that is linear in mm is itself again, between the outermost centres.
    slope = np.array([0.004, -0.003, 0.002])
    centres = np.stack(np.meshgrid(*(np.arange(n) + 0.5 for n in cells), indexing="ij"), -1) * step
    mm = np.array([place(c) for c in centres.reshape(-1, 3)])
    linear = ((mm - mm.mean(0)) @ slope).reshape(cells).astype(np.float32)
    got = heatmap_of(linear, underlay).native().transpose(2, 1, 0)
    voxels = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij"), -1)
    all_mm = voxels @ image.affine[:3, :3].T + image.affine[:3, 3]
    wanted = (all_mm - mm.mean(0)) @ slope
    frame = np.stack([place(np.eye(3)[k]) - place(np.zeros(3)) for k in range(3)], 1)
    edge = (all_mm - place(np.zeros(3))) @ np.linalg.inv(frame).T
    inner = ((edge >= step / 2) & (edge <= np.array(stored.shape) - step / 2)).all(-1)
    assert inner.sum() > 10
    np.testing.assert_allclose(got[inner], wanted[inner], atol=2e-5)

    # What the model does not see is NaN, and nothing else is.
    outside = ((edge < -1e-6) | (edge > np.array(stored.shape) + 1e-6)).any(-1)
    np.testing.assert_array_equal(np.isnan(got), outside)
    assert outside.any() == (name in ("crop", "both", "slices"))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAL"])
def test_the_turned_volume_is_as_radiologists_hold_it(tmp_path, codes):
    values = np.full((20, 20, 20), -1000, np.int16)
    values[3:7, 3:7, 13:17] = 1000  # small R, small A, large S: left, back, head
    image = nib.Nifti1Image(values, np.diag([2.0, 2, 3, 1]))
    change = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
    )
    nib.save(image.as_reoriented(change), tmp_path / "a.nii.gz")
    preprocess = CtPreprocessConfig(shape=(20, 20, 20), spacing_mm=(3, 2, 2)).build()
    _, underlay = preprocess.read_in_place([tmp_path / "a.nii.gz"])
    grid = np.zeros((20, 20, 20), np.float32)
    grid[14, 14, 14] = 1
    laid = HeatVolume.of(underlay, heatmap_of(grid, underlay).native(), grid.shape, None)
    assert np.argwhere(laid.values_DHW == 1000).min(0).tolist() == [13, 13, 13]
    assert laid.summit == (14, 14, 14)
    assert underlay.ends == (("I", "S"), ("A", "P"), ("R", "L"))
    assert laid.spacing_mm == pytest.approx((3, 2, 2))
    # In the RAS array the same voxel is (19 - 14, 19 - 14, 14), at twice or thrice as many mm.
    np.testing.assert_allclose(laid.place((14, 14, 14)), (10, 10, 42), atol=1e-6)
    assert laid.head_mm(14) == pytest.approx(42)
    assert laid.peaks.argmax() == 14
    assert laid.apart == 2
    shown = laid.slice(14)
    assert (shown[14, 14] > shown[5, 5]).all()
    assert (laid.projection()[14, 14] > laid.projection()[3, 3]).all()


def test_slices_have_the_numbers_of_their_file(tmp_path):
    for codes, number in (("RAS", 3), ("RAI", 10)):
        source = write(tmp_path / f"{codes}.nii.gz", codes, 0)
        _, underlay = CONTRACTS["crop"].build().read_in_place([source])
        # The third slice from the feet; in a file from head to feet it is the tenth of twelve.
        assert underlay.number(2) == number
        # Twelve slices of 4 mm, of which the grid keeps the middle six.
        assert [underlay.stored(i) for i in (2, 3, 8, 9)] == [-1, 0, 5, 6]


def test_a_flat_image_gets_its_own_pixels_back():
    placement = Placement(
        native=(4, 6), grid=(8, 8), axes=(0, 1), scale=(1.0, 1.0), offset=(2.0, 1.0)
    )
    # Columns of cells of 4 pixels have their centres at pixels' edges 2 and 6: native 1 and 5.
    spread = placement.spread(np.array([[0, 1], [0, 1]], np.float32))
    np.testing.assert_allclose(spread, np.tile([0, 1 / 8, 3 / 8, 5 / 8, 7 / 8, 1], (4, 1)))


def test_files_that_tell_no_place_have_no_underlay(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 8, 8), np.int16))
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "a.png")
    preprocess = CtSlicesConfig(size=(8, 8)).build()
    assert preprocess.read_in_place([tmp_path / "a.png"])[1] is None
    assert preprocess.read_in_place([tmp_path / "a.npy"], ["not_hu"])[1] is None
    told = ("affine=-1,0,0,0,0,-1,0,0,0,0,2,0",)
    _, underlay = preprocess.read_in_place([tmp_path / "a.npy"], told)
    np.testing.assert_allclose(underlay.affine_whd, np.diag([-1.0, -1, 2, 1]))
    with pytest.raises(InputError, match="no volume file"):
        heatmap_of(np.zeros((2, 2), np.float32), None).save_nifti(tmp_path / "x.nii.gz")
    with pytest.raises(InputError, match="another ending"):
        heatmap_of(np.zeros((4, 1, 1), np.float32), underlay).save_nifti(tmp_path / "x.nii")


def test_slices_are_chosen_apart_and_from_the_upper_half():
    peaks = np.array([np.nan, 0.1, 0.9, 1.0, 0.95, 0.2, 0.6, 0.8, np.nan], np.float32)
    assert choose_slices(peaks, 8, 2) == [3, 7]
    assert choose_slices(peaks, 1, 2) == [3]
    assert choose_slices(np.ones(5, np.float32), 3, 2) == [2, 0, 4]
    # Seven are seen: the middles of thirds are the second, fourth and sixth of them.
    assert context_slices(peaks, [4], 3) == [6, 2]
