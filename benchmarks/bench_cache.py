"""The cache of volumes against NIfTI files read with nibabel: time of reading, and size.

    python benchmarks/bench_cache.py --out FILE

A volume of 512×512×300 int16 voxels: the real CT slices of the shared data, one after another,
where they are at hand, else a made-up body with noise of 20 HU. Readers alternate; each crop is at
a place drawn anew. Files were read and checked before, so that all lie in memory. Sizes of packed
entries are those of the slices themselves: slices that recur compress better than a body does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from page import command, commit

from medvlp.archive.dicom.files import read_planes
from medvlp.data.cache_entry import Entry, open_entry, whole, write_entry

Volume = NDArray[np.int16]
CROP = 128


def shared() -> Path:
    return Path(os.environ.get("MEDVLP_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def real_slices() -> Volume | None:
    """The slices of the shared CT series, in order; None where the data are not at hand."""
    files = sorted((shared() / "data/ct-totalseg/example_ct_dicom").glob("*.dcm"))
    if not files:
        return None
    return np.concatenate([np.rint(read_planes(file)) for file in files]).astype(np.int16)


def made_up(slices: int, side: int, noise_hu: float = 20.0) -> Volume:
    """A body of soft tissue with lungs and noise, in air without any."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    body = (x / 0.85) ** 2 + (y / 0.65) ** 2 < 1
    lungs = (((np.abs(x) - 0.4) / 0.28) ** 2 + (y / 0.45) ** 2) < 1
    hu_HW = np.where(body, np.where(lungs, -850.0, 40.0), -1000.0).astype(np.float32)
    volume = np.empty((slices, side, side), np.int16)
    for plane in volume:
        noise = rng.standard_normal(hu_HW.shape, np.float32) * np.float32(noise_hu)
        plane[:] = np.rint(hu_HW + noise).clip(-1024, 3071)
    return volume


def tiled(slices: Volume, count: int) -> Volume:
    """`count` slices: those given, forth and back and forth again."""
    there_and_back = np.concatenate([slices, slices[::-1]])
    return np.take(there_and_back, np.arange(count) % len(there_and_back), axis=0)


def seconds(read: Callable[[], Any]) -> float:
    since = time.perf_counter()
    read()
    return time.perf_counter() - since


def measure(volume: Volume, folder: Path, rounds: int) -> list[str]:
    nifti = folder / "volume.nii.gz"
    image = nib.Nifti1Image(volume.transpose(2, 1, 0), np.eye(4))
    image.header.set_data_dtype(np.int16)
    nib.save(image, nifti)
    entries: dict[str, Entry] = {}
    sizes = {"nibabel, .nii.gz": nifti.stat().st_size}
    for name, form, threads in (
        ("ours, blosc2, 1 thread", "blosc2", 1),
        ("ours, blosc2, 2 threads", "blosc2", 2),
        ("ours, npy", "npy", 1),
    ):
        path = write_entry(folder, "entry", volume, form)
        entries[name], sizes[name] = open_entry(path, threads), path.stat().st_size
    rng = np.random.default_rng(1)

    def load() -> Volume:
        return np.asarray(nib.load(nifti).dataobj)

    full: dict[str, list[float]] = {name: [] for name in sizes}
    crop: dict[str, list[float]] = {name: [] for name in sizes}
    load()
    reads: dict[str, Callable[[], Any]] = {"nibabel, .nii.gz": load}
    for name, entry in entries.items():
        reads[name] = lambda e=entry: e.crop(whole(e.shape))
    for _ in range(rounds):
        # In another order each time: whoever comes after the peer finds its memory given back.
        for name in rng.permutation(list(reads)).tolist():
            full[name].append(seconds(reads[name]))
        for name, entry in entries.items():
            took = []
            for _ in range(8):
                start = [int(rng.integers(0, n - min(CROP, n) + 1)) for n in entry.shape]
                window = tuple(slice(a, a + CROP) for a in start)
                took.append(seconds(lambda e=entry, w=window: e.crop(w)))
            crop[name].append(statistics.median(took))
    # A crop of a .nii.gz costs a whole reading: gzip has no way in.
    crop["nibabel, .nii.gz"] = full["nibabel, .nii.gz"]
    return [
        row(name, sizes[name] / volume.nbytes, full, crop, peer="nibabel, .nii.gz")
        for name in sizes
    ]


def row(
    name: str,
    size: float,
    full: dict[str, list[float]],
    crop: dict[str, list[float]],
    peer: str,
) -> str:
    cells = []
    for kind in (full, crop):
        ratios = [p / o for p, o in zip(kind[peer], kind[name], strict=True)]
        spread = f"{min(ratios):.1f}–{max(ratios):.1f}"
        cells.append(f"{1000 * statistics.median(kind[name]):.1f}")
        cells.append(f"{statistics.median(ratios):.1f} ({spread})")
    return f"| {name} | {size:.3f} | {' | '.join(cells)} |"


def packed_size(volume: Volume, folder: Path) -> float:
    return write_entry(folder, "size", volume, "blosc2").stat().st_size / volume.nbytes


def report(slices: int, side: int, rounds: int) -> list[str]:
    real = real_slices()
    what = "made-up body with noise of 20 HU"
    volume = made_up(slices, side)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [
            f"Size of a packed entry, share of raw: {packed_size(volume, folder):.3f} ({what})"
        ]
        if real is None:
            lines[0] += "; real CT slices skipped: the shared data are not at hand."
        else:
            share = packed_size(real, folder)
            lines[0] += f", {share:.3f} ({len(real)} real CT slices of {real.shape[1]}²)."
            if side == real.shape[1]:
                what, volume = "real CT slices, forth and back", tiled(real, slices)
        lines += [
            f"Reading a volume of {'×'.join(map(str, volume.shape))} int16 ({what}); a crop is "
            f"{CROP}³.",
            "",
            "| store | size | full, ms | times faster | crop, ms | times faster |",
            "|---|---|---|---|---|---|",
            *measure(volume, folder, rounds),
        ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    lines = [
        "# The cache of volumes against .nii.gz",
        "",
        f"`{command()}`, commit "
        f"{commit()}, {os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}; medians of "
        f"{chosen.rounds} alternating rounds, in brackets the smallest and largest ratio.",
        "",
        *report(chosen.slices, chosen.side, chosen.rounds),
    ]
    page = "\n".join(lines)
    print(page)
    if chosen.out is not None:
        chosen.out.write_text(page + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
