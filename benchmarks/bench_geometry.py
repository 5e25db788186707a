"""Real CT volumes against nibabel and SimpleITK, and the verdict on awkward series.

python benchmarks/bench_geometry.py [--shared ../shared] [--out benchmarks/results/DATE-geometry.md]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import SimpleITK
from geometry_cases import cases, dicom_files
from page import commit

from medvlp.archive.series.geometry import Volume
from medvlp.archive.series.policy import Policy
from medvlp.archive.series.qc import SeriesFinding, examine_series
from medvlp.archive.series.read import read_series
from medvlp.archive.verdict import Verdict
from medvlp_volumetric.nifti import read_nifti

ROOT = Path(__file__).resolve().parents[1]
SERIES = ("ct-cip/ct-64Dicom", "ct-totalseg/example_ct_dicom")
NIFTI = (
    "ct-totalseg/example_ct.nii.gz",
    "ct-totalseg/example_ct_sm.nii.gz",
    "ct-totalseg/aorta_report/test_result/models/ct_cropped.nii.gz",
    "ct-totalseg/pulmonary_report/models/ct_cropped.nii.gz",
)
REPAIR = Policy(missing="interpolate", tilt="resample")
TOLERANCE_MM = 0.01


def said(paths: Sequence[Path], policy: Policy) -> tuple[str, str]:
    """What we say of a folder: spacings or codes, and the details beside them."""
    try:
        findings = examine_series(paths, policy)
    except Verdict as verdict:
        return verdict.code, verdict.message
    words = sorted(
        {*map(word, findings)} if all(f.verdict for f in findings) else map(word, findings)
    )
    details = (f.verdict.message if f.verdict else shape(f) for f in findings)
    return "+".join(words), "; ".join(dict.fromkeys(filter(None, details)))


def word(finding: SeriesFinding) -> str:
    # Noise in place of pixels is no CT: only geometry is asked here.
    if finding.layout is None:
        return finding.verdict.code if finding.verdict else "nothing"
    return f"{finding.layout.spacing_mm[0]:.3f}"


def shape(finding: SeriesFinding) -> str:
    return "x".join(map(str, finding.layout.shape)) if finding.layout else ""


def right(got: str, truth: str) -> bool:
    """Whether codes are equal and spacings within 0.01 mm."""
    pairs = list(zip(got.split("+"), truth.split("+"), strict=False))
    return got.count("+") == truth.count("+") and all(
        a == b if not b[0].isdigit() else a[0].isdigit() and abs(float(a) - float(b)) < TOLERANCE_MM
        for a, b in pairs
    )


def simpleitk(folder: Path) -> str:
    """The spacing between slices that SimpleITK gives a folder, without a word of doubt."""
    try:
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        return f"{reader.Execute().GetSpacing()[-1]:.3f}"
    except (RuntimeError, IndexError):
        return "refused"


def verdicts(data: Path) -> Iterator[tuple[str, bool]]:
    """One table row a case, and whether it is right under both policies."""
    for case in cases(data):
        with tempfile.TemporaryDirectory() as name:
            folder = data / case.name if case.fill is None else Path(name)
            if case.fill is not None:
                case.fill(folder)
            paths = dicom_files(folder)
            got, detail = said(paths, Policy())
            mended, _ = said(paths, REPAIR)
            both = right(got, case.truth) and right(mended, case.repaired)
            theirs = simpleitk(folder)
        mark = "yes" if both else "**no**"
        yield (
            f"| {case.name} | {case.truth} | {got} | {mended} | {theirs} | {detail} | {mark} |",
            both,
        )


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
    size = " x ".join(map(str, ours.canonical().hu_DHW.shape))
    spacing = " x ".join(f"{mm:.4f}" for mm in ours.canonical().spacing_mm)
    hu = f"{ours.hu_DHW.min():.0f} to {ours.hu_DHW.max():.0f}"
    return (
        f"| {name} | {reader} | {stored} to {ours.canonical().axcodes} | {size} | {spacing} "
        f"| {hu} | {place:.1e} | {value:g} | {seconds:.2f} |"
    )


def hardware() -> str:
    """Processors and memory of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()}-core {os.uname().machine}, {memory:.0f} GiB"


def report(data: Path) -> list[str]:
    rows = list(verdicts(data))
    return [
        "# Real CT: orientation, HU and verdicts",
        "",
        f"Commit {commit()}; {hardware()}; "
        f"nibabel {nib.__version__}, SimpleITK {SimpleITK.Version.VersionString()}, "
        f"pydicom {pydicom.__version__}.",
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
        "## Awkward series",
        "",
        "dicom2nifti's failing series (real headers over noise), pydicom's own files, and series",
        "made from real ones. Truth is the spacing between slices in mm of each volume, or the",
        "code of the refusal; *repaired* is under `missing=interpolate`, `tilt=resample`. For",
        "comparison, the spacing that SimpleITK gives, which warns on the C++ stderr at most.",
        "",
        "| series | truth | ours | ours, repaired | SimpleITK | detail | right to 0.01 mm |",
        "|---|---|---|---|---|---|---|",
        *(line for line, _ in rows),
        "",
        f"{sum(good for _, good in rows)} of {len(rows)} right.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(os.environ.get("MEDVLP_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--shared", type=Path, default=default)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if not (args.shared / "data").is_dir():
        print("skipped: the folder with real data is absent (--shared)")
        return
    warnings.simplefilter("ignore")
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    text = "\n".join(report(args.shared / "data")) + "\n"
    print(text)
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
