"""The scaling model of docs/scaling.md, and what of it can be measured on this machine.

    python benchmarks/bench_scaling.py [--out FILE]

Prints a Markdown page: predicted against measured (bytes that two processes exchange, bytes that
a transformer saves for its backward pass, bytes of a cache), then the model's tables.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scaling_model as model
import torch
import torch.distributed as dist
from page import commit
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from medvlp.data.cache_entry import write_entry
from medvlp.losses.gather import contrast_clip
from medvlp.models.image2d import Vit2dConfig

BATCH, EMBED, RANKS = 64, 128, 2
TOKENS, WIDTH, DEPTH, SAMPLES = 197, 192, 4, 2


def rank_main(folder: Path, rank: int) -> None:
    """One of two processes: a contrast and a step of DDP, every byte handed over counted."""
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS)
    torch.manual_seed(rank)
    counted: Counter[str] = Counter()
    gather, reduce = dist.all_gather, dist.all_reduce

    def all_gather(parts: list[torch.Tensor], value: torch.Tensor) -> None:
        counted["all_gather"] += value.nbytes
        gather(parts, value)

    def all_reduce(value: torch.Tensor, op: dist.ReduceOp = dist.ReduceOp.SUM) -> None:
        counted["all_reduce"] += value.nbytes
        reduce(value, op)

    def average(_: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        counted["gradients"] += bucket.buffer().nbytes
        return allreduce_hook(None, bucket)

    dist.all_gather, dist.all_reduce = all_gather, all_reduce  # type: ignore[assignment]
    rows = [torch.randn(BATCH, EMBED, requires_grad=True) for _ in range(2)]
    contrast_clip(*rows, torch.arange(BATCH), 10.0).backward()
    dist.all_gather, dist.all_reduce = gather, reduce
    layers = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 64))
    parallel = DistributedDataParallel(layers)
    parallel.register_comm_hook(None, average)
    parallel(torch.randn(4, 256)).sum().backward()
    counted["parameters"] = sum(p.numel() for p in layers.parameters())
    torch.save(dict(counted), folder / f"{rank}.pt")
    dist.destroy_process_group()


def exchanged() -> Iterator[tuple[str, float, float]]:
    """Predicted and measured bytes that a process hands to its collectives."""
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            subprocess.Popen([sys.executable, __file__, "--rank", str(rank), "--folder", folder])
            for rank in range(RANKS)
        ]
        if [process.wait(timeout=300) for process in ranks] != [0] * RANKS:
            raise SystemExit("a rank failed")
        found = torch.load(Path(folder) / "0.pt", weights_only=True)
    expected = model.payload_bytes(BATCH, EMBED, RANKS)
    size = f"{BATCH} x {EMBED}, {RANKS} ranks"
    yield f"contrast, all-gather, {size}", expected["all_gather"], found["all_gather"]
    yield f"contrast, all-reduce, {size}", expected["all_reduce"], found["all_reduce"]
    yield "DDP, gradients of a small network", found["parameters"] * 4, found["gradients"]


def saved_bytes(tower: nn.Module, image: torch.Tensor) -> int:
    """Bytes that autograd keeps for the backward pass, weights and input left out."""
    own = {p.untyped_storage().data_ptr() for p in (*tower.parameters(), image)}
    kept: dict[int, int] = {}

    def pack(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        features = tower(image)
    # Alive until here, so that no address is used twice.
    del features
    return sum(kept.values())


def activations() -> Iterator[tuple[str, float, float]]:
    """Predicted and measured bytes of activations; the difference of two depths, so that the
    patches' embedding, the last norm and the pooling fall out."""
    image = torch.rand(SAMPLES, 1, 224, 224)
    for recompute, formula in ((False, model.activation_bytes), (True, None)):
        found = []
        for depth in (DEPTH, 2 * DEPTH):
            config = Vit2dConfig(size=224, patch=16, width=WIDTH, depth=depth, heads=3,
                                 checkpoint_activations=recompute)  # fmt: skip
            found.append(saved_bytes(config.build(1), image))
        if formula is not None:
            expected = SAMPLES * formula(TOKENS, WIDTH, DEPTH, model.FP32)
        else:
            expected = SAMPLES * model.FP32 * TOKENS * WIDTH * DEPTH
        words = "block inputs, checkpointed" if recompute else "all"
        size = f"N={TOKENS}, C={WIDTH}, L={DEPTH}, {SAMPLES} samples, fp32"
        yield f"ViT, activations, {words}, {size}", expected, found[1] - found[0]


