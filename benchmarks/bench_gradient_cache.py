"""Memory and time of a large contrastive batch of volumes, a micro-batch at a time.

    python benchmarks/bench_gradient_cache.py [--batch 24] [--side 64] [--micro 4] [--out FILE]

``--batch 512 --side 96`` is the full size. Steps whose memory counts run in processes of their
own, whose peak resident memory is read at the end: a plain step of one micro-batch (the memory to
compare with), the cached step of the whole batch and, with ``--plain``, the plain step of the
whole batch. In the cached step, volumes are made a micro-batch at a time, as a loader would bring
them. Time is the ratio of the cached step to plain steps of one micro-batch after the other over
the same volumes (another loss; the same work but for the further forward pass), alternating.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import ClassVar

import torch
from page import command, commit, publish

from medvlp.data.batch import Batch
from medvlp.losses.objectives import ClipConfig
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp.train.gradient_cache import GradientCache
from medvlp_volumetric.encoders.resnet3d import ResNet3dConfig

CPU = torch.device("cpu")
TOKENS = 16
PUBLISHED = [
    ("COLIPRI, 192³, patch 8³", 13824, 864, 16),
    ("CT-CLIP, 480×480×240, patch 20×20×10", 13824, 512, 8),
    ("HLIP, 112×336×336, patch 8×24×24", 2744, 768, 12),
    ("M3D-CLIP, 32×256×256, patch 4×16×16", 2048, 768, 12),
]
"""Name, tokens N, width C and layers L of the image towers (their papers and configurations)."""


def build() -> tuple[TwoTower, torch.nn.ModuleDict]:
    torch.manual_seed(0)
    image = ResNet3dConfig(widths=(8, 16, 32, 64), blocks=(1, 1, 1, 1), stem_kernel=3).build(1)
    text = TextTowerConfig(width=32, depth=1, heads=2, max_tokens=TOKENS).build(100, 0)
    model = TwoTower(TwoTowerConfig(embed=32), image, text)
    return model, torch.nn.ModuleDict({"clip": ClipConfig().build(model.sizes())})


class Streamed:
    """Volumes that exist while somebody looks at them: rows of a batch that is never whole."""

    seconds: ClassVar[float] = 0.0
    """What making them has taken."""

    def __init__(self, rows: range, side: int) -> None:
        self.rows, self.side = rows, side

    def __getitem__(self, part: slice) -> "Streamed":
        return Streamed(self.rows[part], self.side)

    def load(self) -> torch.Tensor:
        shape = (1, self.side, self.side, self.side)
        begin = time.perf_counter()
        volumes = torch.empty(len(self.rows), *shape)
        for volume, i in zip(volumes, self.rows, strict=True):
            volume.normal_(generator=torch.Generator().manual_seed(i))
        Streamed.seconds += time.perf_counter() - begin
        return volumes


class StreamedBatch(Batch):
    """A batch whose images are made when it is moved to the device, as the cached step does."""

    def to(self, device, *, images=True):  # noqa: ANN001, ANN201 - as its parent's
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Batch(**values | {"image": self.image.load()}).to(device, images=images)


def make_batch(rows: range, side: int) -> StreamedBatch:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 100, (rows.stop, 1, TOKENS), generator=generator)[rows.start :]
    return StreamedBatch(
        image=Streamed(rows, side),
        text_BNT=ids,
        text_mask_BNT=torch.ones_like(ids, dtype=torch.bool),
        level_BN=torch.zeros(ids.shape[:2], dtype=torch.long),
        labels_BL=torch.zeros(len(ids), 0),
        sample=tuple(map(str, rows)),
    )


def plain_step(model, objectives, rows: range, side: int) -> None:  # noqa: ANN001
    batch = make_batch(rows, side).to(CPU)
    objectives["clip"](model(batch), batch).backward()


def cached_step(model, objectives, batch: int, side: int, micro: int) -> None:  # noqa: ANN001
    cache = GradientCache(model, objectives, {"clip": 1.0}, micro)
    cache(make_batch(range(batch), side), CPU)["loss"].backward()


def measure(kind: str, batch: int, side: int, micro: int, repeats: int) -> dict:
    """Peak memory of one step in this process above the imports', or, for ``time``, ratios."""
    model, objectives = build()
    if kind == "time":
        return {"ratios": compare(model, objectives, batch, side, micro, repeats)}
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if kind == "cached":
        cached_step(model, objectives, batch, side, micro)
    else:
        plain_step(model, objectives, range(micro if kind == "micro" else batch), side)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"mib": (peak - base) / 1024}


