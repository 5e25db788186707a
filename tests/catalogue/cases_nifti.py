"""NIfTI: bombs, cut ends, headers that lie about size, place, units and values."""

from __future__ import annotations

import struct
from collections.abc import Callable

import nibabel as nib
import numpy as np

from catalogue.case import Array, Case, Write
from catalogue.nifti import AFFINE, body, fields_of, header, nifti, oracle, packed
from medvlp_volumetric.nifti import read_nifti

NAN, INF = float("nan"), float("inf")


def written(data: Callable[[], bytes], file: str) -> Write:
    """A writer of one file."""

    def write(folder):
        (folder / file).write_bytes(data())
        return [folder / file]

    return write


def case(
    name: str,
    expected: str,
    data: Callable[[], bytes],
    file: str = "",
    oracle: Callable[[], Array] | None = None,
) -> Case:
    return Case(
        number=71,
        name=f"nifti-{name}",
        archive="nifti",
        write=written(data, file or f"{name}.nii"),
        expected=expected,
        oracle=oracle,
        read=lambda paths: read_nifti(paths[0]).hu_DHW,
    )


def changed(name: str, expected: str, **changes: object) -> Case:
    """The sound file with some fields changed."""
    return case(name, expected, lambda: nifti(**changes))


def moved(name: str, expected: str, affine: object, **changes: object) -> Case:
    """The sound file at another place."""
    rows = tuple(np.asarray(affine, float)[:3].ravel())
    steps = np.linalg.norm(np.asarray(affine, float)[:3, :3], axis=0)
    pixdim = (1.0, *steps, 0, 0, 0, 0) if np.isfinite(steps).all() and steps.all() else None
    more = {"pixdim": pixdim} if pixdim else {}
    return changed(name, expected, srow=rows, **more, **changes)


def nifti2() -> bytes:
    """As nibabel writes NIfTI-2."""
    return nib.Nifti2Image(body(), AFFINE).to_bytes()


def bomb() -> bytes:
    """A stated grid of 2 GiB that is all zeros: 2 MiB of gzip."""
    grid = {**fields_of(body()), "dim": (3, 1024, 1024, 1024, 1, 1, 1, 1)}
    return packed(header(grid) + bytes(4)) + packed(bytes(1 << 25)) * 64


def silent_bomb() -> bytes:
    """A small grid with 192 MiB of zeros behind it."""
    return packed(nifti()) + packed(bytes(1 << 25)) * 6


def with_crc_broken() -> bytes:
    data = bytearray(packed(nifti()))
    data[-6] ^= 0xFF
    return bytes(data)


def fourth(count: int) -> bytes:
    values = np.stack([body()] * count, axis=-1)
    return nifti(values)


def with_value(value: float) -> bytes:
    values = body().astype(np.float32)
    values[3, 3, 3] = value
    return nifti(values)


def extension(size: int) -> bytes:
    """One extension of 32 bytes that says it has `size`."""
    return nifti(between=b"\1\0\0\0" + struct.pack("<ii", size, 6) + b"x" * 24)


def scaled() -> Array:
    return (oracle() * np.float32(0.5) - 24).astype(np.float32)


