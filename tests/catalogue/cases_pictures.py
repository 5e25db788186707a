"""Pictures beside a table: bombs, damage, wrong names, colours, several in one, hidden text."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from catalogue.case import Array, Case
from medvlp.cxr.read import read_xray

GREY = (np.add.outer(np.arange(48) * 3, np.arange(40) * 2) % 251).astype(np.uint8)
Data = Callable[[], bytes]


def encoded(picture: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def plain(form: str = "PNG", **options: object) -> bytes:
    return encoded(Image.fromarray(GREY), form, **options)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, idat: bytes, *more: bytes, depth: int = 8) -> bytes:
    """A PNG of given chunks."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    end = chunk(b"IDAT", idat) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + end


def rows(width: int, height: int) -> bytes:
    return zlib.compress(bytes((width + 1) * height), 9)


def behind(*chunks: bytes) -> bytes:
    """The sound PNG with chunks put in after its header."""
    data = plain()
    return data[:33] + b"".join(chunks) + data[33:]


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return plain(exif=tags)


def jpeg_dims(height: int, width: int) -> bytes:
    """A JPEG whose frame header lies."""
    data = plain("JPEG")
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def floats(value: float) -> bytes:
    values = GREY.astype(np.float32)
    values[5, 5] = value
    return encoded(Image.fromarray(values), "TIFF")


def two_pages() -> bytes:
    page = Image.fromarray(GREY)
    return encoded(page, "TIFF", save_all=True, append_images=[page])


def with_alpha() -> bytes:
    picture = Image.fromarray(GREY).convert("RGBA")
    picture.putalpha(Image.fromarray(GREY))
    return encoded(picture, "PNG")


