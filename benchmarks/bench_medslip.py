"""MeDSLIP's prototypes and relations: ours against the loop that the published code is.

    python benchmarks/bench_medslip.py [--repeats 3] [--full]

Both compute the same two losses and their gradients from the same tensors: B images, A anatomies,
Q observations, book vectors of width D, queries of width d, K negatives. The loop is written from
the paper's definition in the way the published code computes it: the books are repeated for every
image and relation, masked and averaged, and negatives are drawn for one query of one image at a
time. Each runs in a process of its own, whose peak memory is told. Prints Markdown.
"""

import argparse
import multiprocessing
import resource
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from medvlp.losses.medslip.terms import draw_negatives, products, prototype_total, relation_total

A, Q, D, WIDTH, K = 51, 75, 768, 256, 7
PRESENT, DENIED = 6, 12
"""Relations of an image that a report affirms and denies, about as many as real reports do."""


def inputs(batch: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    told = torch.full((batch, A * Q), -2, dtype=torch.int8)
    place = torch.rand(batch, A * Q).argsort(1)
    told.scatter_(1, place[:, :PRESENT], 1)
    told.scatter_(1, place[:, PRESENT : PRESENT + DENIED], 0)
    tensors = {
        "anatomy": torch.randn(batch, A, WIDTH) / 16,
        "observation": torch.randn(batch, Q, WIDTH) / 16,
        "weight": torch.randn(D, WIDTH) / 16, "bias": torch.zeros(D),
    }  # fmt: skip
    leaves = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
    books = {"book_A": torch.randn(A, D) / 16, "book_Q": torch.randn(Q, D) / 16}
    return leaves | books | {"told": told.view(batch, A, Q)}


def ours(t: dict[str, Tensor]) -> Tensor:
    told, loss = t["told"], torch.zeros(())
    for found, book, relations in (
        (t["observation"], t["book_A"], told.mT),
        (t["anatomy"], t["book_Q"], told),
    ):
        drawn = draw_negatives(relations, K, unmentioned=True)
        terms = (relations == 1).any(2).sum()
        loss = loss + prototype_total(found, t["weight"], t["bias"], book, relations, drawn) / terms
    known = ((told == 0) | (told == 1)).sum()
    return loss + relation_total(products(t["anatomy"], t["observation"]), told) / known


def literal(t: dict[str, Tensor]) -> Tensor:
    told, loss = t["told"], torch.zeros(())
    for found, book, relations in (
        (t["observation"], t["book_A"], told.mT),
        (t["anatomy"], t["book_Q"], told),
    ):
        batch, queries, names = relations.shape
        z = (found @ t["weight"].T + t["bias"]).flatten(0, 1)
        every = book.expand(batch, queries, names, D).clone()
        present = relations == 1
        every[~present] = 0.0
        mean = every.sum(2) / present.sum(2).clamp(min=1)[..., None]
        rows = []
        for b in range(batch):
            for m in range(queries):
                others = torch.nonzero(~present[b, m]).flatten()
                drawn = others[torch.randperm(len(others))[:K]]
                rows.append(torch.cat([mean[b, m][None], book[drawn]]))
        choices = torch.stack(rows)
        logits = torch.bmm(choices, z[:, :, None])[..., 0]
        kept = present.any(2).flatten()
        first = torch.zeros(int(kept.sum()), dtype=torch.long)
        loss = loss + F.cross_entropy(logits[kept], first)
    logits = torch.bmm(t["anatomy"], t["observation"].transpose(1, 2)).flatten()
    flat = told.flatten()
    known = (flat == 0) | (flat == 1)
    return loss + F.binary_cross_entropy_with_logits(logits[known], flat[known].float())


def measure(which: str, batch: int, repeats: int, answer: multiprocessing.Queue) -> None:
    """Processor seconds of each repeat after a first; growth of peak memory in MiB; the loss."""
    torch.set_num_threads(1)
    tensors = inputs(batch)
    call = {"ours": ours, "literal": literal}[which]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times, value = [], 0.0
    for _ in range(repeats + 1):
        torch.manual_seed(1)
        start = time.process_time()
        loss = call(tensors)
        loss.backward()
        times.append(time.process_time() - start)
        value = loss.item()
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    answer.put((times[1:], peak, value))


def apart(which: str, batch: int, repeats: int) -> tuple[list[float], float, float]:
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=measure, args=(which, batch, repeats, answer))
    process.start()
    found: tuple[list[float], float, float] = answer.get()
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="also batches of 16 and 128")
    args = parser.parse_args()
    print("| B | ours, ms | loop, s | times as fast | ours, MiB | loop, MiB | losses |")
    print("|---|---|---|---|---|---|---|")
    for batch in (16, 64, 128) if args.full else (64,):
        mine, mine_mib, value = apart("ours", batch, 10 * args.repeats)
        loop, loop_mib, other = apart("literal", batch, args.repeats)
        best, middle = min(mine), statistics.median(mine)
        worst = sorted(mine)[int(0.9 * (len(mine) - 1))]
        ratios = [statistics.median(loop) / m for m in (worst, middle, best)]
        print(
            f"| {batch} | {1000 * middle:.1f} ({1000 * best:.1f}–{1000 * worst:.1f}) "
            f"| {statistics.median(loop):.2f} ({min(loop):.2f}–{max(loop):.2f}) "
            f"| {ratios[1]:.0f} ({ratios[0]:.0f}–{ratios[2]:.0f}) "
            f"| {mine_mib:.0f} | {loop_mib:.0f} | {value:.3f}, {other:.3f} |"
        )


if __name__ == "__main__":
    main()
