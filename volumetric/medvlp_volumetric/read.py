"""CT volumes from NIfTI files, DICOM series, arrays and stacks of pictures, and single slices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from medvlp.archive.dicom.burned_in import risk_of, unstated_flags
from medvlp.archive.dicom.files import may_be_dicom, read_header
from medvlp.archive.dicom.header import Header
from medvlp.archive.dicom.part10 import NO_PREAMBLE
from medvlp.archive.pictures import is_picture
from medvlp.archive.probe import Probe, probe_picture
from medvlp.archive.series.geometry import Volume
from medvlp.archive.series.grouping import group_series
from medvlp.archive.series.policy import Policy, part_of
from medvlp.archive.series.qc import read_hu
from medvlp.archive.series.read import choose, read_headers, read_series
from medvlp.archive.verdict import Reject, Verdict
from medvlp.archive.walk import is_junk
from medvlp.data.flags import name_of
from medvlp.errors import InputError
from medvlp.progress import track
from medvlp_volumetric.arrays import is_array, read_array, read_stack
from medvlp_volumetric.nifti import (
    is_nifti,
    read_nifti,
    read_scan,
    refuse_not_hu,
)
from medvlp_volumetric.told import SCALE, Told
from medvlp_volumetric.values import is_scaled_twice, probe_volume

_SETTLED = frozenset({SCALE, "not_hu", "double_rescale"})
"""Flags of samples whose scale was told, or accepted as it is."""


def read_volume(paths: Sequence[Path], flags: Iterable[str] = ()) -> Volume:
    """One volume, in the orientation it is stored in.

    Args:
        paths: The volume's files: a NIfTI file, an array, pictures of its slices in order, or a
            DICOM series'.
        flags: The sample's, which say how its series was repaired when it was taken in, which
            volume of its files it is, and what its files do not tell (`medvlp_volumetric.told`).

    Raises:
        Reject: The files make no sound volume.
        Ignore: They hold no volume.
    """
    known = tuple(flags)
    if _one_nifti(paths):
        return read_nifti(paths[0], Told.of(known))
    if len(paths) == 1 and is_array(paths[0]):
        return read_array(paths[0], Told.of(known))
    if paths and all(is_picture(path) for path in paths):
        return read_stack(paths, Told.of(known))
    return read_series(paths, Policy.of(known), part_of(known), legacy=NO_PREAMBLE in known)


def read_ct(paths: Sequence[Path], flags: Sequence[str] = (), *, any_scale: bool = False) -> Volume:
    """`read_volume` of a CT in Hounsfield units, judged as indexing judges it.

    Not every kind of source looks at values, so samples of manifests are judged as well, unless
    their flags say what was made of the scale.

    Args:
        paths: The volume's files.
        flags: The sample's.
        any_scale: Whether values may mean anything but a mask.

    Raises:
        Reject: The files make no sound volume, or its values are no Hounsfield units
            (``not_hu``, ``double_rescale``), of which pictures and arrays are suspected that no
            table knows.
        Ignore: They hold no volume, or a mask.
    """
    if not _SETTLED.isdisjoint(map(name_of, flags)):
        return read_volume(paths, flags)
    told = Told.of(flags)
    if _one_nifti(paths):
        volume = read_scan(paths[0], told, grey=any_scale)
    elif any_scale:
        return read_volume(paths, flags)
    elif any(is_array(path) or is_picture(path) for path in paths):
        if told.affine is None:
            raise Reject("not_hu", "nobody tells what they show")
        volume = read_volume(paths, flags)
    else:
        return read_hu(paths, Policy.of(flags), part_of(flags), legacy=NO_PREAMBLE in flags)
    if not any_scale:
        refuse_not_hu(volume.flags)
        if is_scaled_twice(volume.hu_DHW):
            raise Reject("double_rescale")
    return volume


def probe(paths: Sequence[Path], *, accept_not_hu: bool = False) -> Probe:
    """Shape (slices, rows, columns), spacing and flags; the files are read whole, and judged.

    Args:
        paths: The volume's files, or a picture of a slice.
        accept_not_hu: Whether values that cannot be Hounsfield units get a flag, and are not
            refused.

    Raises:
        Reject: The files make no sound volume, or one that is no CT.
        Ignore: They hold no volume, or a mask.
    """
    if one_picture(paths):
        found = probe_picture(paths[0])
        return replace(found, shape=(1, *found.shape))
    if _one_nifti(paths):
        found = probe_volume(read_ct(paths, any_scale=accept_not_hu))
        if not accept_not_hu:
            refuse_not_hu(found.flags)
        return found
    header = choose(group_series(read_headers(paths))).header
    found = probe_volume(_series(paths, accept_not_hu=accept_not_hu))
    flags = tuple(dict.fromkeys((*unstated_flags(header), *found.flags)))
    return replace(found, modality=header.modality, flags=flags, burned_in=risk_of(header))


def _series(paths: Sequence[Path], *, accept_not_hu: bool) -> Volume:
    try:
        return read_ct(paths)
    except Reject as verdict:
        if not accept_not_hu or verdict.code not in _SETTLED:
            raise
        volume = read_volume(paths)
        return replace(volume, flags=(*volume.flags, verdict.code))


def _one_nifti(paths: Sequence[Path]) -> bool:
    return len(paths) == 1 and is_nifti(paths[0])


def one_picture(paths: Sequence[Path]) -> bool:
    """Whether a sample is a picture of a single slice (PNG, JPEG, TIFF)."""
    return len(paths) == 1 and is_picture(paths[0])


def resolve(path: Path) -> list[tuple[Path, ...]]:
    """The volumes in what a user names: a file, or a folder of NIfTI files and DICOM series.

    Localizers, series of another modality than CT, and files that are neither are left out. A
    picture counts where it is named itself; beside volumes lie pictures that are no samples.

    Raises:
        InputError: There is no such path, or no volume in it.
    """
    if path.is_file() and is_picture(path):
        return [(path,)]
    files = [path] if path.is_file() else _files(path)
    volumes = [(file,) for file in files if is_nifti(file)]
    candidates = [file for file in files if may_be_dicom(file) and not is_nifti(file)]
    headers = _readable(candidates)
    groups = [
        group
        for group in group_series(headers)
        if group.header.modality in ("CT", "") and not group.header.localizer
    ]
    found = volumes + [tuple(sorted(group.paths)) for group in groups]
    if not found:
        raise InputError(
            "the input holds no NIfTI file and no CT series" if files else "no such input",
            remedy="name a NIfTI file, or a folder of NIfTI files or DICOM series of CT",
        )
    return found


def _files(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if not is_junk(path, folder))
    return sorted(path for path in found if path.is_file())


def _readable(files: Sequence[Path]) -> list[Header]:
    headers = []
    for file in track(files, "Reading headers"):
        try:
            headers.append(read_header(file))
        except Verdict:
            continue
    return headers