def colours() -> bytes:
    return encoded(Image.fromarray(np.stack([GREY, GREY // 2, 255 - GREY], -1)), "PNG")


def grey() -> Array:
    return GREY.astype(np.float32)


def case(
    name: str,
    expected: str,
    data: Data,
    file: str = "a.png",
    oracle: Callable[[], Array] | None = None,
) -> Case:
    """One picture, a row of the table that `TABLE` writes."""

    def write(folder: Path) -> list[Path]:
        (folder / file).write_bytes(data())
        return [folder / file]

    return Case(
        number=0,
        name=f"picture-{name}",
        archive="table:pictures",
        write=write,
        expected=expected,
        oracle=oracle,
        read=lambda paths: read_xray(paths[0]),
        overrides=("domain=cxr",),
        root="pictures.csv",
    )


def write_table(folder: Path) -> list[Path]:
    """The table beside all the cases' folders, and one more picture."""
    lines = ["path,patient", f"{folder.name}/a.png,last"]
    for found in PICTURES:
        lines += [f"{found.name}/a{suffix},{found.name}" for suffix in (".png", ".jpg", ".tif")]
    (folder.parent / "pictures.csv").write_text("\n".join(lines) + "\n")
    (folder / "a.png").write_bytes(encoded(Image.fromarray(255 - GREY), "PNG"))
    return [folder / "a.png"]


def holed() -> bytes:
    """A JPEG in which four sectors of the disk were lost."""
    y, x = np.mgrid[:512, :512]
    noise = np.random.default_rng(0).normal(0, 6, (512, 512))
    waves = (128 + 60 * np.sin(x / 30) + 40 * np.cos(y / 17) + noise).clip(0, 255)
    data = bytearray(encoded(Image.fromarray(waves.astype(np.uint8)), "JPEG", quality=92))
    data[9000:11048] = bytes(2048)
    return bytes(data)


def changed(data: bytes, place: int) -> bytes:
    place %= len(data)
    return data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :]


PICTURES = (
    case("png", "ACCEPT", plain, oracle=grey),
    case("tiff", "ACCEPT", lambda: plain("TIFF"), "a.tif", grey),
    case("jpeg", "ACCEPT", lambda: plain("JPEG"), "a.jpg"),
    case("palette", "ACCEPT", lambda: encoded(Image.fromarray(GREY).convert("P"), "PNG")),
    case("16-bit", "ACCEPT", lambda: encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"),
         oracle=lambda: grey() * 257),
    case("opaque-alpha", "ACCEPT", lambda: encoded(Image.fromarray(GREY).convert("LA"), "PNG"),
         oracle=grey),
    case("jpeg-named-png", "FLAG:wrong_suffix", lambda: plain("JPEG")),
    case("png-named-jpg", "FIX:wrong_suffix", plain, "a.jpg", grey),
    case("trailing-zip", "FIX:trailing_bytes", lambda: plain() + b"PK\3\4 and more", oracle=grey),
    case("rotated", "FIX:exif_rotated", lambda: exif(6), oracle=lambda: grey().T[:, ::-1]),
    case("white-is-zero", "FIX:inverted",
         lambda: encoded(Image.fromarray(GREY.astype(np.uint16)), "TIFF", tiffinfo={262: 0}),
         "a.tif", lambda: 65535 - grey()),
    case("colours", "FLAG:colour", colours),
    case("one-bit", "FLAG:one_bit", lambda: encoded(Image.fromarray(GREY > 99), "PNG")),
    case("constant", "FLAG:no_information",
         lambda: encoded(Image.fromarray(np.full((9, 9), 7, np.uint8)), "PNG")),
    case("secret-comment", "ACCEPT",
         lambda: behind(chunk(b"tEXt", b"Patient\0CANARY^ANNA")), oracle=grey),
    case("empty", "REJECT:empty", lambda: b""),
    case("html", "REJECT:not_a_picture", lambda: b"<!DOCTYPE html><html></html>"),
    case("pdf", "REJECT:not_a_picture", lambda: b"%PDF-1.7\n"),
    case("zip", "REJECT:not_a_picture", lambda: b"PK\3\4" + bytes(60)),
    case("gif", "REJECT:not_a_picture", lambda: plain("GIF")),
    case("cut", "REJECT:truncated_pixels", lambda: plain()[:-20]),
    case("cut-jpeg", "REJECT:truncated_pixels", lambda: plain("JPEG")[:-60], "a.jpg"),
    case("cut-tiff", "REJECT:codec", lambda: plain("TIFF")[:-200], "a.tif"),
    case("holed-jpeg", "REJECT:codec", holed, "a.jpg"),
    case("checksum", "REJECT:checksum", lambda: changed(plain(), -30)),
    case("garbage-idat", "REJECT:inflate", lambda: png(40, 48, b"garbage" * 20)),
    case("fewer-rows", "REJECT:truncated_pixels", lambda: png(40, 48, rows(40, 20))),
    case("unknown-filter", "REJECT:codec",
         lambda: png(40, 48, zlib.compress((b"\0" + bytes(range(40))) * 47 + b"\x09" + bytes(40)))),
    case("no-header", "REJECT:codec",
         lambda: b"\x89PNG\r\n\x1a\n" + chunk(b"IDAT", rows(4, 4)) + chunk(b"IEND", b"")),
    case("zero-width", "REJECT:bad_dims", lambda: png(0, 48, rows(40, 48))),
    case("zero-height-jpeg", "REJECT:bad_dims", lambda: jpeg_dims(0, 40), "a.jpg"),
    case("declares-all", "REJECT:declared_exceeds_bytes",
         lambda: png(2**31 - 1, 2**31 - 1, rows(9, 9))),
    case("declares-much", "REJECT:declared_exceeds_bytes", lambda: png(9000, 9000, rows(9, 9))),
    case("jpeg-declares-all", "REJECT:declared_exceeds_bytes",
         lambda: jpeg_dims(65535, 65535), "a.jpg"),
    case("bomb", "REJECT:inflate_ratio", lambda: png(11000, 11000, rows(11000, 11000))),
    case("comment-bomb", "REJECT:inflate_ratio",
         lambda: behind(chunk(b"zTXt", b"C\0\0" + zlib.compress(bytes(1 << 24), 9)))),
    case("profile-bomb", "REJECT:inflate_ratio",
         lambda: behind(chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(1 << 24), 9)))),
    case("animated", "REJECT:several_images",
         lambda: behind(chunk(b"acTL", struct.pack(">II", 2, 0)))),
    case("pages", "REJECT:several_images", two_pages, "a.tif"),
    case("see-through", "REJECT:transparent", with_alpha),
    case("cmyk", "REJECT:colour_space",
         lambda: encoded(Image.fromarray(GREY).convert("CMYK"), "JPEG"), "a.jpg"),
    case("nan", "REJECT:nonfinite_pixels", lambda: floats(float("nan")), "a.tif"),
    case("inf", "REJECT:nonfinite_pixels", lambda: floats(float("inf")), "a.tif"),
)  # fmt: skip

CASES = (
    *PICTURES,
    Case(
        number=0,
        name="picture-table",
        archive="table:pictures",
        write=write_table,
        expected="ACCEPT",
    ),
)