def compare(model, objectives, batch: int, side: int, micro: int, repeats: int) -> list[float]:  # noqa: ANN001
    """Times of the cached step to plain steps over the same volumes, alternating."""

    def plain() -> None:
        for first in range(0, batch, micro):
            plain_step(model, objectives, range(first, min(batch, first + micro)), side)

    def seconds(step) -> float:  # noqa: ANN001
        begin, Streamed.seconds = time.perf_counter(), 0.0
        step()
        return time.perf_counter() - begin - Streamed.seconds

    plain_step(model, objectives, range(micro), side)
    pairs = [
        (seconds(lambda: cached_step(model, objectives, batch, side, micro)), seconds(plain))
        for _ in range(repeats)
    ]
    return [cached / whole for cached, whole in pairs]


def child(kind: str, arguments: argparse.Namespace) -> dict:
    sizes = [
        f"--{n}={getattr(arguments, n)}" for n in ("batch", "side", "micro", "threads", "repeats")
    ]
    command = [sys.executable, __file__, f"--measure={kind}", *sizes]
    # Tensors go back to the system when they are freed, so that the peak is what was alive at once.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**18)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env)
    return json.loads(done.stdout)


def published_table(micro: int) -> list[str]:
    """Activations by 34·N·C·L bytes a sample (bf16, no attention matrix kept), and the batch's."""
    lines = [
        f"| image tower | a sample | plain batch of 512 | micro-batch of {micro} | embeddings |",
        "|---|---|---|---|---|",
    ]
    for name, tokens, width, layers in PUBLISHED:
        gib = 34 * tokens * width * layers / 2**30
        lines.append(
            f"| {name} | {gib:.1f} GiB | {512 * gib:,.0f} GiB | {micro * gib:.1f} GiB | "
            f"{512 * 512 * 4 / 2**20:.0f} MiB |"
        )
    return lines


def report(arguments: argparse.Namespace) -> str:
    kinds = ["micro", "cached", *(["plain"] if arguments.plain else [])]
    mib = {kind: child(kind, arguments)["mib"] for kind in kinds}
    ratios = child("time", arguments)["ratios"]
    batch, side, micro = arguments.batch, arguments.side, arguments.micro
    names = {
        "micro": f"plain step, {micro} volumes",
        "cached": f"cached step, {batch} volumes, {micro} at once",
        "plain": f"plain step, {batch} volumes at once",
    }
    shares = [f"| {names[k]} | {v:.0f} | {v / mib['micro']:.2f} |" for k, v in mib.items()]
    return "\n".join(
        [
            f"# Gradient caching, {date.today()}",
            "",
            f"`{command()}`, "
            f"{platform.machine()}, {arguments.threads} thread, torch {torch.__version__}, "
            f"commit {commit()}",
            "",
            f"Volumes of {side}³ voxels, a small 3D residual network, CLIP. Peak resident memory "
            "above that of the imported program with its model:",
            "",
            "| step | MiB | to the micro-batch's |",
            "|---|---|---|",
            *shares,
            "",
            "Time of the cached step to plain steps over the same volumes: "
            f"{statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f}); one "
            "more forward pass: 1.33 on paper, if a backward pass takes twice as long. "
            "The time of making volumes is left out.",
            "",
            "Published towers, on paper (34·N·C·L bytes of activations a sample, bf16):",
            "",
            *published_table(micro),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--micro", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="also the plain step of the batch")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.measure:
        sizes = arguments.batch, arguments.side, arguments.micro, arguments.repeats
        print(json.dumps(measure(arguments.measure, *sizes)))
        return
    page = report(arguments)
    publish(page, arguments.out)


if __name__ == "__main__":
    main()
