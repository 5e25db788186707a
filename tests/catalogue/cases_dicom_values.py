"""Values that lie about what pixels are, mean and belong to; one radiograph each."""

from __future__ import annotations

import struct

import numpy as np

from catalogue.case import Array, Case
from catalogue.dicom import grey, one, plain, spoilt
from catalogue.raw import (
    BIG_ENDIAN,
    IMPLICIT,
    PIXELS,
    element,
    file_of,
    item,
    meta,
    part10,
    ramp,
    text,
    uid,
    us,
    xray,
)

ROWS, COLUMNS, FRAMES, SAMPLES = 0x00280010, 0x00280011, 0x00280008, 0x00280002
PHOTOMETRIC, PLANAR = 0x00280004, 0x00280006
ALLOCATED, STORED, HIGH, SIGNED = 0x00280100, 0x00280101, 0x00280102, 0x00280103
SPACING, ORIENTATION, POSITION = 0x00280030, 0x00200037, 0x00200032
INTERCEPT, SLOPE = 0x00281052, 0x00281053
CENTER, WIDTH = 0x00281050, 0x00281051
CHARSET, NAME, PATIENT = 0x00080005, 0x00100010, 0x00100020
STUDY, SERIES, SOP = 0x0020000D, 0x0020000E, 0x00080018

BIG = us(65535)
WEDGES = {"rows": np.mgrid[:64, :64][0] * 60, "columns": np.mgrid[:64, :64][1] * 60}


def ds(value: str) -> tuple[str, bytes]:
    """A decimal string."""
    return "DS", text(value)


def slope(value: str, intercept: str = "0") -> dict[int, tuple[str, bytes]]:
    """A rescale."""
    return {SLOPE: ds(value), INTERCEPT: ds(intercept)}


def luma(rgb_HW3: np.ndarray) -> Array:
    """The grey that colours become (ITU-R BT.601)."""
    return rgb_HW3.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)


def colours() -> np.ndarray:
    """A colour picture, (64, 64, 3)."""
    picture = np.stack([ramp() % 251, ramp() % 241, ramp() % 239], axis=-1)
    return picture.astype(np.uint8)


def colour(photometric: str, data: bytes, planar: int = 0) -> dict[int, tuple[str, bytes]]:
    """The elements of a colour picture of 8 bits."""
    return {
        SAMPLES: ("US", us(3)), PHOTOMETRIC: ("CS", text(photometric)), PLANAR: ("US", us(planar)),
        ALLOCATED: ("US", us(8)), STORED: ("US", us(8)), HIGH: ("US", us(7)),
        PIXELS: ("OB", data),
    }  # fmt: skip


def ybr_rgb() -> Array:
    """The colours of `colours` read as YCbCr, by PS3.3 C.7.6.3.1.2, rounded and clipped."""
    y, cb, cr = (colours()[..., k].astype(np.float64) for k in range(3))
    red = y + 1.402 * (cr - 128)
    green = y - 0.114 * 1.772 / 0.587 * (cb - 128) - 0.299 * 1.402 / 0.587 * (cr - 128)
    blue = y + 1.772 * (cb - 128)
    return np.clip(np.floor(np.stack([red, green, blue], axis=-1) + 0.5), 0, 255)


def signed_12() -> Array:
    """Twelve signed bits, of both signs."""
    return ramp().astype(np.float32) - 2000


def palette(entries: int, top: int, data_entries: int | None = None) -> dict[int, object]:
    """A palette of `entries` grey steps over pixels that go up to `top`."""
    table = (np.arange(data_entries or entries) * 2 % 65536).astype("<u2").tobytes()
    return {
        PHOTOMETRIC: ("CS", text("PALETTE COLOR")),
        **{0x00281101 + k: ("US", us(entries, 0, 16)) for k in range(3)},
        **{0x00281201 + k: ("OW", table) for k in range(3)},
        PIXELS: ("OW", (ramp() % (top + 1)).astype("<u2").tobytes()),
    }


def table(entries: int, first: int, bits: int, values: np.ndarray) -> bytes:
    """The item of a lookup table's sequence."""
    return item(
        element(0x00283002, "US", us(entries, first, bits))
        + element(0x00283006, "OW", values.astype("<u2").tobytes())
    )


