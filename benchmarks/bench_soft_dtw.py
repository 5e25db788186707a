"""Soft-DTW beside the published loop over cells, an eager sweep in torch, and tslearn's kernel.

    python benchmarks/bench_soft_dtw.py [--sizes 8x64x8,128x64x16,16x512x512] [--out FILE]

``--device cuda --sizes 128x64x16,32x1024x1024`` is the GPU run. Timed are forward and backward,
from given costs (B,T,K) of float32 to their gradient, for every form alike: none computes costs,
and tslearn's loss is handed them through its `dist_func`. The published loop (`per cell`) clones
the whole table for every cell, here at least of all samples at once, and is run up to ``--cells``
cells; its soft minimum, and that of `ours, probability`, is ``probability``, the others'
``logsumexp``. Forms are timed in turn, ratios
are of the same round. tslearn is left out, and said to be, where it cannot be imported
(``pip install --no-deps --target DIR tslearn==0.10.0`` and DIR on PYTHONPATH). Peak memory is that
of a process of its own, above inputs and a first small call.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from page import command, commit, publish, spread
from torch import Tensor

from medvlp_video.soft_dtw import soft_dtw

GAMMA = 0.1
LONG = "1x4096x64,16x4096x64"
Form = Callable[[Tensor], Tensor]


def ours(cost_BTK: Tensor) -> Tensor:
    return soft_dtw(cost_BTK, GAMMA)


def ours_probability(cost_BTK: Tensor) -> Tensor:
    return soft_dtw(cost_BTK, GAMMA, soft_min="probability")


def per_cell(cost_BTK: Tensor) -> Tensor:
    """Cell by cell, each with a new copy of the table for autograd."""
    batch, frames, steps = cost_BTK.shape
    table = cost_BTK.new_full((batch, frames + 1, steps + 1), torch.inf)
    table[:, 0, 0] = 0
    for t in range(frames):
        for k in range(steps):
            near_B3 = torch.stack([table[:, t + 1, k], table[:, t, k], table[:, t, k + 1]], 1)
            share_B3 = (-near_B3 / GAMMA).softmax(1)
            mean_B = (share_B3 * near_B3.masked_fill(near_B3.isinf(), 0)).sum(1)
            table = table.clone()
            table[:, t + 1, k + 1] = cost_BTK[:, t, k] + mean_B
    return table[:, -1, -1]


def eager(cost_BTK: Tensor) -> Tensor:
    """Diagonal by diagonal, whole batches at a time, differentiated by autograd."""
    batch, frames, steps = cost_BTK.shape
    t_TK, k_TK = torch.arange(frames)[:, None], torch.arange(steps)
    far = 1e10
    sheared = cost_BTK.new_full((batch, frames + steps - 1, steps), far)
    sheared[:, t_TK + k_TK, k_TK.expand(frames, steps)] = cost_BTK
    border_B1 = cost_BTK.new_full((batch, 1), far)
    before = cost_BTK.new_full((batch, steps), far)
    corner = torch.cat([torch.zeros_like(border_B1), before[:, 1:]], 1)
    for cost_BK in sheared.unbind(1):
        beside = torch.cat([border_B1, before[:, :-1]], 1)
        near_BK3 = torch.stack([before, beside, corner], 2)
        corner = beside
        soft_BK = -GAMMA * torch.logsumexp(-near_BK3 / GAMMA, 2)
        before = (cost_BK + soft_BK).clamp(max=far)
    return before[:, -1]


def tslearn_form(threads: int) -> Form | None:
    if importlib.util.find_spec("tslearn") is None:
        return None
    import numba
    from tslearn.metrics import SoftDTWLossPyTorch

    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))

    def form(cost_BTK: Tensor) -> Tensor:
        batch, frames, steps = cost_BTK.shape
        loss = SoftDTWLossPyTorch(gamma=GAMMA, dist_func=lambda x, y: cost_BTK)
        return loss(cost_BTK.new_empty(batch, frames, 1), cost_BTK.new_empty(batch, steps, 1))

    return form


def inputs(size: tuple[int, ...], device: str) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()


def step(form: Form, cost_BTK: Tensor, repeats: int = 1) -> float:
    """Seconds of forward and backward, the mean of several after one that is not counted.

    That one pays for what the form before has left: full caches, and tables to be freed.
    """
    form(cost_BTK).sum().backward()
    _wait(cost_BTK)
    start = time.perf_counter()
    for _ in range(repeats):
        cost_BTK.grad = None
        form(cost_BTK).sum().backward()
    _wait(cost_BTK)
    return (time.perf_counter() - start) / repeats


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


def forms_for(size: tuple[int, ...], a: argparse.Namespace) -> dict[str, Form]:
    batch, frames, steps = size
    forms: dict[str, Form] = {"ours": ours, "ours, probability": ours_probability}
    if a.device == "cpu" and (compiled := tslearn_form(a.threads)):
        forms["tslearn"] = compiled
    if batch * frames * steps <= a.cells * 100:
        forms["eager"] = eager
    if a.device == "cpu" and batch * frames * steps <= a.cells:
        forms["per cell"] = per_cell
    return forms


def compare(size: tuple[int, ...], a: argparse.Namespace) -> tuple[list[str], float]:
    """Rows of the table, and the median seconds of ours."""
    cost_BTK, forms = inputs(size, a.device), forms_for(size, a)
    for form in forms.values():
        step(form, cost_BTK)
    # Short ones often enough to be measured, 20 ms, but the slow ones once.
    repeats = {n: max(1, int(0.02 / step(f, cost_BTK))) for n, f in forms.items()}
    rounds = [{n: step(f, cost_BTK, repeats[n]) for n, f in forms.items()} for _ in range(a.rounds)]
    rows = []
    for name in forms:
        base = "ours, probability" if name in ("per cell", "ours, probability") else "ours"
        cells = ["x".join(map(str, size)), name, spread([1000 * r[name] for r in rounds], 3)]
        cells.append(spread([r[name] / r[base] for r in rounds], 1))
        cells.append(_apart(name, forms, cost_BTK))
        rows.append(f"| {' | '.join(cells)} |")
    return rows, sorted(r["ours"] for r in rounds)[a.rounds // 2]


def _apart(name: str, forms: dict[str, Form], cost_BTK: Tensor) -> str:
    """How far values (relative) and gradients are from ours in float64."""
    base = ours_probability if name in ("per cell", "ours, probability") else ours
    exact = cost_BTK.detach().double().requires_grad_()
    value = base(exact)
    value.sum().backward()
    found = forms[name](cost_BTK)
    cost_BTK.grad = None
    found.sum().backward()
    off = ((found - value) / value).detach().abs().max(), (cost_BTK.grad - exact.grad).abs().max()
    return f"{float(off[0]):.0e}, {float(off[1]):.0e}"


def exponentials(size: tuple[int, ...], a: argparse.Namespace) -> float:
    """Seconds of torch's own exp and log for as many as the sweeps compute: 5 and 1 a cell."""
    x, out = torch.rand(size, device=a.device), torch.empty(size, device=a.device)
    times = []
    for _ in range(a.rounds + 1):
        _wait(x)
        start = time.perf_counter()
        for _ in range(5):
            torch.exp(x, out=out)
        torch.log(x, out=out)
        _wait(x)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def peak(size: tuple[int, ...], device: str) -> float:
    """Extra memory of one step in this process, in bytes."""
    step(ours, inputs((1, 16, 64), device))
    cost_BTK = inputs(size, device)
    _wait(cost_BTK)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(ours, cost_BTK)
        return torch.cuda.max_memory_allocated() - before
    # The peak starts again from what is in use now.
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = _memory("VmRSS")
    step(ours, cost_BTK)
    return _memory("VmHWM") - before


