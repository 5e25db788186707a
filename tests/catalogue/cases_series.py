"""Series whose slices are missing, doubled, tilted or mixed, and files that contradict others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from catalogue.case import Array, Case
from catalogue.raw import (
    PIXELS,
    ct_slice,
    file_of,
    ramp,
    text,
    uid,
    uid_of,
    us,
    xray,
)
from medvlp.archive.series.policy import Policy
from medvlp.archive.series.read import read_series

Change = tuple[str, bytes]
POSITION, ORIENTATION, SLOPE, INTERCEPT = 0x00200032, 0x00200037, 0x00281053, 0x00281052
PADDING = 0x00280120
PATIENT, STUDY, SERIES, SOP, SOP_CLASS = 0x00100020, 0x0020000D, 0x0020000E, 0x00080018, 0x00080016
IMAGE_TYPE, ACQUISITION, MODALITY, SERIES_NUMBER = 0x00080008, 0x00200012, 0x00080060, 0x00200011
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
MEND = "dicom:mended-series"
MENDING = ("options.missing=interpolate", "options.tilt=resample")


class Series:
    """Slices of one case's series, written one after another."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.paths: list[Path] = []

    def add(self, index: int, step_mm: float = 2.0, **changes: Change | None) -> Path:
        """Write a sound slice with some elements changed (``t00200032=...``) or left out."""
        elements = dict(ct_slice(self.name, index, step_mm))
        elements[SOP] = ("UI", uid(uid_of(self.name, 100 + len(self.paths))))
        for tag, value in changes.items():
            if value is None:
                elements.pop(int(tag[1:], 16), None)
            else:
                elements[int(tag[1:], 16)] = value
        path = self.folder / f"{len(self.paths)}.dcm"
        path.write_bytes(file_of(dict(sorted(elements.items()))))
        self.paths.append(path)
        return path


def key(tag: int) -> str:
    return f"t{tag:08x}"


def change(**values: Change | None) -> dict[str, Change | None]:
    return {key(globals()[name]): value for name, value in values.items()}


def place(x: float, y: float, z: float) -> Change:
    return "DS", text(f"{x:g}\\{y:g}\\{z:g}")


Fill = Callable[[Series], Sequence[Path] | None]


def case(
    number: int,
    name: str,
    expected: str,
    fill: Fill,
    *,
    archive: str = "dicom",
    oracle: Callable[[], Array] | None = None,
) -> Case:
    """A case whose `fill` writes slices and returns those whose verdict counts, by default all."""

    def write(folder: Path) -> Sequence[Path]:
        made = Series(folder, name)
        return fill(made) or made.paths

    policy = Policy(missing="interpolate", tilt="resample") if archive == MEND else Policy()
    return Case(
        number=number,
        name=name,
        archive=archive,
        write=write,
        expected=expected,
        read=None if oracle is None else lambda paths: read_series(paths, policy).hu_DHW,
        oracle=oracle,
        overrides=MENDING if archive == MEND else (),
    )


def at(*indices: float, **changes: Change | None) -> Fill:
    """Slices at these multiples of 2 mm."""

    def fill(made: Series) -> None:
        for index in indices:
            own = {**changes, key(POSITION): place(0, 0, 2 * index)}
            made.add(int(index), **own)

    return fill


def hounsfield(*indices: int) -> Array:
    return np.stack([ramp().astype(np.float32) + k - 1024 for k in indices])


def doubled(pixels_of: int, **changes: Change | None) -> Fill:
    """Four slices, and one more in the place of the third."""

    def fill(made: Series) -> Sequence[Path]:
        at(0, 1, 2, 3)(made)
        kept = list(made.paths)
        made.add(pixels_of, **{**changes, key(POSITION): place(0, 0, 4)})
        return kept

    return fill


def tilted(made: Series) -> None:
    cos, sin = np.cos(0.25), np.sin(0.25)
    for k in range(4):
        made.add(k, **change(ORIENTATION=("DS", text(f"1\\0\\0\\0\\{cos:.9f}\\{-sin:.9f}"))))


def slopes(made: Series) -> None:
    for k in range(4):
        made.add(k, **change(SLOPE=("DS", text(str(1 + k % 2)))))


def two_slopes() -> Array:
    return np.stack([(ramp().astype(np.float32) + k) * (1 + k % 2) - 1024 for k in range(4)])


def directions(made: Series) -> None:
    at(0, 1, 2)(made)
    for k in range(3):
        coronal = ("DS", text("1\\0\\0\\0\\0\\-1"))
        made.add(k, **change(ORIENTATION=coronal, POSITION=place(0, 3 * k, 60)))


