"""Damaged files without end: seeds of every format, and reproducible damage to them.

Mutant `index` of a `seed` is always the same bytes, so any range of them can be run again.
"""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import nibabel as nib
import numpy as np
from PIL import Image
from pydicom.data import get_testdata_file

from catalogue.cases_dicom_codecs import EIGHT, jpeg, stream
from catalogue.cases_dicom_values import colour, colours, palette, table
from catalogue.raw import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    ITEM_END,
    J2K_LOSSLESS,
    JPEG_BASELINE,
    JPEG_LS,
    PIXELS,
    RLE,
    SEQUENCE_END,
    UNDEFINED,
    Elements,
    compressed,
    ct_slice,
    element,
    file_of,
    item,
    ramp,
    text,
    us,
    xray,
)
from medvlp.archive.dicom.elements import walk
from medvlp.archive.dicom.part10 import open_body

SIDE = 32
NUMBERS = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)
LONG_NUMBERS = (*NUMBERS, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)
WORDS = (b"nan", b"inf", b"-1", b"0", b"1e400", b"\\\\", b"1,5", b"..", b"\0\0", b"999999999999")
VRS = (b"US", b"SS", b"DS", b"IS", b"SQ", b"OB", b"OW", b"UN", b"ZZ", b"UI", b"PN", b"FD", b"\0\0")


@dataclass(frozen=True)
class Seed:
    """A sound file to damage."""

    name: str
    """What reads it: its suffix says."""
    data: bytes
    spots: tuple[tuple[int, int, int], ...] = ()
    """(header, value, end) of elements, for damage that knows the structure."""


def _small(name: str) -> dict[int, tuple[str, bytes]]:
    return xray(name, ramp(SIDE, SIDE))


