"""CT from file to stored array, and random crops of it, beside MONAI's chain of transforms.

    python benchmarks/bench_volume_path.py [--size 256] [--slices 150] [--rounds 3] [--out FILE]

First pass: our contract's `read` (file, Hounsfield units, canonical orientation, resampled, rounded
to int16) against `LoadImaged`, `Orientationd` and `Spacingd` (bilinear) to the same spacing, which
end with float32. `scale_extent=True` lays MONAI's grid over the volume's extent, as ours lies, and
no axis shrinks by two or more, from where on we average and MONAI samples: so all values are to
agree. Random crops: of the cache's blosc2 entry, against the chain and MONAI's own random crop.
Inputs: a phantom as NIfTI and as DICOM series, and the shared data's real CT where it is at hand.
Both sides take turns, each first in every other round; ratios are of the same round, of wall time
and of processor time, which other programs on the machine disturb less. Files lie in memory.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai.transforms import Compose, LoadImaged, Orientationd, RandSpatialCropd, Spacingd
from numpy.typing import NDArray
from page import command, commit, publish, spread

from medvlp.archive import inflate
from medvlp.data.cache import ArrayCache
from medvlp.data.items import Item
from medvlp.data.preprocess import contract_digest
from medvlp_volumetric.phantom import CtPhantomConfig, write_patient
from medvlp_volumetric.preprocess import CtPreprocess, CtPreprocessConfig, resampled_shape
from medvlp_volumetric.read import read_volume

COARSER = (1.5, 1.6, 1.6)
"""The grid's spacing in voxels of the volume, as near as whole numbers of voxels allow."""
DEFAULT_MM = (3.0, 3.0, 3.0)
CROPS = 50
Run = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    name: str
    paths: tuple[Path, ...]

    @property
    def named(self) -> str:
        """What MONAI is to read: a file, or a series' folder."""
        return str(self.paths[0] if len(self.paths) == 1 else self.paths[0].parent)


@dataclass(frozen=True)
class Took:
    wall: float
    cpu: float


