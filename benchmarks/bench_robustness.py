"""The robustness suite before toy scorers, its corruptions' speed and order, its attacks' bounds.

    python benchmarks/bench_robustness.py [--pairs 5200] [--size 224] [--sheet PNG] [--out FILE]

Toy scorers have known scores; what they get is measured over all pairs. Corruptions are timed in
CPU seconds on synthetic images, one core; PSNR is the mean over several. Attacks are compared with
the closed form on a linear two-tower, and in strength on a curved one.
"""

from __future__ import annotations

import argparse
import math
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from PIL import Image

from medvlp.data.assertions import assertion
from medvlp.data.randomness import generator
from medvlp.evaluate.metrics.estimate import metric_rows
from medvlp.evaluate.predictions import PREDICTIONS
from medvlp.evaluate.robustness.attacks.gradient import fgsm, noise, pgd, to_8bit, universal, within
from medvlp.evaluate.robustness.corruptions import planes
from medvlp.evaluate.robustness.corruptions.apply import KINDS, LEVELS, corrupted, psnr
from medvlp.evaluate.robustness.forms import FORMS
from medvlp.evaluate.robustness.pairs.grammar import Axis, text_pairs, vocabulary
from medvlp.evaluate.robustness.pairs.pair import Case, Pair
from medvlp.evaluate.robustness.sentences import (
    SCORE,
    ChanceScorer,
    SentenceScorer,
    judged,
    pair_rows,
    share_measures,
)

AXES: tuple[Axis, ...] = ("polarity", "laterality", "severity")


class Toy:
    def __init__(self, function: Callable[[Case, str], float]) -> None:
        self.score = function


def toys(pairs: list[Pair]) -> dict[str, SentenceScorer]:
    right = {(p.case.key, p.right) for p in pairs}
    names = [entry.name for entry in vocabulary()]
    weight: dict[str, float] = {}
    rng = np.random.default_rng(0)

    def found(text: str) -> set[str]:
        return {name for name in names if name in text.lower()}

    def liking(case: Case, sentence: str) -> float:
        words = sentence.lower().rstrip(".").split()
        return sum(weight.setdefault(word, float(rng.normal())) for word in words)

    def overlap(case: Case, sentence: str) -> float:
        said = set(re.findall(r"\w+", sentence.lower()))
        known = set(re.findall(r"\w+", (case.anchor or "").lower()))
        return len(said & known) / math.sqrt(len(said) * len(known))

    grade = {"present": 1.0, "uncertain": 0.5, "absent": 0.0}

    def rules(case: Case, sentence: str) -> float:
        name = max(found(sentence) & found(case.anchor or "") or {""}, key=len)
        if not name:
            return 0.0
        values = []
        for text in (sentence, case.anchor or ""):
            start = text.lower().index(name)
            values.append(grade[assertion(text, (start, start + len(name)))])
        return -abs(values[0] - values[1])

    return {
        "oracle": Toy(lambda case, text: float((case.key, text) in right)),
        "inverted oracle": Toy(lambda case, text: -float((case.key, text) in right)),
        "finding words alone": Toy(
            lambda case, text: float(len(found(case.anchor or "") & found(text)))
        ),
        "longer sentence": Toy(lambda case, text: float(len(text))),
        "likings for words, blind": Toy(liking),
        "chance": ChanceScorer(0),
        "overlap of all words": Toy(overlap),
        "rules of negation": Toy(rules),
    }


def score_of(pairs: list[Pair], scorer: SentenceScorer, axis: Axis) -> str:
    rows, _ = pair_rows(pairs, judged(pairs, scorer), {}, {"model": "toy", "seed": 0})
    table = rows.with_columns(protocol=pl.lit("p"), control=pl.lit(False), digest=None).select(
        pl.col(name).cast(kind) for name, kind in PREDICTIONS.items()
    )
    (row,) = (
        r
        for r in metric_rows(
            table, lambda model, seed: share_measures(axis), domain="any", draws=200,
            confidence=0.95, seed=0,
        )
        if r.metric == SCORE
    )  # fmt: skip
    assert row.value is not None
    return f"{100 * row.value:.1f} ({100 * (row.low or 0):.1f}–{100 * (row.high or 0):.1f})"


def toy_table(count: int) -> Iterator[str]:
    pairs = {axis: text_pairs(axis, count, seed=0) for axis in AXES}
    sizes = [f"{len(p)} pairs, {len({q.finding for q in p})} findings" for p in pairs.values()]
    yield "| scorer | " + " | ".join(f"{a}: {s}" for a, s in zip(AXES, sizes, strict=True)) + " |"
    yield "|---|---|---|---|"
    scorers = {axis: toys(pairs[axis]) for axis in AXES}
    for name in scorers["polarity"]:
        cells = [score_of(pairs[axis], scorers[axis][name], axis) for axis in AXES]
        yield f"| {name} | " + " | ".join(cells) + " |"


