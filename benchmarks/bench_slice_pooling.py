"""Studies of 20 to 300 slices in one batch: slice pooling beside a batch that is padded.

    python benchmarks/bench_slice_pooling.py [--studies 8] [--rounds 5] [--out FILE]

Depths are drawn once, evenly on a logarithmic scale, with the shortest and the longest among them.
`padded` encodes every study to the depth of the longest and masks what is not there afterwards;
`one by one` has a batch for each study. Weights, forward and backward are the same. Forms are timed
in turn, ratios are of the same round; the share of real slices is what padding can cost at most.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from page import command, commit, publish, spread
from torch import Tensor

from medvlp.models.image2d import Vit2dConfig
from medvlp_volumetric.encoders.slices import SlicePooling, SlicesConfig

SHORTEST, LONGEST = 20, 300
SLICE_MM = 5.0


def ours(tower: SlicePooling, image: Tensor) -> Tensor:
    return tower(image).pooled_BD


def padded(tower: SlicePooling, image: Tensor) -> Tensor:
    place_BD = image[:, -1, :, 0, 0]
    absent_BD = place_BD.isnan()
    filled = image[:, :-1].nan_to_num(-1.0).transpose(1, 2).flatten(0, 1)
    x_BDE = tower.encoder(filled).pooled_BD.unflatten(0, absent_BD.shape)
    x_BDE = x_BDE + tower.place(place_BD.masked_fill(absent_BD, 0))
    for layer in tower.layers:
        x_BDE = layer(x_BDE, absent_BD)
    share_BD = tower.score(x_BDE)[..., 0].masked_fill(absent_BD, -torch.inf).softmax(1)
    return (share_BD[..., None] * x_BDE).sum(1)


def one_by_one(tower: SlicePooling, image: Tensor) -> Tensor:
    counts = (~image[:, -1, :, 0, 0].isnan()).sum(1).tolist()
    return torch.cat([ours(tower, image[b : b + 1, :, :count]) for b, count in enumerate(counts)])


FORMS: dict[str, Callable[[SlicePooling, Tensor], Tensor]] = {
    "padded": padded,
    "ours": ours,
    "one by one": one_by_one,
}


def depths(studies: int) -> list[int]:
    torch.manual_seed(0)
    drawn = SHORTEST * (LONGEST / SHORTEST) ** torch.rand(studies - 2)
    return [SHORTEST, *drawn.round().int().tolist(), LONGEST]


def batch(depth_B: list[int], side: int) -> Tensor:
    image = torch.full((len(depth_B), 2, max(depth_B), side, side), torch.nan)
    for row, depth in zip(image, depth_B, strict=True):
        row[0, :depth] = torch.randn(depth, side, side)
        place = (torch.arange(depth) - (depth - 1) / 2) * SLICE_MM
        row[1, :depth] = place[:, None, None]
    return image


def step(form: Callable[..., Tensor], tower: SlicePooling, image: Tensor) -> float:
    """Seconds of forward and backward."""
    tower.zero_grad()
    start = time.perf_counter()
    form(tower, image).square().sum().backward()
    return time.perf_counter() - start


@torch.no_grad()
def gap(tower: SlicePooling, image: Tensor) -> float:
    """The largest relative difference of what the forms give."""
    found = [form(tower, image) for form in FORMS.values()]
    return max(float((other - found[0]).norm() / found[0].norm()) for other in found[1:])


def report(a: argparse.Namespace) -> str:
    depth_B = depths(a.studies)
    image = batch(depth_B, a.side)
    flat = Vit2dConfig(size=a.side, patch=a.side // 4, width=a.width, depth=2, heads=4)
    tower = SlicesConfig(encoder=flat, heads=4, tokens="slice").build(2)
    difference = gap(tower, image)
    rounds = [{n: step(f, tower, image) for n, f in FORMS.items()} for _ in range(a.rounds + 1)][1:]
    rows = [
        f"| {name} | {spread([1000 * r[name] for r in rounds], 0)} | "
        f"{spread([r['padded'] / r[name] for r in rounds], 2)} |"
        for name in FORMS
    ]
    real = sum(depth_B) / (len(depth_B) * max(depth_B))
    lines = [
        f"# Slice pooling of studies of different depth, {date.today()}",
        "",
        f"`{command()}`, "
        f"{platform.machine()}, cpu, {a.threads} thread(s), torch {torch.__version__}, "
        f"on top of commit {commit()}",
        "",
        f"{a.studies} studies of {', '.join(map(str, sorted(depth_B)))} slices of "
        f"{a.side} x {a.side} pixels, a vision transformer of width {a.width}, float32, forward "
        f"and backward, {a.rounds} rounds, median (least to greatest).",
        "",
        "| form | ms | times as fast as padded, same round |",
        "|---|---|---|",
        *rows,
        "",
        f"Real slices of the padded batch: {real:.0%}, so that at most {1 / real:.2f} times as "
        f"fast can be expected. Largest relative difference of the vectors: {difference:.1e}.",
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("studies", 8), ("rounds", 5), ("side", 32), ("width", 64), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    page = report(arguments)
    publish(page, arguments.out)


if __name__ == "__main__":
    main()