def other_size(made: Series) -> Sequence[Path]:
    """The last slice says that it is 128 x 32, which as many bytes can be (catalogue 24)."""
    at(0, 1, 2)(made)
    kept = list(made.paths)
    made.add(3, t00280010=("US", us(128)), t00280011=("US", us(32)))
    return kept


def size_in_the_middle(made: Series) -> Sequence[Path]:
    at(0, 1, 3)(made)
    kept = list(made.paths)
    made.add(2, t00280010=("US", us(128)), t00280011=("US", us(32)))
    return kept


def with_scout(made: Series) -> Sequence[Path]:
    at(0, 1, 2, 3)(made)
    kept = list(made.paths)
    made.add(9, **change(IMAGE_TYPE=("CS", text("ORIGINAL\\PRIMARY\\LOCALIZER"))))
    return kept


def scout_in(made: Series) -> Sequence[Path]:
    with_scout(made)
    return made.paths[4:]


def dose_sheet(made: Series) -> Sequence[Path]:
    at(0, 1, 2, 3)(made)
    gone = change(POSITION=None, ORIENTATION=None)
    return [made.add(9, **gone, **change(SOP_CLASS=("UI", uid(CAPTURE))))]


def phases(made: Series) -> None:
    for phase in (1, 2):
        for k in range(4):
            acquired = ("IS", text(str(phase)))
            made.add(k + 20 * phase, **change(ACQUISITION=acquired, POSITION=place(0, 0, 2 * k)))


def stripped(made: Series) -> None:
    for number, first in ((1, 0), (2, 300)):
        for k in range(3):
            bare = change(STUDY=None, SERIES=None, SOP_CLASS=None, MODALITY=None)
            which = ("IS", text(str(number)))
            made.add(k, **bare, **change(POSITION=place(0, 0, first + 2 * k), SERIES_NUMBER=which))


def patients(tag: int) -> Fill:
    """Two patients' series under one identifier."""

    def fill(made: Series) -> None:
        for person in (1, 2):
            for k in range(3):
                name = f"{made.name}-{person}"
                own = {
                    key(PATIENT): ("LO", text(f"P-{person}-{made.name}"[:64])),
                    key(STUDY): ("UI", uid(uid_of(name, 1))),
                    key(SERIES): ("UI", uid(uid_of(name, 2))),
                    key(SOP): ("UI", uid(uid_of(name, 10 + k))),
                }
                shared = uid_of(made.name, 3 if tag != SOP else 10 + k)
                made.add(k, **{**own, key(tag): ("UI", uid(shared))})

    return fill


def two_studies(made: Series) -> None:
    for study in (1, 2):
        for k in range(3):
            made.add(k + 9 * study, **change(STUDY=("UI", uid(uid_of(f"{made.name}{study}", 1)))))


def one_uid(*tops: int) -> Fill:
    """Radiographs under one identifier, their pixels made from `tops`."""

    def fill(made: Series) -> None:
        for k, top in enumerate(tops):
            elements = xray(made.name, ramp(top=top))
            path = made.folder / f"{k}.dcm"
            path.write_bytes(file_of(elements))
            made.paths.append(path)

    return fill


def second(fill: Fill) -> Fill:
    """As `fill`, but only the last file's verdict counts."""

    def only(made: Series) -> Sequence[Path]:
        fill(made)
        return made.paths[-1:]

    return only


def body(shift: int) -> Fill:
    """A body in air whose stored values are moved by `shift`."""

    def fill(made: Series) -> None:
        y, x = np.mgrid[:64, :64] - 32
        radius = np.hypot(x, y)
        for k in range(4):
            rng = np.random.default_rng(k)
            hu = np.select([radius < 15, radius < 18, radius < 20], [45, -100, 20], -1000)
            stored = np.clip(hu + rng.normal(0, 9, hu.shape), -1024, 3000) + 1024 + shift
            made.add(k, **pixels(stored.astype("<i2"), signed=True))

    return fill


def pixels(stored: np.ndarray, *, signed: bool = False) -> dict[str, Change | None]:
    return {
        key(PIXELS): ("OW", stored.tobytes()),
        "t00280101": ("US", us(16)),
        "t00280102": ("US", us(15)),
        "t00280103": ("US", us(int(signed))),
    }


def padded_stored() -> list[np.ndarray]:
    """Stored values of slices whose corner is padding of -2000 HU."""
    slices = []
    for k in range(3):
        stored = ramp().astype("<i2") + np.int16(k)
        stored[:20, :20] = -976
        slices.append(stored)
    return slices


def padding(made: Series) -> None:
    for k, stored in enumerate(padded_stored()):
        made.add(k, **pixels(stored, signed=True))


