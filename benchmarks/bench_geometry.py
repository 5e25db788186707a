"""Real CT volumes against nibabel and SimpleITK, and the verdict on awkward DICOM series.

python benchmarks/bench_geometry.py --shared ../shared --out benchmarks/results/DATE-geometry.md
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK

from medvlp.archive.geometry import Volume
from medvlp.archive.series import read_series
from medvlp.archive.verdict import Ignore, Reject
from medvlp_volumetric.nifti import read_nifti

HARDWARE = "2-core x86-64, 24 GiB, no GPU"
SERIES = ("ct-cip/ct-64Dicom", "ct-totalseg/example_ct_dicom")
NIFTI = (
    "ct-totalseg/example_ct.nii.gz",
    "ct-totalseg/example_ct_sm.nii.gz",
    "ct-totalseg/aorta_report/test_result/models/ct_cropped.nii.gz",
    "ct-totalseg/pulmonary_report/models/ct_cropped.nii.gz",
)
AWKWARD = {
    "failing/gantrytilting/001": "gantry_tilt",
    "failing/notavolume/001": "constant_position",
    "failing/slicecount/001": "1.000",
    "failing/sliceincrement/001": "spacing_gap",
    "failing/sliceincrement/002": "spacing_gap",
    "failing/sliceorientation/001": "mixed_series",
    "ge/anatomical/001_single_slice": "too_few_slices",
    "generic/anatomical/002_non_isotropic": "0.500",
    "generic/compressed/001": "1.000",
    "generic/compressed_j2k/001": "1.000",
    "generic/compressed_jpeg/001": "1.000",
    "generic/compressed_jpegls/001": "1.000",
    "generic/compressed_rle/001": "1.000",
    "generic/rgb/001": "colour",
    "hyperfine/anatomical/001": "5.000",
    "philips_enhanced/anatomical/001": "1.200",
    "siemens_multiframe/anatomical/001": "0.900",
}
"""The truth: spacing between slices in mm, or the code of the verdict."""


def itk_series(folder: Path) -> Volume:
    """SimpleITK's reading of a folder, in GDCM's own order of slices."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    columns = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, :3] = columns[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    values = SimpleITK.GetArrayFromImage(image).astype(np.float32)
    return Volume(hu_DHW=values, affine=np.diag([-1.0, -1, 1, 1]) @ affine)


def nibabel_canonical(path: Path) -> Volume:
    """nibabel's RAS array with two axes mirrored: our canonical order by another way."""
    image = nib.as_closest_canonical(nib.load(path))
    values = np.asarray(image.dataobj, dtype=np.float32)
    last = [n - 1 for n in values.shape]
    flip = np.diag([-1.0, -1, 1, 1])
    flip[:2, 3] = last[:2]
    return Volume.from_whd(values[::-1, ::-1], image.affine @ flip, ())


def compare(ours: Volume, theirs: Volume) -> tuple[float, float]:
    """Largest difference of a corner's place in mm and of a value in HU."""
    corners = np.array(np.meshgrid(*([0, n - 1] for n in ours.hu_DHW.shape), [1])).reshape(4, -1)
    place = np.abs(ours.affine @ corners - theirs.affine @ corners).max()
    return float(place), float(np.abs(ours.hu_DHW - theirs.hu_DHW).max())


def agreement(data: Path) -> Iterator[str]:
    """One table row a real CT volume."""
    for name in SERIES:
        start = time.perf_counter()
        ours = read_series(sorted((data / name).glob("*.dcm")))
        yield row(name, "SimpleITK", ours, itk_series(data / name), time.perf_counter() - start)
    for name in NIFTI:
        start = time.perf_counter()
        ours = read_nifti(data / name)
        seconds = time.perf_counter() - start
        yield row(name, "nibabel", ours, nibabel_canonical(data / name), seconds)


def row(name: str, reader: str, ours: Volume, theirs: Volume, seconds: float) -> str:
    stored = ours.axcodes
    place, value = compare(ours.canonical(), theirs)
    shape = " x ".join(map(str, ours.canonical().hu_DHW.shape))
    spacing = " x ".join(f"{mm:.4f}" for mm in ours.canonical().spacing_mm)
    hu = f"{ours.hu_DHW.min():.0f} to {ours.hu_DHW.max():.0f}"
    return (
        f"| {name} | {reader} | {stored} to {ours.canonical().axcodes} | {shape} | {spacing} "
        f"| {hu} | {place:.1e} | {value:g} | {seconds:.2f} |"
    )


def verdicts(data: Path) -> Iterator[tuple[str, bool]]:
    """One table row an awkward series, and whether it is right."""
    for name, truth in AWKWARD.items():
        try:
            volume = read_series(sorted((data / "dicom2nifti-awkward" / name).rglob("*.dcm")))
            got, detail = f"{volume.spacing_mm[0]:.3f}", "x".join(map(str, volume.hu_DHW.shape))
        except Reject as verdict:
            got, detail = verdict.code, verdict.message
        except Ignore as verdict:
            got, detail = verdict.code, ""
        right = got == truth
        yield f"| {name} | {truth} | {got} | {detail} | {'yes' if right else '**no**'} |", right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    data = args.shared / "data"
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    rows = list(verdicts(data))
    lines = [
        "# Real CT: orientation, HU and verdicts",
        "",
        f"Commit {commit}; {HARDWARE}; "
        f"nibabel {nib.__version__}, SimpleITK {SimpleITK.Version.VersionString()}.",
        "Command: `python benchmarks/bench_geometry.py --shared ../shared --out FILE`.",
        "",
        "## Agreement with independent readers",
        "",
        "Axis codes are those of (W, H, D). Differences are the largest over the eight corners",
        "and over all voxels, after both readers' volumes are in canonical order.",
        "",
        "| volume | against | axes | D x H x W | mm | HU | corner, mm | HU difference | s |",
        "|---|---|---|---|---|---|---|---|---|",
        *agreement(data),
        "",
        "## Awkward series (dicom2nifti's, real headers over noise)",
        "",
        "Truth is the spacing between slices in mm, or the code of the refusal.",
        "",
        "| series | truth | ours | detail | right |",
        "|---|---|---|---|---|",
        *(line for line, _ in rows),
        "",
        f"{sum(right for _, right in rows)} of {len(rows)} right.",
    ]
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
