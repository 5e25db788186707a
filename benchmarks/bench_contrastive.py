"""Contrastive loss in tiles beside the plain form with its matrix of all pairs.

    python benchmarks/bench_contrastive.py [--sizes 4096,8192] [--large 0] [--out FILE]

``--sizes 4096,8192,16384 --large 131072`` is the full CPU run; ``--device cuda`` the GPU's, with
the plain form also compiled. The plain form is what open_clip's ``ClipLoss`` computes on one
device: the logits of images and those of texts, each a product of its own, and the mean of two
cross-entropies. ``shared`` takes the texts' logits as the transpose of the images', as that loss
does on several devices. Peak memory is that of processes of their own, above the inputs; times are
of forward and backward together, the forms in turn.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from page import command, commit, publish, spread
from torch import Tensor

from medvlp.losses.contrastive import clip_loss

SCALE = 1 / 0.07
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain(image_BD: Tensor, text_BD: Tensor, scale: Tensor) -> Tensor:
    images, texts = scale * image_BD @ text_BD.T, scale * text_BD @ image_BD.T
    return _cross_entropies(images, texts)


def shared(image_BD: Tensor, text_BD: Tensor, scale: Tensor) -> Tensor:
    images = scale * image_BD @ text_BD.T
    return _cross_entropies(images, images.T)


def _cross_entropies(images: Tensor, texts: Tensor) -> Tensor:
    own = torch.arange(len(images), device=images.device)
    return (F.cross_entropy(images, own) + F.cross_entropy(texts, own)) / 2


FORMS: dict[str, Loss] = {"plain": plain, "shared": shared, "tiled": clip_loss}


def inputs(count: int, width: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    image, text = (F.normalize(torch.randn(count, width, device=device), dim=1) for _ in range(2))
    scale = torch.tensor(SCALE, device=device)
    return image.requires_grad_(), text.requires_grad_(), scale.requires_grad_()


def step(loss: Loss, tensors: tuple[Tensor, Tensor, Tensor]) -> float:
    """Seconds of forward and backward."""
    for tensor in tensors:
        tensor.grad = None
    _wait(tensors)
    start = time.perf_counter()
    loss(*tensors).backward()
    _wait(tensors)
    return time.perf_counter() - start


def _wait(tensors: tuple[Tensor, ...]) -> None:
    if tensors[0].is_cuda:
        torch.cuda.synchronize()


def peak(form: str, count: int, width: int, device: str) -> dict[str, float]:
    """Extra memory of one step in this process, in MiB, and its seconds."""
    step(FORMS[form], inputs(64, width, device))
    tensors = inputs(count, width, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        seconds = step(FORMS[form], tensors)
        return {"mib": (torch.cuda.max_memory_allocated() - before) / 2**20, "seconds": seconds}
    before = _peak_kib()
    seconds = step(FORMS[form], tensors)
    return {"mib": (_peak_kib() - before) / 1024, "seconds": seconds}


def _peak_kib() -> int:
    # Not getrusage, whose peak a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0])


def apart(form: str, count: int, arguments: argparse.Namespace) -> dict[str, float]:
    """`peak` in a process of its own."""
    command = [sys.executable, __file__, "--peak", form, "--sizes", str(count)]
    command += ["--width", str(arguments.width), "--device", arguments.device]
    command += ["--threads", str(arguments.threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def compare(count: int, arguments: argparse.Namespace) -> str:
    """A row of the table: times in turn, ratios round by round, peaks."""
    forms = dict(FORMS)
    if arguments.device == "cuda":
        forms["compiled"] = torch.compile(plain)
    tensors = inputs(count, arguments.width, arguments.device)
    warm = arguments.rounds if arguments.device == "cuda" else 0
    for loss in forms.values():
        for _ in range(warm):
            step(loss, tensors)
    rounds = [{n: step(f, tensors) for n, f in forms.items()} for _ in range(arguments.rounds)]
    cells = [f"{count:,}", spread([r["tiled"] for r in rounds])]
    for name in (n for n in forms if n != "tiled"):
        cells.append(spread([r["tiled"] / r[name] for r in rounds]))
    mib = {form: apart(form, count, arguments)["mib"] for form in ("plain", "tiled")}
    cells += [f"{mib['plain']:,.0f}", f"{mib['tiled']:,.0f}", f"{mib['tiled'] / mib['plain']:.3f}"]
    cells.append(_share(count, arguments, [r["tiled"] for r in rounds]))
    return f"| {' | '.join(cells)} |"


def _share(count: int, arguments: argparse.Namespace, seconds: list[float]) -> str:
    """The four products' share of the time that the step takes, at this machine's matmul rate."""
    side = min(count, 8192)
    left, right = (torch.randn(side, side, device=arguments.device) for _ in range(2))
    left, right = left[:, : arguments.width].contiguous(), right[: arguments.width].contiguous()
    for _ in range(2):
        _wait((left,))
        start = time.perf_counter()
        left @ right
        _wait((left,))
        product = time.perf_counter() - start
    return f"{4 * product * (count / side) ** 2 / statistics.median(seconds):.2f}"


def report(arguments: argparse.Namespace) -> str:
    compiled = " to compiled |" if arguments.device == "cuda" else ""
    rows = [compare(count, arguments) for count in arguments.sizes]
    lines = [
        f"# Contrastive loss in tiles, {date.today()}",
        "",
        f"`{command()}`, "
        f"{platform.machine()}, {arguments.device}, {arguments.threads} threads, "
        f"torch {torch.__version__}, commit {commit()}",
        "",
        f"D = {arguments.width}, float32, {arguments.rounds} rounds, median (least to greatest). "
        "`products` is the time of four matrix products at the rate of one large product, as a "
        "share of the tiled step's.",
        "",
        "| N | tiled, s | to plain | to shared |" + compiled + " plain, MiB | tiled, MiB | ratio |"
        " products |",
        "|---|---|---|---|" + ("---|" if compiled else "") + "---|---|---|---|",
        *rows,
    ]
    if arguments.large:
        found = apart("tiled", arguments.large, arguments)
        lines += [
            "",
            f"N = {arguments.large:,}, tiled: {found['mib']:,.0f} MiB, {found['seconds']:,.0f} s; "
            f"one matrix of all pairs alone would take {arguments.large**2 * 4 / 2**30:,.0f} GiB.",
        ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sizes", type=lambda v: [int(n) for n in v.split(",")], default=[4096, 8192]
    )
    parser.add_argument("--large", type=int, default=0)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--peak", choices=list(FORMS), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU; install its CUDA build, or leave it out")
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        found = peak(arguments.peak, arguments.sizes[0], arguments.width, arguments.device)
        print(json.dumps(found))
        return
    page = report(arguments)
    publish(page, arguments.out)


if __name__ == "__main__":
    main()