def unpadded() -> Array:
    values = np.stack(padded_stored()).astype(np.float32) - 1024
    return np.where(values < -1900, np.float32(-1024), values)


def bright_padding(made: Series) -> None:
    """Padding that is stated, and stored as an unsigned number beyond all bone."""
    for k, stored in enumerate(padded_stored()):
        bright = np.where(stored == -976, 63536, stored).astype("<u2")
        made.add(k, **pixels(bright), **change(PADDING=("US", us(63536))))


def rescale_lost(made: Series) -> None:
    """Of four slices one has no rescale."""
    for k in range(4):
        made.add(k, **(change(SLOPE=None, INTERCEPT=None) if k == 2 else {}))


def screenshot(made: Series) -> None:
    for k in range(3):
        shown = (ramp(top=256) + k).clip(0, 255).astype("<u2")
        made.add(k, **pixels(shown), **change(INTERCEPT=("DS", text("0"))))


def no_modality(made: Series) -> None:
    at(0, 1, 2, t00080060=None)(made)


CASES: tuple[Case, ...] = (
    case(24, "series-other-size-last", "FLAG:mixed_matrix", other_size),
    case(24, "series-other-size-within", "REJECT:spacing_gap", size_in_the_middle),
    case(66, "uid-two-pictures", "REJECT:uid_conflict", one_uid(4000, 3000)),
    case(66, "uid-three-pictures-two-alike", "REJECT:uid_conflict", one_uid(4000, 3000, 4000)),
    case(66, "uid-copy", "IGNORE:duplicate_file", second(one_uid(4000, 4000))),
    case(66, "uid-series-in-two-studies", "REJECT:uid_conflict", two_studies),
    case(67, "series-missing", "REJECT:spacing_gap", at(0, 1, 3, 4)),
    case(
        67,
        "series-missing-filled",
        "FIX:spacing_gap+interpolated_slices",
        at(0, 1, 3, 4),
        archive=MEND,
        oracle=lambda: hounsfield(0, 1, 2, 3, 4),
    ),
    case(67, "series-hole-too-wide", "REJECT:spacing_gap", at(0, 1, 8, 9), archive=MEND),
    case(67, "series-far-apart", "REJECT:spacing_gap", at(0, 40)),
    case(67, "series-uneven", "REJECT:irregular_spacing", at(0, 1, 2, 3.5, 4)),
    case(67, "series-two-spacings", "REJECT:irregular_spacing", at(0, 1, 2, 3, 4, 6, 8, 10)),
    case(67, "series-one-slice", "REJECT:too_few_slices", at(0)),
    case(67, "series-one-place", "REJECT:constant_position", at(1, 1, 1, 1)),
    case(
        67,
        "series-slice-twice",
        "FIX:repeated_slice",
        doubled(2),
        oracle=lambda: hounsfield(0, 1, 2, 3),
    ),
    case(67, "series-two-in-one-place", "REJECT:duplicate_position", doubled(8)),
    case(67, "series-phases", "ACCEPT", phases),
    case(68, "series-slopes", "FIX:mixed_rescale", slopes, oracle=two_slopes),
    case(68, "series-directions", "ACCEPT", directions),
    case(69, "series-tilt", "REJECT:gantry_tilt", tilted),
    case(69, "series-tilt-straightened", "FLAG:tilt+tilt_resampled", tilted, archive=MEND),
    case(69, "series-with-scout", "ACCEPT", with_scout),
    case(69, "scout-in-series", "IGNORE:localizer", scout_in),
    case(0, "dose-sheet-in-series", "IGNORE:secondary_capture", dose_sheet),
    case(70, "patients-one-study", "REJECT:identity_conflict", patients(STUDY)),
    case(70, "patients-one-series", "REJECT:identity_conflict", patients(SERIES)),
    case(70, "patients-one-image", "REJECT:identity_conflict", patients(SOP)),
    case(0, "series-stripped", "FLAG:modality_inferred", stripped),
    case(0, "series-no-modality", "FLAG:modality_inferred", no_modality),
    case(0, "hu-body", "ACCEPT", body(0)),
    case(0, "hu-rescaled-twice", "REJECT:double_rescale", body(-1024)),
    case(0, "hu-screenshot", "REJECT:not_hu", screenshot),
    case(0, "hu-padding", "FIX:padding_clamped", padding, oracle=unpadded),
    case(0, "hu-padding-bright", "FIX:padding_clamped", bright_padding, oracle=unpadded),
    case(68, "hu-rescale-lost", "REJECT:missing_rescale", rescale_lost),
)