def cache() -> Iterator[tuple[str, float, float]]:
    """Predicted and measured bytes of entries."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        picture = rng.integers(0, 256, (224, 224), np.uint8)
        entry = write_entry(Path(folder), "a", picture, "auto")
        yield "cache, picture of 224 x 224 bytes", picture.nbytes, entry.stat().st_size
        # Smooth tissue in 20 HU of noise: the hard case; clean phantoms shrink far more.
        axes = [np.linspace(-3, 3, n) for n in (64, 256, 256)]
        smooth = 400 * np.sin(axes[0])[:, None, None] * np.cos(axes[1])[:, None] * np.cos(axes[2])
        hu_DHW = (smooth + rng.normal(0, 20, smooth.shape)).astype(np.int16)
        entry = write_entry(Path(folder), "b", hu_DHW, "auto")
        yield (
            "cache, CT of int16 in 20 HU of noise (0.5 of raw)",
            hu_DHW.nbytes / 2,
            entry.stat().st_size,
        )


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def scale(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} PB"


def measured() -> str:
    rows = [
        [what, f"{expected:,.0f}", f"{found:,.0f}", f"{found / expected:.3f}"]
        for part in (exchanged, activations, cache)
        for what, expected, found in part()
    ]
    return table(["what", "predicted, bytes", "measured, bytes", "measured / predicted"], rows)


def exchange_table(job: model.Job, link: float) -> str:
    rows = []
    for ranks in (8, 64, 256, 1000):
        gathered = model.gathered_bytes(job.batch, job.embed, ranks)
        gradients = model.gradient_bytes(job.parameters, ranks)
        contrast = sum(gathered.values())
        share = [f"{bytes_ / link / job.step_s:.1%}" for bytes_ in (contrast, gradients)]
        rows.append([
            str(ranks), f"{job.batch * ranks:,}", scale(contrast),
            scale(model.ring_bytes(job.batch, job.embed, ranks)), share[0], scale(gradients),
            share[1], scale(model.sharded_bytes(job.parameters, ranks)),
            scale(model.plain_logits_bytes(job.batch, ranks, job.embed)),
            scale(model.tiled_logits_bytes(job.batch, ranks, job.embed)),
            scale(ranks * job.batch / job.step_s * job.stored_bytes) + "/s",
        ])  # fmt: skip
    head = [
        *("GPUs", "batch", "contrast, gather", "contrast, ring", "of a step", "DDP gradients"),
        *("of a step", "FSDP", "loss memory, plain", "tiled", "cache read"),
    ]
    return table(head, rows)


def memory_table() -> str:
    rows = []
    for job in model.JOBS:
        one = model.activation_bytes(job.tokens, job.width, job.depth)
        few = model.checkpointed_bytes(job.tokens, job.width, job.depth)
        rows.append([
            job.name, scale(one), scale(one * job.batch), scale(few * job.batch),
            scale(one * 4), scale(model.state_bytes(job.parameters)),
            scale(model.state_bytes(job.parameters, 8)), scale(job.stored_bytes),
            scale(job.stored_bytes * 1e6), scale(job.batch / job.step_s * job.stored_bytes) + "/s",
        ])  # fmt: skip
    head = [
        *("job", "activations, a sample", "a batch", "checkpointed", "micro-batch 4, cached"),
        *("states, DDP", "states, FSDP on 8", "cache, a sample", "a million", "read, a GPU"),
    ]
    return table(head, rows)


def page(link: float) -> str:
    parts = [
        "# Scaling model",
        f"`python {' '.join(sys.argv)}`, commit {commit()}, {platform.machine()}, "
        f"{os.cpu_count()} cores, torch {torch.__version__}.",
        "## Predicted and measured on this machine",
        measured(),
        "## Memory of a device (predicted; bf16 activations)",
        memory_table(),
    ]
    for job in model.JOBS:
        parts += [
            f"## {job.name}",
            f"{job.batch} samples a GPU and step, step {job.step_s} s (assumed), "
            f"{link / 1e9:.3g} GB/s sent by each GPU (assumed). Predicted, bytes sent by a GPU.",
            exchange_table(job, link),
        ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--link", type=float, default=25e9, help="bytes a second that a GPU sends")
    parser.add_argument("--out", type=Path, help="write the page to this file as well")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.rank is not None:
        rank_main(asked.folder, asked.rank)
        return
    text = page(asked.link)
    print(text)
    if asked.out is not None:
        asked.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