SHEAR = AFFINE @ np.array([[1, 0.9, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
ROTATED = {"qform_code": 1, "quatern": (0.0, 0.0, 0.7071068), "qoffset": (-9.0, -8.0, 7.0)}

CASES = (
    case("sound", "ACCEPT", nifti, oracle=oracle),
    case("sound-gz", "ACCEPT", lambda: packed(nifti()), "a.nii.gz", oracle),
    case("big-endian", "ACCEPT", lambda: nifti(order=">"), oracle=oracle),
    case("nifti-2", "ACCEPT", nifti2, oracle=oracle),
    case("two-gzip-members", "ACCEPT", lambda: packed(nifti()[:500]) + packed(nifti()[500:]),
         "m.nii.gz", oracle),
    case("one-phase-4d", "ACCEPT", lambda: fourth(1), oracle=oracle),
    case("scaled", "ACCEPT", lambda: nifti(scl_slope=0.5, scl_inter=-24.0), oracle=scaled),
    case("slope-0", "ACCEPT", lambda: nifti(scl_slope=0.0), oracle=oracle),
    case("gz-named-nii", "FIX:wrong_suffix", lambda: packed(nifti()), oracle=oracle),
    case("plain-named-gz", "FIX:wrong_suffix", nifti, "p.nii.gz", oracle),
    case("slope-0-intercept-5", "FIX:rescale_ignored",
         lambda: nifti(scl_slope=0.0, scl_inter=5.0), oracle=oracle),
    case("bitpix-lies", "FIX:wrong_bitpix", lambda: nifti(bitpix=8), oracle=oracle),
    case("trailing-bytes", "FIX:trailing_bytes", lambda: nifti() + b"x" * 200, oracle=oracle),
    case("garbage-after-gzip", "FIX:trailing_bytes", lambda: packed(nifti()) + b"garbage",
         "g.nii.gz", oracle),
    case("extension-lies", "FIX:bad_extension", lambda: extension(1 << 30), oracle=oracle),
    case("extension-sound", "ACCEPT", lambda: extension(32), oracle=oracle),
    changed("units-metres", "FLAG:units_converted", xyzt_units=1,
            srow=tuple((AFFINE[:3] / 1000).ravel()), pixdim=(1, 8e-4, 8e-4, 2e-3, 0, 0, 0, 0)),
    changed("units-microns", "FLAG:units_converted", xyzt_units=3,
            srow=tuple((AFFINE[:3] * 1000).ravel()), pixdim=(1, 800, 800, 2000, 0, 0, 0, 0)),
    changed("units-seconds", "REJECT:bad_units", xyzt_units=6),
    changed("sform-qform-disagree", "FLAG:sform_qform_disagree", **ROTATED),
    changed("pixdim-disagrees", "FLAG:spacing_disagree", pixdim=(1, 3, 3, 3, 0, 0, 0, 0)),
    case("constant", "FLAG:no_information", lambda: nifti(np.full((6, 6, 6), -1000, np.int16))),
    case("empty-mask", "IGNORE:label_map", lambda: nifti(np.zeros((6, 6, 6), np.int16))),
    case("mask", "IGNORE:label_map", lambda: nifti((body() > 0).astype(np.uint8))),
    case("not-hu", "REJECT:not_hu", lambda: nifti(body().astype(np.float32) / 1000)),
    case("values-beyond-hu", "REJECT:not_hu", lambda: nifti(body().astype(np.float32) * 1e6)),
    case("empty", "REJECT:empty", lambda: b""),
    case("text", "REJECT:not_nifti", lambda: b"Dear colleague, \n" * 40),
    case("cut-header", "REJECT:truncated_header", lambda: nifti()[:200]),
    case("cut", "REJECT:truncated_pixels", lambda: nifti()[:-1]),
    case("cut-early", "REJECT:truncated_pixels", lambda: nifti()[:600]),
    case("cut-gzip", "REJECT:inflate", lambda: packed(nifti())[:-300], "c.nii.gz"),
    case("gzip-of-cut", "REJECT:truncated_pixels", lambda: packed(nifti()[:-50]), "d.nii.gz"),
    case("gzip-checksum", "REJECT:inflate", with_crc_broken, "e.nii.gz"),
    case("gzip-of-nothing", "REJECT:empty", lambda: packed(b""), "f.nii.gz"),
    case("gzip-bomb", "REJECT:inflate_ratio", bomb, "h.nii.gz"),
    case("gzip-bomb-behind", "REJECT:inflate_ratio", silent_bomb, "i.nii.gz"),
    case("gzip-declares-all", "REJECT:declared_exceeds_bytes",
         lambda: packed(nifti(dim=(3, 900, 900, 900, 1, 1, 1, 1))), "j.nii.gz"),
    changed("declares-all", "REJECT:declared_exceeds_bytes", dim=(3, 900, 900, 900, 1, 1, 1, 1)),
    changed("dims-overflow", "REJECT:declared_exceeds_bytes",
            dim=(3, 32767, 32767, 32767, 1, 1, 1, 1)),
    changed("magic", "REJECT:not_nifti", magic=b"n+9\0"),
    changed("half-of-a-pair", "REJECT:nifti_pair", magic=b"ni1\0"),
    case("pair-header", "REJECT:nifti_pair", lambda: nifti(magic=b"ni1\0")[:348], "k.hdr"),
    changed("analyze", "REJECT:analyze", magic=bytes(4)),
    changed("header-size", "REJECT:not_nifti", sizeof_hdr=349),
    changed("axes-0", "REJECT:bad_dims", dim=(0, 12, 10, 8, 1, 1, 1, 1)),
    changed("axes-8", "REJECT:bad_dims", dim=(8, 12, 10, 8, 1, 1, 1, 1)),
    changed("axis-negative", "REJECT:bad_dims", dim=(3, 12, -10, 8, 1, 1, 1, 1)),
    changed("axis-of-0", "REJECT:bad_dims", dim=(3, 12, 0, 8, 1, 1, 1, 1)),
    changed("flat", "REJECT:not_3d", dim=(2, 12, 80, 1, 1, 1, 1, 1)),
    case("phases", "REJECT:not_3d", lambda: fourth(3)),
    case("phases-as-3d", "REJECT:length_mismatch",
         lambda: nifti(dim=(3, 12, 10, 8, 1, 1, 1, 1)) + body().tobytes()),
    changed("one-slice", "REJECT:too_few_slices", dim=(3, 12, 80, 1, 1, 1, 1, 1)),
    changed("rgb", "REJECT:bad_datatype", datatype=128, bitpix=24),
    changed("complex", "REJECT:bad_datatype", datatype=32, bitpix=64),
    changed("float-128", "REJECT:bad_datatype", datatype=1536, bitpix=128),
    changed("bits", "REJECT:bad_datatype", datatype=1, bitpix=1),
    changed("datatype-unknown", "REJECT:bad_datatype", datatype=77),
    changed("offset-negative", "REJECT:bad_offset", vox_offset=-352.0),
    changed("offset-inside-header", "REJECT:bad_offset", vox_offset=100.0),
    changed("offset-nan", "REJECT:bad_offset", vox_offset=NAN),
    changed("offset-huge", "REJECT:bad_offset", vox_offset=1e30),
    changed("offset-late", "REJECT:truncated_pixels", vox_offset=368.0),
    changed("slope-nan", "REJECT:nonfinite_rescale", scl_slope=NAN),
    changed("slope-inf", "REJECT:nonfinite_rescale", scl_slope=INF),
    changed("intercept-nan", "REJECT:nonfinite_rescale", scl_inter=NAN),
    changed("slope-1e38", "REJECT:nonfinite_rescale", scl_slope=1e38),
    case("value-nan", "REJECT:nonfinite_pixels", lambda: with_value(NAN)),
    case("value-inf", "REJECT:nonfinite_pixels", lambda: with_value(-INF)),
    changed("no-geometry", "REJECT:no_geometry", sform_code=0),
    moved("affine-nan", "REJECT:bad_affine", np.where(AFFINE == 2, NAN, AFFINE)),
    moved("affine-inf", "REJECT:bad_affine", np.where(AFFINE == -9, INF, AFFINE)),
    moved("affine-singular", "REJECT:bad_affine", AFFINE[:, [0, 0, 2, 3]]),
    moved("affine-of-zeros", "REJECT:bad_affine", np.zeros((4, 4))),
    moved("affine-sheared", "REJECT:bad_affine", SHEAR),
    moved("voxels-of-metres", "REJECT:bad_spacing", AFFINE * 1000),
    changed("qform-impossible", "REJECT:bad_affine", sform_code=0, qform_code=1,
            quatern=(3.0, 3.0, 3.0)),
    changed("pixdim-0", "REJECT:bad_spacing", pixdim=(1, 0.8, 0, 2, 0, 0, 0, 0)),
    changed("pixdim-negative", "REJECT:bad_spacing", pixdim=(1, 0.8, -0.8, 2, 0, 0, 0, 0)),
    changed("pixdim-nan", "REJECT:bad_spacing", pixdim=(1, 0.8, 0.8, NAN, 0, 0, 0, 0)),
)  # fmt: skip