def one_bit() -> np.ndarray:
    """A picture of single bits."""
    return ramp() // 7 % 2


BITS = {ALLOCATED: ("US", us(1)), STORED: ("US", us(1)), HIGH: ("US", us(0))}
FOUR_BYTES = {ALLOCATED: ("US", us(32)), STORED: ("US", us(32)), HIGH: ("US", us(31))}
MASKED = {PIXELS: ("OW", (ramp() | 0xA000).astype("<u2").tobytes())}

CASES: tuple[Case, ...] = (
    # Dimensions.
    spoilt(15, "rows-of-3-bytes", "REJECT:bad_value_length", {ROWS: ("US", b"\x40\0\0")}),
    spoilt(16, "rows-as-ss", "FIX:wrong_vr", {ROWS: ("SS", us(64))}),
    spoilt(16, "rows-as-ul", "FIX:wrong_vr", {ROWS: ("UL", struct.pack("<I", 64))}),
    spoilt(16, "rows-as-text", "FIX:wrong_vr", {ROWS: ("IS", b"64")}),
    spoilt(16, "rows-as-ow", "FIX:wrong_vr", {ROWS: ("OW", us(64))}),
    spoilt(16, "rows-as-un", "ACCEPT", {ROWS: ("UN", us(64))}),
    spoilt(16, "rows-as-words", "REJECT:bad_number", {ROWS: ("LO", b"many")}),
    spoilt(16, "spacing-as-fd", "FIX:wrong_vr", {SPACING: ("FD", struct.pack("<2d", 0.5, 0.5))}),
    spoilt(16, "spacing-as-lo", "FIX:wrong_vr", {SPACING: ("LO", b"0.5\\0.5 ")}),
    spoilt(19, "rows-0", "REJECT:bad_dims", {ROWS: ("US", us(0))}),
    spoilt(20, "65535-squared", "REJECT:declared_exceeds_bytes",
           {ROWS: ("US", BIG), COLUMNS: ("US", BIG)}),
    spoilt(21, "frames-2e9", "REJECT:declared_exceeds_bytes", {FRAMES: ("IS", b"2000000000")}),
    spoilt(21, "frames-5", "REJECT:declared_exceeds_bytes", {FRAMES: ("IS", b"5 ")}),
    spoilt(22, "frames-negative", "REJECT:bad_dims", {FRAMES: ("IS", b"-1")}),
    spoilt(23, "frames-0", "FIX:zero_frames", {FRAMES: ("IS", b"0 ")}),
    spoilt(23, "frames-empty", "ACCEPT", {FRAMES: ("IS", b"")}),
    spoilt(0, "frames-overflow", "REJECT:bad_number", {FRAMES: ("IS", b"99999999999999999999")}),
    spoilt(0, "frames-1e400", "REJECT:bad_number", {FRAMES: ("IS", b"1e400 ")}),
    spoilt(0, "frames-fraction", "REJECT:bad_number", {FRAMES: ("IS", b"1.5 ")}),
    spoilt(0, "frames-words", "REJECT:bad_number", {FRAMES: ("IS", b"1A")}),
    spoilt(0, "frames-underscore", "REJECT:bad_number", {FRAMES: ("IS", b"1_0 ")}),
    spoilt(0, "frames-arabic-digits", "REJECT:bad_number", {FRAMES: ("IS", "\u0661".encode())}),
    spoilt(0, "frames-two", "REJECT:vm", {FRAMES: ("IS", b"1\\1 ")}),
    spoilt(62, "rows-two-values", "REJECT:vm", {ROWS: ("US", us(64, 64))}),
    spoilt(62, "allocated-two-values", "REJECT:vm", {ALLOCATED: ("US", us(16, 16))}),
    spoilt(0, "rows-empty", "REJECT:pixel_module", {ROWS: ("US", b"")}),
    spoilt(0, "columns-absent", "REJECT:pixel_module", {COLUMNS: None}),
    spoilt(0, "rows-and-columns-absent", "REJECT:pixel_module", {ROWS: None, COLUMNS: None}),
    spoilt(0, "excess-pixels", "FLAG:excess_pixels",
           {PIXELS: ("OW", grey().astype("<u2").tobytes() + bytes(64))}),
    *(spoilt(0, f"wedge-along-{axis}", "ACCEPT", {PIXELS: ("OW", data.astype("<u2").tobytes())},
             lambda data=data: data.astype(np.float32)) for axis, data in WEDGES.items()),
    # Bits.
    spoilt(25, "allocated-7", "REJECT:bad_bits", {ALLOCATED: ("US", us(7))}),
    spoilt(25, "allocated-0", "REJECT:bad_bits", {ALLOCATED: ("US", us(0))}),
    spoilt(25, "allocated-12", "REJECT:bad_bits", {ALLOCATED: ("US", us(12))}),
    spoilt(25, "allocated-absent", "REJECT:pixel_module", {ALLOCATED: None}),
    spoilt(26, "stored-20-of-16", "REJECT:bad_bits", {STORED: ("US", us(20))}),
    spoilt(26, "stored-0", "REJECT:bad_bits", {STORED: ("US", us(0))}),
    spoilt(26, "stored-absent", "REJECT:bad_bits", {STORED: None}),
    spoilt(0, "sixteen-bits-declared-eight", "REJECT:length_mismatch",
           {ALLOCATED: ("US", us(8)), STORED: ("US", us(8)), HIGH: ("US", us(7))}),
    spoilt(27, "high-bit-15-of-12", "REJECT:high_bit", {HIGH: ("US", us(15))}),
    spoilt(27, "high-bit-absent", "ACCEPT", {HIGH: None}),
    spoilt(28, "three-samples-of-one", "REJECT:pixel_module", {SAMPLES: ("US", us(3))}),
    spoilt(28, "three-samples-rgb", "REJECT:pixel_module",
           {SAMPLES: ("US", us(3)), PHOTOMETRIC: ("CS", text("RGB"))}),
    spoilt(28, "one-sample-rgb", "REJECT:pixel_module", {PHOTOMETRIC: ("CS", text("RGB"))}),
    spoilt(29, "no-samples", "REJECT:pixel_module", {SAMPLES: ("US", us(0))}),
    spoilt(29, "samples-4", "REJECT:pixel_module", {SAMPLES: ("US", us(4))}),
    spoilt(30, "representation-7", "REJECT:pixel_module", {SIGNED: ("US", us(7))}),
    spoilt(30, "representation-absent", "REJECT:pixel_module", {SIGNED: None}),
    spoilt(31, "photometric-bogus", "REJECT:pixel_module", {PHOTOMETRIC: ("CS", b"SEPIA ")}),
    spoilt(0, "planar-5", "REJECT:pixel_module",
           colour("RGB", colours().tobytes(), planar=5)),
    # Rescale and window.
    spoilt(32, "slope-nan", "REJECT:nonfinite_rescale", slope("NaN")),
    spoilt(32, "intercept-nan", "REJECT:nonfinite_rescale", slope("1", "nan")),
    spoilt(33, "slope-inf", "REJECT:nonfinite_rescale", slope("Inf")),
    spoilt(33, "intercept-minus-inf", "REJECT:nonfinite_rescale", slope("1", "-Infinity")),
    spoilt(34, "slope-0", "REJECT:zero_slope", slope("0")),
    spoilt(34, "slope-0e5", "REJECT:zero_slope", slope("0.0e5")),
    spoilt(34, "slope-1e-320", "REJECT:zero_slope", slope("1e-320")),
    spoilt(35, "slope-1e308", "REJECT:nonfinite_rescale", slope("1e308")),
    spoilt(35, "slope-1e400", "REJECT:nonfinite_rescale", slope("1e400")),
    spoilt(35, "intercept-1e39", "REJECT:nonfinite_rescale", slope("1", "1e39")),
    spoilt(36, "slope-comma", "REJECT:bad_number", slope("1,5")),
    spoilt(36, "slope-underscore", "REJECT:bad_number", slope("1_5")),
    spoilt(36, "slope-hex", "REJECT:bad_number", slope("0x10")),
    spoilt(36, "slope-two", "REJECT:vm", slope("1\\2")),
    spoilt(36, "slope-fd-nan", "REJECT:nonfinite_rescale",
           {SLOPE: ("FD", struct.pack("<d", float("nan"))), INTERCEPT: ds("0")}),
    spoilt(37, "slope-empty", "REJECT:bad_number", slope("")),
    spoilt(37, "intercept-absent", "REJECT:bad_number", {SLOPE: ds("2")}),
    spoilt(0, "slope-padded", "ACCEPT", slope("  1.0 ", " 0 ")),
    spoilt(0, "slope-plus", "ACCEPT", slope("+1.", "-.0")),
    spoilt(0, "window-nan", "FLAG:bad_window", {CENTER: ds("nan"), WIDTH: ds("100")}),
    spoilt(0, "window-inf", "FLAG:bad_window", {CENTER: ds("100"), WIDTH: ds("inf")}),
    spoilt(0, "window-width-0", "FLAG:bad_window", {CENTER: ds("100"), WIDTH: ds("0")}),
    spoilt(0, "window-width-negative", "FLAG:bad_window", {CENTER: ds("100"), WIDTH: ds("-5")}),
    spoilt(0, "window-words", "FLAG:bad_window", {CENTER: ds("wide"), WIDTH: ds("100")}),
    spoilt(0, "window-empty", "ACCEPT", {CENTER: ds(""), WIDTH: ds("")}),
    spoilt(0, "window-without-width", "ACCEPT", {CENTER: ds("100")}),
    # Pixels and their meaning.
    spoilt(38, "monochrome1", "FIX:monochrome1", {PHOTOMETRIC: ("CS", text("MONOCHROME1"))},
           lambda: grey().min() + grey().max() - grey()),
    spoilt(38, "monochrome1-inverse-shape", "FIX:monochrome1",
           {PHOTOMETRIC: ("CS", text("MONOCHROME1")), 0x20500020: ("CS", text("INVERSE"))},
           lambda: grey().min() + grey().max() - grey()),
    spoilt(38, "monochrome2-inverse-shape", "FLAG:lut_shape",
           {0x20500020: ("CS", text("INVERSE"))}),
    spoilt(38, "monochrome2-identity-shape", "ACCEPT", {0x20500020: ("CS", text("IDENTITY"))}),
    spoilt(38, "monochrome1-identity-shape", "FIX:lut_shape+monochrome1",
           {PHOTOMETRIC: ("CS", text("MONOCHROME1")), 0x20500020: ("CS", text("IDENTITY"))},
           lambda: grey().min() + grey().max() - grey()),
    spoilt(39, "noise-in-high-bits", "FIX:high_bits", MASKED),
    spoilt(39, "overlay-in-high-bits", "FIX:high_bits+overlay_bits",
           {**MASKED, 0x60000010: ("US", us(64)), 0x60000011: ("US", us(64)),
            0x60000100: ("US", us(16)), 0x60000102: ("US", us(13))}),
    spoilt(40, "rgb", "ACCEPT", colour("RGB", colours().tobytes()), lambda: luma(colours())),
    spoilt(40, "rgb-planar", "ACCEPT",
           colour("RGB", np.moveaxis(colours(), -1, 0).tobytes(), planar=1),
           lambda: luma(colours())),
    spoilt(40, "ybr-full", "FIX:ybr_converted", colour("YBR_FULL", colours().tobytes()),
           lambda: luma(ybr_rgb())),
    spoilt(41, "palette-index-beyond", "REJECT:palette_index", palette(256, 999)),
    spoilt(41, "palette", "ACCEPT", palette(1000, 999),
           lambda: luma(np.repeat((ramp() % 1000 * 2)[..., None], 3, axis=-1))),
    spoilt(41, "palette-short", "REJECT:bad_lut", palette(1000, 999, data_entries=300)),
    spoilt(41, "palette-absent", "REJECT:palette", {PHOTOMETRIC: ("CS", text("PALETTE COLOR"))}),
    spoilt(42, "signed-12-of-16", "FIX:sign_extended",
           {SIGNED: ("US", us(1)),
            PIXELS: ("OW", (signed_12().astype("<i2") & 0x0FFF).astype("<u2").tobytes())},
           signed_12),
    spoilt(42, "signed-12-already-extended", "FIX:sign_extended",
           {SIGNED: ("US", us(1)), PIXELS: ("OW", signed_12().astype("<i2").tobytes())},
           signed_12),
    spoilt(43, "constant", "FLAG:no_information", {PIXELS: ("OW", us(7) * 4096)},
           lambda: np.full((64, 64), 7, np.float32)),
    spoilt(43, "all-zero", "FLAG:no_information", {PIXELS: ("OW", bytes(8192))},
           lambda: np.zeros((64, 64), np.float32)),
    one(0, "big-endian", "ACCEPT", lambda n: _big_endian(n)),
    spoilt(0, "one-bit", "ACCEPT",
           {**BITS, PIXELS: ("OB", np.packbits(one_bit(), bitorder="little").tobytes())},
           lambda: one_bit().astype(np.float32)),
    spoilt(0, "thirty-two-bits", "ACCEPT",
           {**FOUR_BYTES, PIXELS: ("OW", ramp().astype("<u4").tobytes())}),
    spoilt(0, "eight-bits", "ACCEPT",
           {ALLOCATED: ("US", us(8)), STORED: ("US", us(8)), HIGH: ("US", us(7)),
            PIXELS: ("OB", (ramp() % 256).astype(np.uint8).tobytes())},
           lambda: grey() % 256),
    spoilt(0, "float-pixels", "REJECT:pixel_module",
           {PIXELS: None, 0x7FE00008: ("OF", np.full(4096, np.nan, "<f4").tobytes())}),
    spoilt(0, "double-pixels", "REJECT:pixel_module",
           {PIXELS: None, 0x7FE00009: ("OD", np.full(4096, np.inf, "<f8").tobytes())}),
    spoilt(0, "pixels-of-length-0", "REJECT:pixel_module", {PIXELS: ("OW", b"")}),
    one(59, "two-pixel-elements", "REJECT:pixel_module",
        lambda n: plain(n) + element(PIXELS, "OW", bytes(8192))),
    spoilt(59, "integer-and-float-pixels", "REJECT:pixel_module",
           {0x7FE00008: ("OF", bytes(4 * 4096))}),
    spoilt(60, "no-pixel-element", "REJECT:pixel_module", {PIXELS: None}),
    spoilt(61, "no-photometric", "REJECT:pixel_module", {PHOTOMETRIC: None}),
    spoilt(61, "photometric-empty", "REJECT:pixel_module", {PHOTOMETRIC: ("CS", b"")}),
    spoilt(61, "structured-report", "IGNORE:no_pixels",
           {0x00080060: ("CS", b"SR"), ROWS: None, COLUMNS: None, PIXELS: None}),
    spoilt(61, "document", "IGNORE:no_pixels",
           {0x00080060: ("CS", b"DOC "), ROWS: None, COLUMNS: None, PIXELS: None,
            0x00420011: ("OB", b"%PDF-1.7")}),
    # Lookup tables.
    spoilt(0, "display-table-short", "REJECT:bad_lut",
           {0x00283010: ("SQ", table(4096, 0, 16, np.arange(100)))}),
    spoilt(0, "display-table-of-40-bits", "REJECT:bad_lut",
           {0x00283010: ("SQ", table(4096, 0, 40, np.arange(4096)))}),
    spoilt(0, "display-table", "ACCEPT",
           {0x00283010: ("SQ", table(4096, 0, 16, np.arange(4096) * 3))}, lambda: grey() * 3),
    spoilt(0, "modality-table", "ACCEPT",
           {0x00283000: ("SQ", table(4096, 0, 16, np.arange(4096) + 5))}, lambda: grey() + 5),
    spoilt(0, "modality-table-without-data", "REJECT:bad_lut",
           {0x00283000: ("SQ", item(element(0x00283002, "US", us(4096, 0, 16))))}),
    spoilt(0, "display-table-is-a-number", "REJECT:bad_value", {0x00283010: ("US", us(1))}),
    spoilt(0, "frame-groups-are-words", "REJECT:bad_value", {0x52009230: ("LO", b"none")}),
    # Words and identifiers.
    spoilt(53, "charset-unknown", "FLAG:charset",
           {CHARSET: ("CS", b"ISO_IR 999"), NAME: ("PN", b"M\xfcller^Canary ")}),
    spoilt(53, "charset-utf8-broken", "FLAG:charset",
           {CHARSET: ("CS", b"ISO_IR 192"), NAME: ("PN", b"M\xfcller^Canary ")}),
    spoilt(53, "charset-missing", "FLAG:charset", {NAME: ("PN", b"M\xfcller^Canary ")}),
    spoilt(53, "charset-utf16-inside", "FLAG:charset",
           {0x0008103F: ("LO", b"x "), PATIENT: ("LO", "Canary1".encode("utf-16-le"))}),
    spoilt(53, "charset-latin1", "ACCEPT",
           {CHARSET: ("CS", b"ISO_IR 100"), NAME: ("PN", b"M\xfcller^Canary ")}),
    spoilt(53, "charset-japanese", "ACCEPT",
           {CHARSET: ("CS", b"\\ISO 2022 IR 87 "),
            NAME: ("PN", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B")}),
    spoilt(54, "study-uid-path", "REJECT:bad_uid", {STUDY: ("UI", uid("../../etc/passwd"))}),
    spoilt(54, "sop-uid-words", "REJECT:bad_uid", {SOP: ("UI", uid("1.2.abc"))}),
    spoilt(54, "series-uid-newline", "REJECT:bad_uid", {SERIES: ("UI", b"1.2\n3.4 ")}),
    spoilt(55, "uid-of-204", "REJECT:bad_uid", {SERIES: ("UI", uid("1." * 101 + "11"))}),
    spoilt(0, "uids-stripped", "ACCEPT", {STUDY: ("UI", b""), SERIES: None, SOP: None}),
    spoilt(56, "flat-spacing-0", "FLAG:bad_spacing", {SPACING: ds("0\\0")}),
    spoilt(56, "flat-spacing-negative", "FLAG:bad_spacing", {SPACING: ds("-0.5\\0.5")}),
    spoilt(56, "flat-spacing-nan", "REJECT:bad_number", {SPACING: ds("NaN\\NaN")}),
    spoilt(56, "flat-spacing-single", "REJECT:vm", {SPACING: ds("0.5")}),
    spoilt(56, "flat-spacing-comma", "REJECT:bad_number", {SPACING: ds("0,5\\0,5")}),
    spoilt(57, "flat-orientation-0", "FLAG:bad_orientation", {ORIENTATION: ds("0\\0\\0\\0\\0\\0")}),
    spoilt(57, "flat-orientation-five", "REJECT:vm", {ORIENTATION: ds("1\\0\\0\\0\\1")}),
    spoilt(0, "position-inf", "REJECT:bad_number", {POSITION: ds("0\\0\\inf")}),
    spoilt(0, "date-is-none", "FLAG:bad_date", {0x00080020: ("DA", b"20201399")}),
    spoilt(0, "date-words", "FLAG:bad_date", {0x00080020: ("DA", b"yesterday ")}),
    spoilt(0, "date-legacy", "ACCEPT", {0x00080020: ("DA", b"2020.02.29")}),
    spoilt(0, "age-words", "FLAG:bad_age", {0x00101010: ("AS", b"old ")}),
    spoilt(0, "age-negative", "FLAG:bad_age", {0x00101010: ("AS", b"-45Y")}),
    spoilt(0, "age-empty", "ACCEPT", {0x00101010: ("AS", b"")}),
    spoilt(0, "odd-lengths", "ACCEPT",
           {NAME: ("PN", b"Canary^Odd"[:9]), 0x00181030: ("LO", b"CHE")}),
    spoilt(0, "another-modality", "IGNORE:other_modality", {0x00080060: ("CS", b"US")}),
    spoilt(0, "name-of-a-kilobyte", "ACCEPT", {NAME: ("PN", b"Canary^" + b"x" * 1001)}),
    one(0, "values-implicit-odd-rows", "REJECT:bad_value_length",
        lambda n: part10(meta(IMPLICIT), b"".join(
            element(t, "", b"\x40\0\0" if t == ROWS else v)
            for t, (_, v) in sorted(xray(n).items())))),
)  # fmt: skip


def _big_endian(name: str) -> bytes:
    """The sound file in the retired byte order."""
    swapped = {}
    for tag, (vr, value) in xray(name).items():
        words = np.frombuffer(value, "<u2").byteswap().tobytes() if vr in ("US", "OW") else value
        swapped[tag] = (vr, words)
    return file_of(swapped, BIG_ENDIAN)
