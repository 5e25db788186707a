"""Near copies: sensitivity by change, false pairs by image and by comparison, time.

python benchmarks/bench_duplicates.py --shared ../shared --phantoms 3000 --queries 300 \
    --out benchmarks/results/DATE-duplicates.md
"""

from __future__ import annotations

import argparse
import io
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import beta

from medvlp.archive.duplicates.fingerprint import fingerprint
from medvlp.archive.duplicates.near_copies import near_copies
from medvlp.cxr.phantom import expose, paint
from medvlp.cxr.phantom_findings import draw_findings

Pixels = NDArray[Any]
Change = Callable[[Pixels, np.random.Generator], Pixels]


def unit(image: Pixels) -> Pixels:
    """Values scaled to 0..1."""
    values = image.astype(np.float32)
    return (values - values.min()) / max(float(np.ptp(values)), 1e-6)


def window(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Up to 15 % of pixels clipped at each end, gamma 0.6 to 1.6."""
    low, high = np.quantile(image, (rng.uniform(0, 0.15), rng.uniform(0.85, 1)))
    return np.clip((image - low) / max(high - low, 1e-3), 0, 1) ** rng.uniform(0.6, 1.6)


def crop(image: Pixels, rng: np.random.Generator) -> Pixels:
    """0 to 15 % off each side, unequally."""
    rows, columns = image.shape
    top, bottom, left, right = rng.uniform(0, 0.15, 4)
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
    rows, columns = changed.shape
    top, bottom, left, right = rng.uniform(0, 0.12, 4)
    changed = changed[int(rows * top) : rows - int(rows * bottom)]
    changed = changed[:, int(columns * left) : columns - int(columns * right)]
    return jpeg(resize(changed, rng), rng, 30, 91)


CHANGES: dict[str, Change] = {
    "window": window,
    "crop": crop,
    "JPEG 30": jpeg,
    "flip": lambda image, rng: image[:, ::-1],
    "inversion": lambda image, rng: 1 - unit(image),
    "resize": resize,
    "rotation": rotate,
    "combined": combined,
}


def phantoms(count: int) -> list[tuple[str, Pixels]]:
    """Phantom X-rays, 256 x 256, each of another patient."""
    made = []
    for i in range(count):
        rng = np.random.default_rng([23, i])
        canvas, _ = paint(draw_findings(rng), 256, rng)
        made.append((f"phantom{i}", expose(canvas, rng)))
    return made


def nih(folder: Path) -> list[tuple[str, Pixels]]:
    """NIH X-rays; the patient is the number at the head of the name."""
    files = sorted(folder.rglob("*.png"))
    return [(p.stem.split("_")[0], np.asarray(Image.open(p).convert("L"))) for p in files]


def interval(hits: int, count: int) -> tuple[float, float]:
    """Clopper and Pearson's 95 % interval of a share."""
    low = float(beta.ppf(0.025, hits, count - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, count - hits)) if hits < count else 1.0
    return low, high


def measure(name: str, data: list[tuple[str, Pixels]], queries: int) -> list[str]:
    """Lines of the table for one set."""
    people = [person for person, _ in data]
    start = time.perf_counter()
    own = [fingerprint(image) for _, image in data]
    making = (time.perf_counter() - start) / len(own)
    start = time.perf_counter()
    false = near_copies(own, workers=2)
    looking = (time.perf_counter() - start) / len(own)
    strange = [pair for pair in false if people[pair.one] != people[pair.other]]
    comparisons = len(own) * (len(own) - 1) // 2
    bound = float(beta.ppf(0.95, len(strange) + 1, comparisons - len(strange)))
    lines = [
        f"\n## {name}: {len(own)} images\n",
        f"- false pairs between patients: {len(strange)} in {comparisons:,} comparisons, "
        f"{2 * len(strange) / len(own):.4f} an image; at most {bound:.1e} a "
        f"comparison (95 %), which keeps 0.01 an image up to {int(0.01 / bound):,} images",
        f"- pairs of one patient (repeats or copies; reported from 0.8): "
        f"{sum(p.score >= 0.8 for p in false) - sum(p.score >= 0.8 for p in strange)}",
        f"- fingerprint {1e3 * making:.1f} ms, search {1e3 * looking:.1f} ms an image\n",
        "| change | found | sensitivity | 95 % interval |\n|---|---|---|---|",
    ]
    step = max(1, len(data) // queries)
    asked = list(range(0, len(data), step))[:queries]
    for label, change in CHANGES.items():
        copies = [fingerprint(change(data[i][1], np.random.default_rng([5, i]))) for i in asked]
        pairs = {(pair.one, pair.other) for pair in near_copies([*own, *copies], workers=2)}
        hits = sum((i, len(own) + k) in pairs for k, i in enumerate(asked))
        low, high = interval(hits, len(asked))
        lines.append(
            f"| {label} | {hits} of {len(asked)} | {hits / len(asked):.4f} | {low:.3f}-{high:.3f} |"
        )
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Measure what is there, print it, and write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--phantoms", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = ["# Near copies of images", "", "Two x86-64 cores, no GPU."]
    for folder in ("cxr-nih-1024", "cxr-nih-64"):
        if (args.shared / "data" / folder).is_dir():
            lines += measure(folder, nih(args.shared / "data" / folder), args.queries)
    lines += measure("phantoms", phantoms(args.phantoms), args.queries)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    lines.append(f"\nGreatest memory {memory:.0f} MiB.")
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
