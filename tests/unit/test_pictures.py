"""Pictures against Pillow's own reading, and damage of every byte."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from medvlp.archive.pictures import read_grey, read_rgb
from medvlp.archive.verdict import Reject

RAMP = (np.add.outer(np.arange(40) * 3, np.arange(24) * 5)).astype(np.uint8)


def save(path, picture, **options):
    Image.fromarray(picture).save(path, **options) if isinstance(picture, np.ndarray) else (
        picture.save(path, **options)
    )
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_turned_as_the_tag_says(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a{suffix}", RAMP, exif=exif)
    # From memory: from a mapped file Pillow 13 mixes up rows and columns of a turned TIFF.
    picture = Image.open(io.BytesIO(path.read_bytes()))
    picture.load()
    expected = np.asarray(ImageOps.exif_transpose(picture), np.float32)
    found = read_grey(path)
    np.testing.assert_array_equal(found.values, expected)
    assert found.flags == (("exif_rotated",) if orientation > 1 else ())


def test_white_stored_as_zero_is_turned_round(tmp_path):
    deep = RAMP.astype(np.uint16) * 200
    path = save(tmp_path / "a.tif", deep, tiffinfo={262: 0})
    found = read_grey(path)
    np.testing.assert_array_equal(found.values, 65535 - deep.astype(np.float32))
    assert found.flags == ("inverted",)


def test_colours(tmp_path):
    rgb = np.stack([RAMP, RAMP.T[:24, :24].repeat(2, 0)[:40, :24], 255 - RAMP], axis=-1)
    path = save(tmp_path / "a.png", rgb)
    assert read_grey(path).flags == ("colour",)
    np.testing.assert_array_equal(read_rgb(path), rgb)
    np.testing.assert_array_equal(read_rgb(save(tmp_path / "b.png", RAMP))[..., 2], RAMP)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_shows_through_is_refused_and_opaque_is_not(tmp_path, mode):
    whole = Image.fromarray(RAMP).convert(mode)
    np.testing.assert_array_equal(read_grey(save(tmp_path / "a.png", whole)).values, RAMP)
    whole.putalpha(Image.fromarray(RAMP))
    with pytest.raises(Reject, match="transparent"):
        read_grey(save(tmp_path / "b.png", whole))


def test_every_changed_byte_of_a_png_is_noticed_or_harmless(tmp_path):
    path = save(tmp_path / "a.png", RAMP)
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        with pytest.raises(Reject):
            read_grey(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_no_cut_picture_is_read_and_nothing_else_is_raised(tmp_path, suffix):
    path = save(tmp_path / f"a{suffix}", RAMP)
    data = path.read_bytes()
    step = max(1, len(data) // 150)
    for end in range(0, len(data) - 12, step):
        path.write_bytes(data[:end])
        with pytest.raises(Reject):
            read_grey(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_random_damage_is_a_verdict_or_a_finite_picture(tmp_path, suffix):
    data = save(tmp_path / f"a{suffix}", RAMP).read_bytes()
    path = tmp_path / f"b{suffix}"
    rng = np.random.default_rng(0)
    for _ in range(400):
        spoilt = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            spoilt[place] = rng.integers(256)
        path.write_bytes(spoilt)
        try:
            found = read_grey(path)
        except Reject:
            continue
        assert np.isfinite(found.values).all()


def test_notes_are_neither_read_nor_kept(tmp_path):
    from PIL.PngImagePlugin import PngInfo

    notes = PngInfo()
    notes.add_text("Patient", "CANARY^ANNA", zip=True)
    notes.add_itxt("Name", "CANARY", zip=True)
    path = save(tmp_path / "a.png", RAMP, pnginfo=notes)
    assert read_grey(path).flags == ()
    bomb = PngInfo()
    bomb.add_text("Comment", "0" * (1 << 23), zip=True)
    with pytest.raises(Reject, match="inflate_ratio"):
        read_grey(save(tmp_path / "b.png", RAMP, pnginfo=bomb))


def test_a_picture_in_memory_is_what_pillow_decodes(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(RAMP).save(buffer, "JPEG", progressive=True, quality=90)
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    expected = np.asarray(Image.open(buffer), np.float32)
    np.testing.assert_array_equal(read_grey(tmp_path / "a.jpg").values, expected)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(1, 1), (37, 53), (200, 8)])
def test_no_sound_jpeg_is_called_damaged(tmp_path, options, mode, size):
    noise = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    for quality in (5, 60, 100):
        picture = Image.fromarray(noise).convert(mode)
        assert read_grey(save(tmp_path / "a.jpg", picture, quality=quality, **options)) is not None


def test_a_jpeg_with_a_lost_sector_is_noticed(tmp_path):
    y, x = np.mgrid[:256, :256]
    noise = np.random.default_rng(0).normal(0, 6, (256, 256))
    picture = (128 + 60 * np.sin(x / 30) + 40 * np.cos(y / 17) + noise).clip(0, 255)
    data = save(tmp_path / "a.jpg", picture.astype(np.uint8), quality=92).read_bytes()
    noticed = 0
    for start in np.linspace(1000, len(data) - 700, 20).astype(int):
        (tmp_path / "b.jpg").write_bytes(data[:start] + bytes(512) + data[start + 512 :])
        try:
            read_grey(tmp_path / "b.jpg")
        except Reject:
            noticed += 1
    assert noticed >= 17