def shared() -> Path:
    return Path(os.environ.get("MEDVLP_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def phantoms(folder: Path, size: int, slices: int) -> list[Case]:
    found = []
    for form in ("nifti", "dicom"):
        config = CtPhantomConfig(slices=slices, size=size, format=form, masks=False)
        write_patient(folder, config, 0)
        paths = sorted(p for p in (folder / form).rglob("*") if p.is_file())
        what = "`.nii.gz`" if form == "nifti" else "DICOM series, not compressed"
        found.append(Case(f"phantom, {what}", tuple(paths)))
    return found


def real() -> list[Case]:
    folder = shared() / "data/ct-totalseg"
    series = tuple(sorted((folder / "example_ct_dicom").glob("*.dcm")))
    if not series:
        return []
    return [
        Case("real CT, `.nii.gz`", (folder / "example_ct.nii.gz",)),
        Case("real CT, DICOM series, JPEG 2000", series),
    ]


def contract_of(case: Case, spacing_mm: Sequence[float] | None = None) -> CtPreprocess:
    """A contract that keeps the whole volume, of a spacing that goes into its extent evenly."""
    canonical = read_volume(case.paths).canonical()
    mm, size = canonical.spacing_mm, canonical.hu_DHW.shape
    wanted = spacing_mm or tuple(c * s for c, s in zip(COARSER, mm, strict=True))
    shape = resampled_shape(canonical, wanted)
    even = tuple(n * s / m for n, s, m in zip(size, mm, shape, strict=True))
    return CtPreprocessConfig(spacing_mm=even, shape=shape).build()


def chain_of(contract: CtPreprocess, *more: Any) -> Compose:
    return Compose(
        [
            LoadImaged(keys="image", ensure_channel_first=True),
            Orientationd(keys="image", axcodes="LPS"),
            Spacingd(
                keys="image",
                pixdim=contract.config.spacing_mm[::-1],
                mode="bilinear",
                scale_extent=True,
            ),
            *more,
        ]
    )


def timed(run: Run) -> Took:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return Took(time.perf_counter() - wall, time.process_time() - cpu)


def in_turn(runs: Sequence[Run], rounds: int) -> list[list[Took]]:
    """What each took in each round; another one begins each time."""
    took: list[list[Took]] = [[] for _ in runs]
    for k in range(rounds):
        for place in range(len(runs)):
            side = (place + k) % len(runs)
            took[side].append(timed(runs[side]))
    return took


def peer_values(chain: Compose, case: Case) -> NDArray[np.float32]:
    values: NDArray[np.float32] = chain({"image": case.named})["image"][0].numpy()
    return values.transpose(2, 1, 0)


def by_zlib(run: Run) -> Run:
    """The same with Python's own zlib in place of isal."""

    def inner() -> None:
        chosen, inflate.deflate = inflate.deflate, zlib
        try:
            run()
        finally:
            inflate.deflate = chosen

    return inner


def first_pass(case: Case, rounds: int, spacing_mm: Sequence[float] | None = None) -> list[str]:
    contract = contract_of(case, spacing_mm)
    chain = chain_of(contract)
    stored, expected = contract.read(case.paths), peer_values(chain, case)
    gap = np.abs(stored - expected)
    difference = f"{gap.max():.3f}" if spacing_mm is None else f"(mean {gap.mean():.1f})"
    runs: dict[str, Run] = {case.name: lambda: contract.read(case.paths)}
    if inflate.deflate is not zlib and case.paths[0].suffix == ".gz":
        runs[f"{case.name}, by zlib"] = by_zlib(runs[case.name])
    *ours, peer = in_turn([*runs.values(), lambda: chain({"image": case.named})], rounds)
    size = "×".join(map(str, read_volume(case.paths).canonical().hu_DHW.shape))
    return [
        row(
            name,
            f"{size} to {'×'.join(map(str, stored.shape))}",
            spread([1000 * t.wall for t in took], 0),
            spread([1000 * t.wall for t in peer], 0),
            spread([p.wall / o.wall for o, p in zip(took, peer, strict=True)], 1),
            spread([p.cpu / o.cpu for o, p in zip(took, peer, strict=True)], 1),
            difference,
        )
        for name, took in zip(runs, ours, strict=True)
    ]


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def crops(case: Case, side: int, rounds: int, folder: Path) -> tuple[str, str]:
    contract = contract_of(case)
    chain = chain_of(contract, RandSpatialCropd(keys="image", roi_size=(side,) * 3))
    item = Item(
        sample="s",
        patient="p",
        sha256="0" * 64,
        source_paths=case.paths,
        span=None,
        texts=(),
        labels_L=np.zeros(0, np.float32),
        split="train",
    )
    cache = ArrayCache(folder / "cache", contract_digest(contract.config), "blosc2")
    whole = contract.read(case.paths)
    written = timed(lambda: cache.replace(item, whole))
    cache.get(item, contract.read)
    rng = np.random.default_rng(0)
    taken: list[tuple[list[int], NDArray[np.int16]]] = []

    def many() -> None:
        for _ in range(CROPS):
            start = [int(rng.integers(0, n - side + 1)) for n in whole.shape]
            taken.append((start, cache.crop(item, contract.read, start, (side,) * 3)))

    ours, peer = in_turn([many, lambda: chain({"image": case.named})], rounds)
    each = [Took(t.wall / CROPS, t.cpu / CROPS) for t in ours]
    for start, part in taken:
        window = tuple(slice(a, a + side) for a in start)
        assert (part == whole[window]).all()
    found = row(
        f"{side}³",
        spread([1000 * t.wall for t in each], 2),
        spread([1000 * t.wall for t in peer], 0),
        spread([p.wall / o.wall for o, p in zip(each, peer, strict=True)], 0),
        spread([p.cpu / o.cpu for o, p in zip(each, peer, strict=True)], 0),
    )
    return found, f"{1000 * written.wall:.0f}"


def report(a: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made, found = phantoms(folder, a.size, a.slices), real()
        head = [
            "| input | voxels | ours, ms | chain, ms | times as fast | in CPU time | "
            "largest difference, HU |",
            "|---|---|---|---|---|---|---|",
        ]
        rows = [line for case in (*made, *found) for line in first_pass(case, a.rounds)]
        coarse = first_pass(made[0], a.rounds, DEFAULT_MM)
        side = min(96, a.size // 4, a.slices // 2)
        crop, written = crops(made[0], side, a.rounds, folder)
    lines = [
        f"# CT from file to stored array beside MONAI's chain, {date.today()}",
        "",
        f"`{command()}`, MONAI {monai.__version__}, torch {torch.__version__}, {a.threads} "
        f"thread(s) as in a reading process, {os.cpu_count()} cores, load {a.load:.1f} before and "
        f"{os.getloadavg()[0]:.1f} after, {a.rounds} rounds, median (least to greatest), on top of "
        f"commit {commit()}.",
        "",
        "First pass: `CtPreprocess.read` against `LoadImaged`, `Orientationd`, `Spacingd` "
        "(bilinear, `scale_extent=True`).",
        "",
        *head,
        *rows,
        "",
        "Ours is rounded to whole HU as it is stored, MONAI's is not: half a HU is what rounding "
        "alone may make. MONAI's default, `scale_extent=False`, lays the first new voxel on the "
        "centre of the first old one; ours lie half the difference of the spacings further in, so "
        "that both grids have the same extent.",
    ]
    if inflate.deflate is zlib:
        lines += ["", "isal is not installed: all is inflated by Python's own zlib."]
    if not found:
        lines += ["", "Real CT skipped: the shared data are not at hand."]
    lines += [
        "",
        "To 3 mm, where we average over whole voxels first and MONAI samples between two, so that "
        "it keeps the noise of single voxels; values are not meant to agree:",
        "",
        *head,
        *coarse,
        "",
        f"Random crops of the NIfTI phantom, from the cache ({CROPS} a round, each compared with "
        f"the whole array); its entry was written in {written} ms:",
        "",
        "| crop | ours, ms | chain and `RandSpatialCropd`, ms | times as fast | in CPU time |",
        "|---|---|---|---|---|",
        crop,
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("size", 256), ("slices", 150), ("rounds", 3), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    arguments.load = os.getloadavg()[0]
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", module="monai|pydicom")
    publish(report(arguments), arguments.out)


if __name__ == "__main__":
    main()
