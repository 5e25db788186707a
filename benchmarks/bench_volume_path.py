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


def in_turn(ours: Run, peer: Run, rounds: int) -> tuple[list[Took], list[Took]]:
    took: dict[int, list[Took]] = {0: [], 1: []}
    for k in range(rounds):
        for side in (0, 1) if k % 2 else (1, 0):
            took[side].append(timed((ours, peer)[side]))
    return took[0], took[1]


def peer_values(chain: Compose, case: Case) -> NDArray[np.float32]:
    values: NDArray[np.float32] = chain({"image": case.named})["image"][0].numpy()
    return values.transpose(2, 1, 0)


def first_pass(case: Case, rounds: int, spacing_mm: Sequence[float] | None = None) -> str:
    contract = contract_of(case, spacing_mm)
    chain = chain_of(contract)
    stored, expected = contract.read(case.paths), peer_values(chain, case)
    gap = np.abs(stored - expected)
    ours, peer = in_turn(
        lambda: contract.read(case.paths), lambda: chain({"image": case.named}), rounds
    )
    size = "×".join(map(str, read_volume(case.paths).canonical().hu_DHW.shape))
    cells = [
        case.name,
        f"{size} to {'×'.join(map(str, stored.shape))}",
        spread([1000 * t.wall for t in ours], 0),
        spread([1000 * t.wall for t in peer], 0),
        spread([p.wall / o.wall for o, p in zip(ours, peer, strict=True)], 1),
        spread([p.cpu / o.cpu for o, p in zip(ours, peer, strict=True)], 1),
        f"{gap.max():.3f}" if spacing_mm is None else f"(mean {gap.mean():.1f})",
    ]
    return f"| {' | '.join(cells)} |"


def crops(case: Case, side: int, rounds: int, folder: Path) -> list[str]:
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
    rng, took = np.random.default_rng(0), []

    def crop() -> NDArray[np.int16]:
        start = [int(rng.integers(0, n - side + 1)) for n in whole.shape]
        found = cache.crop(item, contract.read, start, (side,) * 3)
        window = tuple(slice(a, a + side) for a in start)
        took.append((found == whole[window]).all())
        return found

    def many() -> None:
        for _ in range(CROPS):
            crop()

    ours, peer = in_turn(many, lambda: chain({"image": case.named}), rounds)
    each = [Took(t.wall / CROPS, t.cpu / CROPS) for t in ours]
    assert all(took)
    cells = [
        f"{side}³",
        spread([1000 * t.wall for t in each], 2),
        spread([1000 * t.wall for t in peer], 0),
        spread([p.wall / o.wall for o, p in zip(each, peer, strict=True)], 0),
        spread([p.cpu / o.cpu for o, p in zip(each, peer, strict=True)], 0),
    ]
    return [f"| {' | '.join(cells)} |", f"{1000 * written.wall:.0f}"]


def report(a: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made, found = phantoms(folder, a.size, a.slices), real()
        head = [
            "| input | voxels | ours, ms | chain, ms | times as fast | in CPU time | "
            "largest difference, HU |",
            "|---|---|---|---|---|---|---|",
        ]
        rows = [first_pass(case, a.rounds) for case in (*made, *found)]
        coarse = [first_pass(case, a.rounds, DEFAULT_MM) for case in made]
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