def _memory(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.split(f"{name}:")[1].split()[0])


def peaks(a: argparse.Namespace) -> list[str]:
    rows = []
    for size in a.long:
        call = [sys.executable, __file__, "--peak", "x".join(map(str, size))]
        call += ["--device", a.device, "--threads", str(a.threads)]
        done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True)
        tables = 2 * 4 * size[0] * size[1] * size[2]
        used = json.loads(done.stdout)
        rows.append(
            f"| {'x'.join(map(str, size))} | {tables / 2**20:.2f} | {used / 2**20:.2f} | "
            f"{used / tables:.3f} |"
        )
    return rows


def report(a: argparse.Namespace) -> str:
    rows, shares = [], []
    for size in a.sizes:
        found, seconds = compare(size, a)
        rows += found
        cells = size[0] * size[1] * size[2]
        shares.append(
            f"{'x'.join(map(str, size))}: {1e9 * seconds / cells:.1f} ns a cell, of which torch's "
            f"exp and log of as many numbers would take {exponentials(size, a) / seconds:.0%}"
        )
    missing = a.device == "cpu" and importlib.util.find_spec("tslearn") is None
    lines = [
        f"# Soft-DTW, {date.today()}",
        "",
        f"`{command()}`, {platform.machine()}, {a.device}, {a.threads} thread(s), "
        f"torch {torch.__version__}, on top of commit {commit()}",
        "",
        "Forward and backward from given costs of float32 (no form computes costs), gamma "
        f"{GAMMA}, {a.rounds} rounds, median (least to greatest). `per cell` is compared with "
        "`ours, probability`, whose soft minimum it has. The last column: values relative to, and "
        "gradients less, those of ours in float64.",
        *(["", "tslearn cannot be imported here and is left out."] if missing else []),
        "",
        "| B x T x K | form | ms | times ours, same round | off by |",
        "|---|---|---|---|---|",
        *rows,
        "",
        "Time and its limit: " + "; ".join(shares) + ".",
        "",
        "| B x T x K | two tables, MiB | peak of one step, MiB | share |",
        "|---|---|---|---|",
        *peaks(a),
    ]
    return "\n".join([*lines, ""])


def _sizes(text: str) -> list[tuple[int, ...]]:
    return [tuple(map(int, size.split("x"))) for size in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=_sizes, default="8x64x8,128x64x16,16x512x512")
    parser.add_argument("--long", type=_sizes, default=LONG)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cells", type=int, default=5000)
    parser.add_argument("--peak", type=_sizes)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    if a.peak:
        print(peak(a.peak[0], a.device))
        return
    publish(report(a), a.out)


if __name__ == "__main__":
    main()
