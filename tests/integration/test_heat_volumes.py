"""From a CT file to a NIfTI overlay and a montage, with a tower that points to what is bright.

The tower is made by hand: a patch's likeness to any text grows with its mean value, so that the
highest place of each heatmap is known, in mm, from how the file was written.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import polars as pl
import pydicom
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

import medvlp
from medvlp.archive.index import index_archive
from medvlp.data.manifest import Manifest
from medvlp.data.preprocess import absent_slice
from medvlp.encoding import ImageEncoder, ImageFeatures
from medvlp.errors import InputError
from medvlp.evaluate.hits import find, key_pictures
from medvlp.evaluate.search import embed_inputs
from medvlp_volumetric.preprocess import CtPreprocessConfig
from medvlp_volumetric.preprocess_slices import CtSlicesConfig

TEXT = "Edema."
CONTRACTS = {
    "crop_pad": CtPreprocessConfig(spacing_mm=(4, 4, 4), shape=(12, 24, 20)),
    "resize": CtPreprocessConfig(shape=(12, 24, 24), fit="resize"),
    "slices": CtSlicesConfig(spacing_mm=(4, 4), size=(24, 20), slice_mm=5),
}
MARK_MM = np.array([30.0, 32.0, 20.0])
"""Size of the bright block: at least two patches of every contract along each axis."""


class Brightness(ImageEncoder):
    """Patches of 4 pixels a side (slices of their own, or 4 of them together) and their means."""

    def __init__(self, width, deep, places):
        super().__init__()
        self.width, self.deep, self.places = width, deep, places

    def forward(self, image):
        mean = F.avg_pool3d(image[:, :1], (self.deep, 4, 4))[:, 0]
        tokens = torch.zeros(*mean.flatten(1).shape, self.width)
        tokens[..., 0], tokens[..., 1] = mean.flatten(1), 1
        share = mean.amax((2, 3)).mul(8).softmax(1) if self.places else None
        return ImageFeatures(
            pooled_BD=tokens.mean(1), tokens_BPD=tokens, grid=tuple(mean.shape[1:]), maps=(),
            share_BD=share,
        )  # fmt: skip


def bright_bundle(folder, contract):
    bundle = medvlp.load(folder)
    places = absent_slice(contract) is not None
    text_E = torch.from_numpy(bundle.embed_text(TEXT)[0])
    other_E = F.normalize(torch.roll(text_E, 1) - (torch.roll(text_E, 1) @ text_E) * text_E, dim=0)
    model = bundle.model
    model.image = Brightness(model.image.width, 1 if places else 4, places)
    with torch.no_grad():
        model.image_projection.weight.zero_()
        model.image_projection.weight[:, 0], model.image_projection.weight[:, 1] = text_E, other_E
    bundle.preprocess = contract.build()
    return bundle


def marked(affine, shape, centre_mm):
    """Air, water, and a bright block whose sides follow the volume's own axes."""
    values = np.full(shape, -1000, np.int16)
    inner = tuple(slice(n // 8, n - n // 8) for n in shape)
    values[inner] = 0
    centre = np.linalg.inv(affine) @ (*centre_mm, 1)
    half = MARK_MM / np.linalg.norm(affine[:3, :3], axis=0) / 2
    at = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    values[(np.abs(at - centre[:3]) <= half).all(-1)] = 1000
    return values


def within_mark(place_mm, centre_mm, affine):
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return (np.abs((place_mm - centre_mm) @ axes) <= MARK_MM / 2).all()


def oblique():
    a = np.radians(11)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tip = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ tip @ np.diag([2.0, 2.5, 4.0])
    affine[:3, 3] = (-40, -55, 900)
    return affine


def highest_mm(file):
    heat = nib.load(file)
    values = heat.get_fdata()
    top = np.unravel_index(np.nanargmax(values), values.shape)
    return (heat.affine @ (*top, 1))[:3]


@pytest.mark.parametrize("name", CONTRACTS)
@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAR"])
def test_the_bright_block_of_a_nifti_file_is_found_in_mm(tiny_bundle, tmp_path, codes, name):
    affine, shape = oblique(), (40, 36, 14)
    centre_mm = (affine @ (24, 13, 8, 1))[:3]
    image = nib.Nifti1Image(marked(affine, shape, centre_mm), affine)
    change = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
    )
    turned = image.as_reoriented(change)
    nib.save(turned, tmp_path / "ct.nii.gz")
    heatmap = bright_bundle(tiny_bundle("volumetric"), CONTRACTS[name]).heatmap(
        tmp_path / "ct.nii.gz", TEXT
    )
    heatmap.save_nifti(tmp_path / "heat.nii.gz")
    heat = nib.load(tmp_path / "heat.nii.gz")
    assert heat.shape == turned.shape
    np.testing.assert_allclose(heat.affine, turned.affine, atol=1e-4)
    assert within_mark(highest_mm(tmp_path / "heat.nii.gz"), centre_mm, affine)
    assert (heatmap.share_D is not None) == (name == "slices")


def write_series(folder, affine, centre_mm, uid="1.2.3", modality="CT", frame=0):
    """A DICOM series on an oblique grid, by the standard's own formula (C.7.6.2.1.1)."""
    folder.mkdir(exist_ok=True)
    values = marked(affine, (40, 36, 14), centre_mm)
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    column, row, slices = np.linalg.norm(lps[:3, :3], axis=0)
    for k in range(14):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = "1.2", uid, modality
        ds.PatientName, ds.PatientID = "Canary^Nightingale", "PAT-0042"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.Rows, ds.Columns = 36, 40
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.PixelSpacing, ds.SliceThickness = [row, column], slices
        cosines = (*(lps[:3, 0] / column), *(lps[:3, 1] / row))
        ds.ImageOrientationPatient = [f"{x:.12g}" for x in cosines]
        ds.ImagePositionPatient = [f"{x:.12g}" for x in (lps @ (0, 0, k, 1))[:3]]
        ds.RescaleSlope, ds.RescaleIntercept = 1, 0
        ds.PixelData = np.ascontiguousarray(values[:, :, k].T).tobytes()
        # Names run against positions, and say nothing of the series.
        ds.save_as(folder / f"IM{99 - k}{frame}", enforce_file_format=True)
    return tuple(sorted(folder.glob(f"IM??{frame}")))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two CT series and one of MR in one folder, with a viewer, notes and a damaged file."""
    folder = tmp_path_factory.mktemp("study") / "case"
    affine = oblique()
    centres = [(affine @ (24, 13, 8, 1))[:3], (affine @ (14, 20, 5, 1))[:3]]
    files = [
        write_series(folder, affine, centre, f"1.2.3.{i}", frame=i)
        for i, centre in enumerate(centres)
    ]
    write_series(folder, affine, centres[0], "1.2.3.9", "MR", frame=9)
    (folder / "viewer.exe").write_bytes(b"MZ\0\0")
    (folder / "notes.txt").write_text("nothing")
    (folder / "damaged.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    (folder / "more").mkdir()
    (folder / "more" / "cut.nii.gz").write_bytes(gzip.compress(b"no volume"))
    ct = marked(affine, (40, 36, 14), centres[0])
    for name, values in (
        ("ct", ct),
        ("ct_seg", (ct > 0).astype(np.int16)),
        ("mr", np.abs(ct.astype(np.int32))),
    ):
        nib.save(nib.Nifti1Image(values, affine), folder / "more" / f"{name}.nii.gz")
    return folder, files, centres


@pytest.mark.parametrize("name", ["crop_pad", "slices"])
def test_the_bright_block_of_a_dicom_series_is_found_in_mm(tiny_bundle, study, tmp_path, name):
    folder, series, centres = study
    bundle = bright_bundle(tiny_bundle("volumetric"), CONTRACTS[name])
    with pytest.raises(InputError, match="holds 6"):
        bundle.heatmap(folder, TEXT)
    for files, centre_mm in zip(series, centres, strict=True):
        heatmap = bundle.heatmap(files, TEXT)
        heatmap.save_nifti(tmp_path / "heat.nii.gz")
        heat = nib.load(tmp_path / "heat.nii.gz")
        assert within_mark(highest_mm(tmp_path / "heat.nii.gz"), centre_mm, oblique())
        # Voxel (column, row, slice) lies where its own file says.
        headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
        for ds in headers:
            x, y, z = map(float, ds.ImagePositionPatient)
            voxel = np.linalg.inv(heat.affine) @ (-x, -y, z, 1)
            np.testing.assert_allclose(voxel[:2], 0, atol=1e-3)
            assert voxel[2] == pytest.approx(round(voxel[2]), abs=1e-3)
        assert heat.shape == (40, 36, 14)
    # Nothing of the patient is in what was written: header fields and the name within gzip.
    raw = (tmp_path / "heat.nii.gz").read_bytes()
    assert not raw[3] & 0b11100  # no name, no comment, no extra field
    assert not bytes(heat.header["descrip"]).strip(b"\0")
    assert not bytes(heat.header["db_name"]).strip(b"\0")
    assert b"Canary" not in gzip.decompress(raw)


def test_a_montage_shows_the_slices_of_the_bright_block(tiny_bundle, study, tmp_path):
    _, (files, _), _ = study
    bundle = bright_bundle(tiny_bundle("volumetric"), CONTRACTS["slices"])
    _, heatmap = bundle.heatmaps(files, [TEXT, "$x_1$, a text with dollar signs"])
    heatmap.save_montage(tmp_path / "m.png", slices=3, window=(-200, 1200))
    with Image.open(tmp_path / "m.png") as picture:
        assert set(picture.info) <= {"Software", "dpi"}
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] > 1500
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500
    with pytest.raises(InputError, match="of 0 slices"):
        heatmap.save_montage(tmp_path / "n.png", slices=0)
    heatmap.save_overlay(tmp_path / "o.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.png", "o.png"]


def test_what_is_no_volume_has_an_overlay_alone(tiny_bundle, tmp_path):
    Image.fromarray(np.arange(1600, dtype=np.uint8).reshape(40, 40)).save(tmp_path / "x.png")
    heatmap = medvlp.load(tiny_bundle("cxr")).heatmap(tmp_path / "x.png", TEXT)
    heatmap.save_overlay(tmp_path / "o.png")
    with pytest.raises(InputError, match="no volume file"):
        heatmap.save_nifti(tmp_path / "h.nii.gz")
    with pytest.raises(InputError, match="no volume file"):
        heatmap.save_montage(tmp_path / "m.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.png", "x.png"]


def test_a_study_folder_is_embedded_in_one_call(tiny_bundle, study, tmp_path):
    folder, series, _ = study
    said = embed_inputs(tiny_bundle("volumetric"), [folder], tmp_path / "index")
    assert "3 items; refused 3: label_map 1, not_nifti 1, not_hu 1" in said
    items = pl.read_parquet(tmp_path / "index" / "items.parquet")
    ct, *firsts = items["source"].to_list()
    assert ct == str(folder / "more" / "ct.nii.gz")
    # Both series lie in one folder: each is told by a file of its own.
    assert sorted(firsts) == sorted(str(files[0]) for files in series)
    rejects = pl.read_parquet(tmp_path / "index" / "rejects.parquet").to_dicts()
    assert {Path(r["source"]).name: r["code"] for r in rejects} == {
        "cut.nii.gz": "not_nifti", "ct_seg.nii.gz": "label_map", "mr.nii.gz": "not_hu",
    }  # fmt: skip
    vectors = np.load(tmp_path / "index" / "embeddings.npy")
    bundle = medvlp.load(tiny_bundle("volumetric"))
    alone = {str(files[0]): bundle.embed_image([files])[0] for files in series}
    alone[ct] = bundle.embed_image(ct)[0]
    for source, vector in zip(items["source"], vectors, strict=True):
        np.testing.assert_allclose(vector, alone[source], atol=1e-6)


def test_a_manifest_is_embedded_as_it_was_taken_in(tiny_bundle, study, tmp_path):
    """Grey values that the user lets in as they are."""
    folder, _, _ = study
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "mr.nii.gz").write_bytes((folder / "more" / "mr.nii.gz").read_bytes())
    manifest, accepted = tmp_path / "m", ["options.accept_not_hu=true", "duplicates=exact"]
    index_archive(tmp_path / "in", kind="nifti", out=manifest, overrides=accepted)
    assert "1 items)" in embed_inputs(tiny_bundle("volumetric"), [manifest], tmp_path / "index")
    vectors = np.load(tmp_path / "index" / "embeddings.npy")
    opened = Manifest.open(manifest)
    (row,) = opened.samples.iter_rows(named=True)
    bundle = medvlp.load(tiny_bundle("volumetric"))
    stored = bundle.preprocess.read(opened.paths(row["source"]), None, row["flags"])
    np.testing.assert_allclose(vectors, bundle.embed_stored([stored]), atol=1e-6)
    (hit,) = find(bundle.embed_text(TEXT)[0], tmp_path / "index", 1)
    (shown,) = key_pictures(bundle, [hit], opened)
    assert shown is not None


def test_real_ct_is_overlaid_where_it_lies(shared, tiny_bundle, tmp_path):
    folder = shared / "data" / "ct-totalseg"
    if not folder.is_dir():
        pytest.skip("no ct-totalseg among the real data")
    bundle = medvlp.load(tiny_bundle("volumetric"))
    heatmap = bundle.heatmap(folder / "example_ct_sm.nii.gz", TEXT)
    heatmap.save_nifti(tmp_path / "a.nii.gz")
    heat, image = nib.load(tmp_path / "a.nii.gz"), nib.load(folder / "example_ct_sm.nii.gz")
    assert heat.shape == image.shape
    np.testing.assert_allclose(heat.affine, image.affine, atol=1e-4)
    assert np.isfinite(heat.get_fdata()).all()
    heatmap = bundle.heatmap(folder / "example_ct_dicom", TEXT)
    heatmap.save_nifti(tmp_path / "b.nii.gz")
    heat = nib.load(tmp_path / "b.nii.gz")
    for path in sorted((folder / "example_ct_dicom").glob("*.dcm")):
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        x, y, z = map(float, ds.ImagePositionPatient)
        voxel = np.linalg.inv(heat.affine) @ (-x, -y, z, 1)
        np.testing.assert_allclose(voxel[:3], (0, 0, round(voxel[2])), atol=1e-3)
        row_mm, column_mm = map(float, ds.PixelSpacing)
        across, down = np.reshape(np.array(ds.ImageOrientationPatient, float), (2, 3))
        corner = np.array([x, y, z]) + 100 * column_mm * across + 7 * row_mm * down
        voxel = np.linalg.inv(heat.affine) @ (-corner[0], -corner[1], corner[2], 1)
        np.testing.assert_allclose(voxel[:2], (100, 7), atol=1e-3)
    assert heat.shape == (512, 512, 20)
