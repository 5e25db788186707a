"""The word-to-place contrast beside a loop over texts, forward and backward.

    python benchmarks/bench_local.py [--images 64] [--rounds 7] [--out FILE]

The loop is the usual form: for each text, its own words are repeated for every image, and one
column of logits comes of it; both cross-entropies follow. Texts have between a quarter of the words
and all of them, drawn once. Forms are timed in turn, ratios are of the same round. `anew` is ours
where nothing may be kept for backward, as for batches whose pairs are too many.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from page import command, commit, publish, spread
from torch import Tensor

from medvlp.losses.local import CACHE_VALUES, Words, contrast_local


def loop(patch_BPE: Tensor, words: Words) -> Tensor:
    images, columns, start = len(patch_BPE), [], 0
    for length in words.length_M.tolist():
        word_BTE = words.word_KE[start : start + length].expand(images, -1, -1)
        start += length
        found_BTP = torch.bmm(word_BTE, patch_BPE.transpose(1, 2)).softmax(1)
        context_BTE = torch.bmm((4.0 * found_BTP).softmax(2), patch_BPE)
        cosine_BT = F.cosine_similarity(context_BTE, word_BTE, dim=2)
        columns.append(torch.logsumexp(5.0 * cosine_BT, 1))
    logits = 10.0 * torch.stack(columns, 1)
    own = torch.arange(images)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


FORMS: dict[str, Callable[[Tensor, Words], Tensor]] = {
    "loop": loop,
    "ours": contrast_local,
    "anew": lambda patch, words: contrast_local(patch, words, values=CACHE_VALUES),
}


def inputs(images: int, places: int, longest: int, width: int) -> tuple[Tensor, Words]:
    torch.manual_seed(0)
    length_M = torch.randint(longest // 4, longest + 1, (images,))
    words = Words(
        word_KE=(0.2 * torch.randn(int(length_M.sum()), width)).requires_grad_(),
        length_M=length_M,
        owner_M=torch.arange(images),
    )
    return (0.2 * torch.randn(images, places, width)).requires_grad_(), words


def step(form: Callable[[Tensor, Words], Tensor], patch: Tensor, words: Words) -> float:
    """Seconds of forward and backward."""
    patch.grad = words.word_KE.grad = None
    start = time.perf_counter()
    form(patch, words).backward()
    return time.perf_counter() - start


def gap(patch: Tensor, words: Words) -> float:
    """The largest relative difference of loss and gradients between the loop and ours."""
    found = []
    for name in FORMS:
        loss = FORMS[name](patch, words)
        found.append([loss.detach(), *torch.autograd.grad(loss, (patch, words.word_KE))])
    return max(
        float((one - other).norm() / one.norm())
        for form in found[1:]
        for one, other in zip(found[0], form, strict=True)
    )


def report(a: argparse.Namespace) -> str:
    patch, words = inputs(a.images, a.places, a.words, a.width)
    difference = gap(patch, words)
    rounds = [{n: step(f, patch, words) for n, f in FORMS.items()} for _ in range(a.rounds)]
    rows = [
        f"| {name} | {spread([1000 * r[name] for r in rounds], 0)} | "
        f"{spread([r[name] / r['loop'] for r in rounds], 2)} |"
        for name in FORMS
    ]
    lines = [
        f"# Word-to-place contrast, {date.today()}",
        "",
        f"`{command()}`, "
        f"{platform.machine()}, cpu, {a.threads} thread(s), torch {torch.__version__}, "
        f"on top of commit {commit()}",
        "",
        f"B = {a.images}, P = {a.places}, T = {a.words}, E = {a.width}, float32, forward and "
        f"backward, {a.rounds} rounds, median (least to greatest).",
        "",
        "| form | ms | to the loop, same round |",
        "|---|---|---|",
        *rows,
        "",
        f"Largest relative difference of loss and gradients: {difference:.1e}.",
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("images", 64), ("places", 49), ("words", 32), ("width", 128)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    page = report(arguments)
    publish(page, arguments.out)


if __name__ == "__main__":
    main()
