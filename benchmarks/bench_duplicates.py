"""Near copies: sensitivity by change, false pairs by image and by comparison, time and memory.

python benchmarks/bench_duplicates.py --shared ../shared --out benchmarks/results/DATE-duplicates.md

Settings are chosen with `--half even` (patients of even numbers, phantoms of one seed); what counts
is `--half odd` (the other patients, phantoms of another seed), which is the default.
"""

from __future__ import annotations

import argparse
import io
import resource
import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import beta

from medvlp.archive.duplicates.fingerprint import fingerprint, picture
from medvlp.archive.duplicates.landmarks import Index
from medvlp.archive.duplicates.near_copies import COPY, Pair, copies_of
from medvlp.cxr.phantom import expose, paint
from medvlp.cxr.phantom_findings import draw_findings

Pixels = NDArray[Any]
Change = Callable[[Pixels, np.random.Generator], Pixels]


def unit(image: Pixels) -> Pixels:
    """Values scaled to 0..1."""
    values = image.astype(np.float32)
    return np.asarray((values - values.min()) / max(float(np.ptp(values)), 1e-6))


def window(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Up to 15 % of pixels clipped at each end, gamma 0.6 to 1.6."""
    low, high = np.quantile(image, (rng.uniform(0, 0.15), rng.uniform(0.85, 1)))
    unclipped = (image - low) / max(high - low, 1e-3)
    return np.asarray(np.clip(unclipped, 0, 1) ** rng.uniform(0.6, 1.6))


def crop(image: Pixels, rng: np.random.Generator, most: float = 0.15) -> Pixels:
    """0 to `most` off each side, unequally."""
    rows, columns = image.shape
    top, bottom, left, right = rng.uniform(0, most, 4)
    return image[
        int(rows * top) : rows - int(rows * bottom),
        int(columns * left) : columns - int(columns * right),
    ]


def jpeg(image: Pixels, rng: np.random.Generator, least: int = 30, most: int = 31) -> Pixels:
    """JPEG, by default of quality 30."""
    stream = io.BytesIO()
    quality = int(rng.integers(least, most))
    Image.fromarray((unit(image) * 255).astype(np.uint8)).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def resize(image: Pixels, rng: np.random.Generator) -> Pixels:
    """0.5 to 2 times the size."""
    scale = rng.uniform(0.5, 2)
    size = [max(20, int(n * scale)) for n in image.shape[::-1]]
    return np.asarray(Image.fromarray(unit(image)).resize(size, Image.Resampling.BICUBIC))


def rotate(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Up to 3 degrees."""
    picture = Image.fromarray(unit(image))
    return np.asarray(picture.rotate(rng.uniform(-3, 3), Image.Resampling.BICUBIC))


def combined(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Window, crop to 12 %, resize, JPEG 30 to 90; half flipped, a third inverted."""
    changed = window(image, rng)
    changed = changed[:, ::-1] if rng.random() < 0.5 else changed
    changed = 1 - changed if rng.random() < 0.33 else changed
    changed = crop(changed, rng, 0.12)
    return jpeg(resize(changed, rng), rng, 30, 91)


CHANGES: dict[str, Change] = {
    "window": window,
    "crop to 10 % a side": partial(crop, most=0.1),
    "crop to 15 % a side": crop,
    "JPEG 30": jpeg,
    "flip": lambda image, rng: image[:, ::-1],
    "inversion": lambda image, rng: 1 - unit(image),
    "resize": resize,
    "rotation": rotate,
    "combined": combined,
}


def phantoms(count: int, seed: int) -> list[tuple[int, Pixels]]:
    """Phantom X-rays, 256 x 256, each of another patient."""
    made = []
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        canvas, _ = paint(draw_findings(rng), 256, rng)
        made.append((i, expose(canvas, rng)))
    return made


def nih(folder: Path) -> list[tuple[int, Pixels]]:
    """NIH X-rays; the patient is the number at the head of the name."""
    files = sorted(folder.rglob("*.png"))
    return [(int(p.stem.split("_")[0]), np.asarray(Image.open(p).convert("L"))) for p in files]


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z2 = 1.959964**2
    middle = (hits + z2 / 2) / (count + z2)
    half = (z2 * (hits * (count - hits) / count + z2 / 4)) ** 0.5 / (count + z2)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def shown(image: Pixels) -> Pixels:
    """The picture in an image's fingerprint."""
    found = picture(fingerprint(image))
    assert found is not None
    return found


def measure(
    name: str, data: Sequence[tuple[int, Pixels]], mine: Sequence[int], queries: int
) -> list[str]:
    """Lines of the report for one set.

    Args:
        name: Of the set.
        data: Patient and image.
        mine: Places of the images that count; the others only stand in the index.
        queries: At most so many copies of each change.
    """
    start = time.process_time()
    own = np.stack([shown(image) for _, image in data])
    making = (time.process_time() - start) / len(own)
    lines = [f"\n## {name}: {len(own)} images, {len(mine)} of them count\n"]
    lines += _strangers([patient for patient, _ in data], own, set(mine))
    lines.append(f"- making a fingerprint: {1e3 * making:.1f} ms an image\n")
    lines.append("| change | found | sensitivity | 95 % interval | lowest scores |")
    lines.append("|---|---|---|---|---|")
    asked = list(mine)[:queries]
    for label, change in CHANGES.items():
        copies = [shown(change(data[i][1], np.random.default_rng([5, i]))) for i in asked]
        scores = np.sort(_recovered(np.concatenate([own, np.stack(copies)]), asked))
        hits = int((scores >= COPY).sum())
        low, high = wilson(hits, len(asked))
        lowest = " ".join(f"{score:.2f}" for score in scores[:4])
        lines.append(
            f"| {label} | {hits} of {len(asked)} | {hits / len(asked):.4f} | "
            f"{low:.3f}-{high:.3f} | {lowest} |"
        )
        print(lines[-1], flush=True)
    return lines


def _strangers(people: Sequence[int], own: Pixels, mine: set[int]) -> list[str]:
    """Pairs of different patients among the images that count, and the time of a look."""
    index = Index(own)
    start = time.process_time()
    best: dict[tuple[int, int], float] = {}
    for first in range(0, len(own), 64):
        for pair in copies_of(index, first, min(first + 64, len(own)), 0.3):
            if pair.one in mine and pair.other in mine:
                best[pair[:2]] = max(pair.score, best.get(pair[:2], 0.0))
    looking = (time.process_time() - start) / len(own)
    strange = sorted((s for (a, b), s in best.items() if people[a] != people[b]), reverse=True)
    same = [s for (a, b), s in best.items() if people[a] == people[b]]
    counts = np.unique([people[i] for i in mine], return_counts=True)[1]
    comparisons = len(mine) * (len(mine) - 1) // 2 - int((counts * (counts - 1) // 2).sum())
    false = sum(score >= COPY for score in strange)
    bound = float(beta.ppf(0.95, false + 1, comparisons - false))
    return [
        f"- false pairs between patients: {false} in {comparisons:,} comparisons, "
        f"{2 * false / len(mine):.4f} an image (each pair counted for both); at most {bound:.1e} a "
        f"comparison (95 %), which supports 0.01 an image up to {int(0.01 / bound):,} images",
        f"- highest scores of different patients: {' '.join(f'{s:.2f}' for s in strange[:6])}",
        f"- pairs within a patient, reported from 0.8: {sum(s >= 0.8 for s in same)} "
        f"of {int((counts * (counts - 1) // 2).sum())}",
        f"- looking an image up: {1e3 * looking:.1f} ms of one core",
    ]


def _recovered(pictures: Pixels, asked: Sequence[int]) -> list[float]:
    """The score at which each copy and its original are paired, whichever is looked up; 0: not."""
    index, count = Index(pictures), len(pictures) - len(asked)
    scores = dict.fromkeys(asked, 0.0)

    def note(pairs: Sequence[Pair]) -> None:
        for one, other, score in pairs:
            if one in scores and other == number[one]:
                scores[one] = max(score, scores[one])

    number = {one: count + k for k, one in enumerate(asked)}
    for start in range(count, len(pictures), 64):
        note(copies_of(index, start, min(start + 64, len(pictures)), 0.3))
    for one in asked:
        if scores[one] < COPY:
            note(copies_of(index, one, one + 1, 0.3))
    return list(scores.values())


def scaling(pictures: Pixels) -> list[str]:
    """Time and memory of indexes of up to four times as many pictures: their quarter turns."""
    lines = [
        "\n## Growth: pictures and their quarter turns (none is another's mirror image)\n",
        "| pictures | index, ms a picture | kept, bytes a picture | most while made | look, ms |",
        "|---|---|---|---|---|",
    ]
    for turns in (1, 4):
        many = np.concatenate([np.rot90(pictures, k, axes=(1, 2)) for k in range(turns)])
        start = time.process_time()
        Index(many)
        making = (time.process_time() - start) / len(many)
        tracemalloc.start()
        index = Index(many)
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        start = time.process_time()
        copies_of(index, 0, 64)
        looking = (time.process_time() - start) / 64
        lines.append(
            f"| {len(many):,} | {1e3 * making:.1f} | {kept / len(many):,.0f} | "
            f"{peak / 2**20:,.0f} MiB | {1e3 * looking:.1f} |"
        )
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Measure what is there, print it, and write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--sets", nargs="+", default=["cxr-nih-64", "phantoms"])
    parser.add_argument("--half", choices=("even", "odd"), default="odd")
    parser.add_argument("--phantoms", type=int, default=30)
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--growth", action="store_true", help="time and memory of larger indexes")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    odd = args.half == "odd"
    lines = ["# Near copies of images", "", f"Half that counts: {args.half}. Threshold {COPY}."]
    for name in args.sets:
        folder = args.shared / "data" / name
        if name == "phantoms":
            data = phantoms(args.phantoms, 29 if odd else 23)
            lines += measure(name, data, range(len(data)), args.queries)
        elif folder.is_dir():
            data = nih(folder)
            mine = [i for i, (patient, _) in enumerate(data) if patient % 2 == odd]
            lines += measure(name, data, mine, args.queries)
        else:
            continue
        if args.growth:
            lines += scaling(np.stack([shown(image) for _, image in data]))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    lines.append(f"\nGreatest memory of the process {memory:.0f} MiB.")
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
