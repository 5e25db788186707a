"""Peak memory of the word-to-patch contrast beside the direct form with its B x B x T x V tensor.

    python benchmarks/bench_hierarchical.py [--images 16,32,64] [--direct 32] [--out FILE]

The direct form computes every word of every text against every patch of every image at once, texts
padded to the longest. Ours is `contrast_local`, which the objective `hierarchical` uses, as it
computes what is too much to be kept for backward (`PAIR_VALUES`; 32 reports of 512 words and 12³
patches are 27 times as much). Forward and backward on one device, each form in a process of its
own; peak memory is above the inputs. Texts have between a quarter of the words and all of them,
drawn once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from page import command, commit, publish
from torch import Tensor

from medvlp.losses.local import CACHE_VALUES, Words, contrast_local

Form = Callable[[Tensor, Words], Tensor]


def direct(patch_BVE: Tensor, words: Words) -> Tensor:
    word_MTE, real_MT = words.padded()
    product = torch.einsum("bvd,mtd->bmtv", patch_BVE, word_MTE)
    found = product.masked_fill(~real_MT[None, :, :, None], -torch.inf).softmax(2)
    look = (4.0 * found).softmax(3)
    context = torch.einsum("bmtv,bvd->bmtd", look, patch_BVE)
    cosine = F.cosine_similarity(context, word_MTE[None], dim=3)
    total = (5.0 * cosine).masked_fill(~real_MT, -torch.inf).logsumexp(2)
    logits = 10.0 * (total - real_MT.sum(1).log())
    own = torch.arange(len(logits))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def ours(patch_BVE: Tensor, words: Words, values: int = CACHE_VALUES) -> Tensor:
    return contrast_local(patch_BVE, words, aggregate="mean", values=values)


FORMS: dict[str, Form] = {"direct": direct, "ours": ours}


def inputs(images: int, places: int, longest: int, width: int) -> tuple[Tensor, Words]:
    torch.manual_seed(0)
    length_M = torch.randint(longest // 4, longest + 1, (images,))
    length_M[0] = longest
    words = Words(
        word_KE=(0.2 * torch.randn(int(length_M.sum()), width)).requires_grad_(),
        length_M=length_M,
        owner_M=torch.arange(images),
    )
    return (0.2 * torch.randn(images, places, width)).requires_grad_(), words


def peak(form: str, images: int, a: argparse.Namespace) -> dict[str, float]:
    """Extra memory of one step in this process, in MiB, its loss and its gradients' norms."""
    # What is loaded at the first use counts for neither form.
    small = inputs(2, 8, 8, a.width)
    (ours(*small, values=1) if form == "ours" else direct(*small)).backward()
    patch, words = inputs(images, a.places, a.words, a.width)
    before = _peak_kib()
    loss = FORMS[form](patch, words)
    loss.backward()
    assert patch.grad is not None
    assert words.word_KE.grad is not None
    return {
        "mib": (_peak_kib() - before) / 1024,
        "loss": loss.item(),
        "patches": patch.grad.norm().item(),
        "words": words.word_KE.grad.norm().item(),
    }


def _peak_kib() -> int:
    # Not getrusage, whose peak a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0])


def apart(form: str, images: int, a: argparse.Namespace) -> dict[str, float]:
    """`peak` in a process of its own."""
    command = [sys.executable, __file__, "--peak", form, "--images", str(images)]
    for name in ("places", "words", "width", "threads"):
        command += [f"--{name}", str(getattr(a, name))]
    # What is freed goes back at once, so that the peak is of what is held.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env)
    return json.loads(done.stdout)


def report(a: argparse.Namespace) -> str:
    rows, gaps = [], [0.0]
    for images in map(int, a.images.split(",")):
        ours, told = apart("ours", images, a), "| |"
        if images <= a.direct:
            plain = apart("direct", images, a)
            gaps += [abs(ours[k] / plain[k] - 1) for k in ("loss", "patches", "words")]
            told = f"| {plain['mib']:,.0f} | {plain['mib'] / ours['mib']:.1f}"
        rows.append(f"| {images} | {ours['mib']:,.1f} | {ours['mib'] / images:.2f} {told} |")
    lines = [
        f"# Word-to-patch contrast, peak memory, {date.today()}",
        "",
        f"`{command()}`, "
        f"{platform.machine()}, cpu, {a.threads} thread(s), torch {torch.__version__}, "
        f"on top of commit {commit()}",
        "",
        f"V = {a.places}, T = {a.words}, E = {a.width}, float32, forward and backward; MiB above "
        "the inputs, of one process each.",
        "",
        "| B | ours, MiB | ours, MiB a volume | direct, MiB | direct / ours |",
        "|---|---|---|---|---|",
        *rows,
        "",
        f"Largest relative difference of loss and of the gradients' norms: {max(gaps):.1e}.",
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", default="16,32,64", help="values of B")
    parser.add_argument("--direct", type=int, default=32, help="largest B of the direct form")
    for name, value in (("places", 216), ("words", 64), ("width", 64), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--peak", choices=list(FORMS), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    if a.peak:
        print(json.dumps(peak(a.peak, int(a.images), a)))
        return
    page = report(a)
    publish(page, a.out)


if __name__ == "__main__":
    main()