def _rich(name: str) -> dict[int, tuple[str, bytes]]:
    """Tables, windows, sequences, private elements, overlays and foreign names."""
    nested = item(element(0x00081150, "UI", b"1.2 ") + element(0x00081155, "UI", b"1.3 "))
    return {
        **_small(name),
        0x00080005: ("CS", b"ISO_IR 192"),
        0x00081140: ("SQ", nested * 3),
        0x00091001: ("LO", b"private "),
        0x00281050: ("DS", b"2000"),
        0x00281051: ("DS", b"4000"),
        0x00283010: ("SQ", table(4096, 0, 16, np.arange(4096))),
        0x60000100: ("US", us(1)),
        0x60003000: ("OW", bytes(SIDE * SIDE // 8)),
    }


def _without_sequences(elements: Elements) -> Elements:
    """Those elements whose bytes do not depend on implicit or explicit VR."""
    return {tag: value for tag, value in elements.items() if value[0] != "SQ"}


def _nested(name: str) -> bytes:
    """Sequences of undefined length within each other."""
    depth = 20
    head = element(0x00081140, "SQ", b"", length=UNDEFINED) + item(length=UNDEFINED)
    whole = file_of(_small(name))
    at = whole.index(b"\x10\x00\x10\x00PN")
    return whole[:at] + head * depth + (ITEM_END + SEQUENCE_END) * depth + whole[at:]


def _enhanced(name: str, frames: int = 3) -> bytes:
    """Several frames with functional groups."""

    def group(k: int) -> bytes:
        position = item(element(0x00200032, "DS", text(f"0\\0\\{2 * k}")))
        values = item(element(0x00281052, "DS", b"-1024 ") + element(0x00281053, "DS", b"1 "))
        return item(element(0x00209113, "SQ", position) + element(0x00289145, "SQ", values))

    measures = element(0x00289110, "SQ", item(element(0x00280030, "DS", b"0.5\\0.5 ")))
    plane = element(0x00209116, "SQ", item(element(0x00200037, "DS", b"1\\0\\0\\0\\1\\0 ")))
    pixels = ramp(SIDE, SIDE).astype("<u2").tobytes() * frames
    return file_of(
        {
            **_small(name),
            0x00080060: ("CS", b"CT"),
            0x00280008: ("IS", text(str(frames))),
            0x52009229: ("SQ", item(plane + measures)),
            0x52009230: ("SQ", b"".join(map(group, range(frames)))),
            PIXELS: ("OW", pixels),
        }
    )


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def _packed(syntax: str, frames: int = 1) -> bytes:
    elements = {**_small(syntax), 0x00280008: ("IS", text(str(frames)))}
    return compressed(elements, syntax, [stream(syntax, SIDE, SIDE)] * frames)


def _picture(form: str, mode: str = "L") -> bytes:
    out = io.BytesIO()
    image = Image.fromarray((ramp(SIDE, SIDE) % 256).astype(np.uint8)).convert(mode)
    image.save(out, form)
    return out.getvalue()


def _nifti() -> bytes:
    volume = np.arange(8 * 8 * 8, dtype=np.int16).reshape(8, 8, 8)
    return bytes(nib.Nifti1Image(volume - 500, np.diag([1.0, 1, 1, 1])).to_bytes())


def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", file_of(_small("zip")))
    return out.getvalue()


def _lossless_jpeg() -> bytes:
    path = get_testdata_file("SC_rgb_jpeg_gdcm.dcm", download=False)
    return Path(str(path)).read_bytes()


@cache
def seeds() -> tuple[Seed, ...]:
    """Every format and transfer syntax, small."""
    flat = {**colour("YBR_FULL", colours()[:SIDE, :SIDE].tobytes())}
    indexed = {
        **palette(1000, 999),
        PIXELS: ("OW", (ramp(SIDE, SIDE) % 999).astype("<u2").tobytes()),
    }
    ct = {**ct_slice("ct", 0), 0x00280010: ("US", us(SIDE)), 0x00280011: ("US", us(SIDE))}
    ct[PIXELS] = ("OW", ramp(SIDE, SIDE).astype("<u2").tobytes())
    report = "FINDINGS: The heart is normal. Größe 3.5 cm.\nIMPRESSION: Normal.\n" * 9
    files = {
        "explicit.dcm": file_of(_small("a")),
        "implicit.dcm": file_of(_small("b"), IMPLICIT),
        "deflated.dcm": file_of(_small("c"), DEFLATED),
        "big.dcm": file_of(_small("d"), BIG_ENDIAN),
        "rich.dcm": file_of(_rich("e"), EXPLICIT),
        "rich-implicit.dcm": file_of(_without_sequences(_rich("f")), IMPLICIT),
        "nested.dcm": _nested("g"),
        "enhanced.dcm": _enhanced("h"),
        "ct.dcm": file_of(ct),
        "ybr.dcm": file_of({**_small("i"), **flat}),
        "palette.dcm": file_of({**_small("j"), **indexed}),
        "rle.dcm": _packed(RLE),
        "rle-frames.dcm": _packed(RLE, 3),
        "jpeg-ls.dcm": _packed(JPEG_LS),
        "j2k.dcm": _packed(J2K_LOSSLESS),
        "jpeg.dcm": compressed({**_small("k"), **EIGHT}, JPEG_BASELINE, [jpeg(SIDE, SIDE)]),
        "lossless.dcm": _lossless_jpeg(),
        "a.png": _picture("PNG"),
        "a.jpg": _picture("JPEG", "RGB"),
        "a.tif": _picture("TIFF"),
        "a.nii": _nifti(),
        "a.nii.gz": gzip.compress(_nifti(), mtime=0),
        "a.txt": report.encode(),
        "a.zip": _zip(),
    }  # fmt: skip
    return tuple(Seed(name, data, _spots(name, data)) for name, data in files.items())


def _spots(name: str, data: bytes) -> tuple[tuple[int, int, int], ...]:
    """Where elements stand; none where the data set is deflated or no DICOM."""
    if not name.endswith(".dcm") or name == "deflated.dcm":
        return ()
    tree = walk(open_body(data))
    found = sorted(tree.elements.values(), key=lambda e: e.start)
    long = ("OB", "OW", "SQ", "UN")
    return tuple((e.start - (12 if e.vr in long else 8), e.start, e.end) for e in found)


def mutant(seed: int, index: int) -> tuple[str, bytes]:
    """Name and bytes of one damaged file."""
    rng = Random(f"{seed}:{index}")
    origin = seeds()[index % len(seeds())]
    data = bytearray(origin.data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
        choice = rng.choice(_ANYWHERE + _STRUCTURE if origin.spots else _ANYWHERE)
        choice(rng, data, origin)
        if not data:
            break
    if origin.name == "deflated.dcm" and rng.random() < 0.5:
        inner = bytearray(file_of(_small("c")))
        _flip(rng, inner, origin)
        body = open_body(bytes(file_of(_small("c")))).start
        data = bytearray(origin.data[:body]) + _deflated(bytes(inner[body:]))
    return origin.name, bytes(data)


Damage = Callable[[Random, bytearray, Seed], None]


def _place(rng: Random, data: bytearray) -> int:
    """Anywhere, but more often near the front, where headers are."""
    limit = len(data) if rng.random() < 0.5 else min(len(data), 1200)
    return rng.randrange(limit) if limit else 0


def _flip(rng: Random, data: bytearray, _: Seed) -> None:
    for _ in range(rng.randint(1, 8)):
        data[_place(rng, data)] ^= 1 << rng.randrange(8)


def _set(rng: Random, data: bytearray, _: Seed) -> None:
    data[_place(rng, data)] = rng.randrange(256)


def _number(rng: Random, data: bytearray, _: Seed) -> None:
    order, at = rng.choice("<>"), _place(rng, data)
    if rng.random() < 0.5:
        data[at : at + 2] = struct.pack(order + "H", rng.choice(NUMBERS))
    else:
        data[at : at + 4] = struct.pack(order + "I", rng.choice(LONG_NUMBERS))


def _word(rng: Random, data: bytearray, _: Seed) -> None:
    word, at = rng.choice(WORDS), _place(rng, data)
    data[at : at + len(word)] = word


def _cut(rng: Random, data: bytearray, _: Seed) -> None:
    del data[_place(rng, data) :]


def _drop(rng: Random, data: bytearray, _: Seed) -> None:
    at = _place(rng, data)
    del data[at : at + rng.randint(1, 200)]


def _double(rng: Random, data: bytearray, _: Seed) -> None:
    at = _place(rng, data)
    data[at:at] = data[at : at + rng.randint(1, 400)] * rng.randint(1, 4)


def _splice(rng: Random, data: bytearray, _: Seed) -> None:
    other = rng.choice(seeds()).data
    start, at = rng.randrange(len(other)), _place(rng, data)
    piece = other[start : start + rng.randint(1, 600)]
    data[at : at + (len(piece) if rng.random() < 0.5 else 0)] = piece


def _noise(rng: Random, data: bytearray, _: Seed) -> None:
    at = _place(rng, data)
    data[at : at + 40] = rng.randbytes(rng.randint(1, 40))


def _length(rng: Random, data: bytearray, origin: Seed) -> None:
    head, value, _ = rng.choice(origin.spots)
    if value - head == 12:
        data[head + 8 : value] = struct.pack("<I", rng.choice(LONG_NUMBERS))
    else:
        data[head + 6 : value] = struct.pack("<H", rng.choice(NUMBERS))


def _vr(rng: Random, data: bytearray, origin: Seed) -> None:
    head, _, _ = rng.choice(origin.spots)
    data[head + 4 : head + 6] = rng.choice(VRS)


def _tag(rng: Random, data: bytearray, origin: Seed) -> None:
    """Give one element another's tag."""
    one, other = rng.choice(origin.spots)[0], rng.choice(origin.spots)[0]
    data[one : one + 4] = origin.data[other : other + 4]


def _swap(rng: Random, data: bytearray, origin: Seed) -> None:
    (a, _, a_end), (b, _, b_end) = sorted(rng.choices(origin.spots, k=2))
    first, second = bytes(data[a:a_end]), bytes(data[b:b_end])
    if a_end <= b:
        data[b:b_end] = first
        data[a:a_end] = second


def _value(rng: Random, data: bytearray, origin: Seed) -> None:
    """Overwrite a value, its length unchanged."""
    _, value, end = rng.choice(origin.spots)
    size = min(end - value, 64)
    word = rng.choice((*WORDS, rng.randbytes(size)))
    data[value : value + size] = (word * (size // len(word) + 1))[:size] if word else b""


def _element_gone(rng: Random, data: bytearray, origin: Seed) -> None:
    head, _, end = rng.choice(origin.spots)
    del data[head:end]


def _element_twice(rng: Random, data: bytearray, origin: Seed) -> None:
    head, _, end = rng.choice(origin.spots)
    data[head:head] = origin.data[head:end]


_ANYWHERE: tuple[Damage, ...] = (
    _flip, _flip, _set, _number, _word, _cut, _drop, _double, _splice, _noise
)  # fmt: skip
_STRUCTURE: tuple[Damage, ...] = (
    _length, _length, _vr, _tag, _swap, _value, _value, _element_gone, _element_twice
)  # fmt: skip