def scene(form: str, seed: int, size: int) -> np.ndarray:
    rng = np.random.default_rng(seed)

    def plane(cells: int) -> np.ndarray:
        return 0.5 + 0.35 * planes.field((size, size), rng, cells)

    if form == "xray":
        return FORMS["xray"].restored(np.clip(plane(5) + 0.15 * (plane(24) - 0.5), 0.05, 0.95))
    if form == "ct":
        small = 96
        body = np.clip((0.85 - planes.radius((small, small))) * 20, 0, 1)
        texture = 300 * np.stack([planes.field((small, small), rng, 6) for _ in range(24)])
        return FORMS["ct"].restored(-1000 + body * (960 + texture))
    wide = np.stack([plane(7) for _ in range(3)], axis=-1)
    return FORMS["video"].restored(np.stack([np.roll(wide, 2 * k, axis=1) for k in range(8)]))


def corruption_table(form: str, size: int, images: int) -> Iterator[str]:
    arrays = [scene(form, seed, size) for seed in range(images)]
    yield "| kind | PSNR at levels 1–5, dB | CPU ms | a second |"
    yield "|---|---|---|---|"
    for kind in KINDS[form]:
        means, seconds = [], []
        for level in LEVELS:
            start = time.process_time()
            after = [corrupted(a, kind, level, seed=0, sample=str(i)) for i, a in enumerate(arrays)]
            seconds.append((time.process_time() - start) / len(arrays))
            means.append(np.mean([psnr(a, b) for a, b in zip(arrays, after, strict=True)]))
        assert (np.diff(means) < 0).all(), (form, kind, means)
        mean = float(np.mean(seconds))
        told = ", ".join(f"{value:.1f}" for value in means)
        yield f"| {kind} | {told} | {1000 * mean:.1f} | {1 / mean:.0f} |"


def towers(seed: int, size: int = 16) -> tuple[Callable, Callable, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    image, text = torch.randn(8, size * size, generator=rng), torch.randn(8, generator=rng)
    first = torch.randn(32, size * size, generator=rng) / size

    def linear(u: torch.Tensor) -> torch.Tensor:
        return u.flatten(1) @ image.T @ text

    def curved(u: torch.Tensor) -> torch.Tensor:
        hidden = torch.sin(6 * u.flatten(1) @ first.T) @ image[:, :32].T
        return F.normalize(hidden, dim=-1) @ F.normalize(text, dim=0)

    clean = torch.rand(32, 1, size, size, generator=rng)
    return linear, curved, (text @ image).view(1, 1, size, size), clean


def attack_table(seeds: int) -> Iterator[str]:
    yield (
        "| ε of 255 | PGD against closed form, largest relative gap | margin lost: noise | FGSM "
        "| PGD-20 | largest change after rounding, grey levels |"
    )
    yield "|---|---|---|---|---|---|"
    for grey in (1, 2, 4, 8):
        eps, gaps, lost, used = grey / 255, [], [], []
        for seed in range(seeds):
            linear, curved, slope, clean = towers(seed)
            room = torch.where(slope > 0, clean, 1 - clean).clamp(max=eps)
            best = (room * slope.abs()).flatten(1).sum(1)
            fall = linear(clean) - linear(pgd(linear, clean, eps))
            gaps.append(((fall - best).abs() / best).max().item())
            made = [
                noise(clean, eps, generator(seed, 0, "bench", "noise")),
                fgsm(curved, clean, eps),
                pgd(curved, clean, eps),
            ]
            lost.append([(curved(clean) - curved(u)).mean().item() for u in made])
            kept = [to_8bit(u, clean, eps) - clean for u in made]
            used.append(max(255 * change.abs().max().item() for change in kept))
        means = np.mean(lost, axis=0)
        assert means[0] <= means[1] <= means[2]
        assert max(used) <= grey + 1e-3
        cells = " | ".join(f"{value:.4f}" for value in means)
        yield f"| {grey} | {max(gaps):.1e} | {cells} | {max(used):.4f} |"
    linear, _, slope, clean = towers(0)
    middle = 0.2 + 0.6 * clean
    eps = 12 / 255
    delta = universal([(linear, middle[:16])], eps)
    unseen = middle[16:]
    fall = linear(unseen) - linear(within(unseen + delta, unseen, eps))
    gap = (fall - eps * slope.abs().sum()).abs().max() / (eps * slope.abs().sum())
    yield ""
    yield f"Universal at 12/255, learnt on 16 and tested on 16 others: closed form to {gap:.1e}."


def draw_sheet(path: Path) -> None:
    """All kinds and levels of X-ray corruptions in one picture, the clean image at the left."""
    stored, rows = scene("xray", 0, 112), []
    for kind in KINDS["xray"]:
        line = [stored, *(corrupted(stored, kind, k, seed=0, sample="0") for k in LEVELS)]
        rows.append(np.concatenate(line, axis=1) >> 8)
    Image.fromarray(np.concatenate(rows).astype(np.uint8)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5200)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = ["## Toy scorers, per cent right (95 % interval, clustered by finding)", ""]
    lines += toy_table(given.pairs)
    titles = {
        "xray": f"X-ray, {given.size} × {given.size}",
        "ct": "CT, 24 × 96 × 96",
        "video": f"video, 8 frames of {given.size} × {given.size}",
    }
    for form, title in titles.items():
        lines += ["", f"## Corruptions of {title}", ""]
        lines += corruption_table(form, given.size, given.images)
    lines += ["", "## Attacks on toy two-towers", ""]
    lines += attack_table(given.seeds)
    text = "\n".join(lines)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")
    if given.sheet is not None:
        draw_sheet(given.sheet)


if __name__ == "__main__":
    main()
