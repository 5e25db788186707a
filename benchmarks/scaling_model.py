"""The scaling model of docs/scaling.md: bytes and seconds from sizes, nothing measured.

Ring collectives (all-gather, all-reduce) move (R-1)/R of the whole, twice for a reduction; a link
counts what one device sends. Activations follow Korthikanti et al. 2022 (arXiv:2205.05198).
"""

from dataclasses import dataclass

FP32 = 4
INT64 = FP64 = 8


@dataclass(frozen=True, kw_only=True)
class Job:
    """One way to train, per device."""

    name: str
    parameters: float
    batch: int
    """Samples of one device and step."""

    step_s: float
    """An assumption: forward and backward on one device."""

    tokens: int
    width: int
    depth: int
    stored_bytes: float
    """A sample's bytes in the cache."""

    embed: int = 512


def gathered_bytes(batch: int, embed: int, ranks: int) -> dict[str, float]:
    """What one device sends for the contrast of all with all (`medvlp/losses/gather.py`).

    Forward: its texts, each with its owner and weight, and for every text the log-sums of its
    stripe of pairs, whose highest and sum are taken over devices. Backward: the gradients of both,
    summed over devices. Images stay where they are.
    """
    texts = batch * embed * FP32
    share = ranks - 1
    return {
        "forward": (texts + batch * (INT64 + FP32)) * share + 2 * 2 * batch * FP64 * share,
        "backward": 2 * (texts + batch * FP64) * share,
    }


def payload_bytes(batch: int, embed: int, ranks: int) -> dict[str, int]:
    """The tensors that one device hands to its collectives for it, whatever their algorithm.

    Forward: its texts, each with its owner and weight, and four counts of rows; the loss's two
    counts, and every text's log-sum twice. Backward: the gradients of all texts and log-sums.
    """
    texts, log_sums = batch * embed * FP32, batch * ranks * FP64
    return {
        "all_gather": texts + batch * (INT64 + FP32) + 4 * INT64,
        "all_reduce": 2 * FP32 + 2 * log_sums + texts * ranks + log_sums,
    }


def ring_bytes(batch: int, embed: int, ranks: int) -> float:
    """The alternative: texts, and on the way back their gradients, travel once around."""
    return 2 * batch * embed * FP32 * (ranks - 1)


def gradient_bytes(parameters: float, ranks: int) -> float:
    """What one device sends to average its gradients (DDP, fp32)."""
    return 2 * parameters * FP32 * (ranks - 1) / ranks


def sharded_bytes(parameters: float, ranks: int) -> float:
    """FSDP: weights gathered forward and backward, gradients scattered: half as much again."""
    return 3 * parameters * FP32 * (ranks - 1) / ranks


def activation_bytes(tokens: int, width: int, depth: int, element: int = 2) -> float:
    """Saved by the blocks of a transformer for one sample, attention fused (no token² term).

    34·N·C·L bytes at two bytes an element with two dropout masks of a byte; without dropout the
    sixteen values a token: input and output of both norms (4), queries, keys, values (3), the
    attention's output (1), the hidden layer before and after its activation (8).
    """
    return 16 * element * tokens * width * depth


def checkpointed_bytes(tokens: int, width: int, depth: int, element: int = 2) -> float:
    """With checkpointed blocks: each block's input, and one block while it is computed again."""
    kept = element * tokens * width * depth
    return kept + activation_bytes(tokens, width, 1, element)


def state_bytes(parameters: float, ranks: int = 1) -> float:
    """Weights, gradients and two moments in fp32; sharded over `ranks`."""
    return 4 * FP32 * parameters / ranks


def plain_logits_bytes(batch: int, ranks: int, embed: int) -> float:
    """One device's two blocks of b x N logits, each with its softmax and its gradient, and the
    gathered rows of both kinds with their gradients."""
    return 2 * 3 * batch * batch * ranks * FP32 + _rows_bytes(batch * ranks, embed)


def tiled_logits_bytes(batch: int, ranks: int, embed: int, tile: int = 2048) -> float:
    """A tile in place of the blocks, the sums of rows and columns with their gradients, this
    device's images and all texts with theirs."""
    rows = batch + batch * ranks
    return tile * tile * FP32 + 2 * rows * FP64 + 2 * rows * embed * FP32


def _rows_bytes(rows: int, embed: int) -> float:
    return 4 * rows * embed * FP32


JOBS = (
    Job(name="X-ray, ViT-B/16 at 224 + BERT-base", parameters=196e6, batch=128, step_s=0.50,
        tokens=197, width=768, depth=12, stored_bytes=224 * 224),
    Job(name="CT, ViT-B, 16x16x8 patches of 224x224x112 + BERT-base", parameters=196e6, batch=8,
        step_s=0.60, tokens=2744, width=768, depth=12, stored_bytes=224 * 224 * 112 * 2 / 2.8),
    Job(name="Video, ViT-B/16, 16 frames at 224 + BERT-base", parameters=196e6, batch=16,
        step_s=0.90, tokens=16 * 197, width=768, depth=12, stored_bytes=16 * 224 * 224 * 3),
)  # fmt: skip
