"""Does the video show the steps in their order? PeskaVLP's procedural alignment, and beyond.

Shape letters: B samples, N samples of all ranks, T frames, K steps (the texts within a video, in
the order of time), J wrong orders, E joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from medvlp.config import STRICT
from medvlp.data.batch import Batch
from medvlp.encoding import Encodings, Sizes
from medvlp.losses.contrastive import widened
from medvlp.losses.gather import gather_rows
from medvlp.losses.objective import Objective, chosen_texts, share
from medvlp.losses.ties import text_groups
from medvlp_video.losses.orders import Wrong, wrong_orders
from medvlp_video.soft_dtw import SoftMin, frame_cost, soft_dtw

Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ProceduralConfig:
    """Soft-DTW of a video's frames with its steps, cheaper than with wrong ones (PeskaVLP).

    arXiv:2410.00263. The published code is: soft_min probability, scale 0.01, negatives
    [reverse], contrast hinge, margin 0. Ours beyond it: the other negatives, the other costs, a
    cost a cell, and the smooth hinge. Steps are the texts of `data.texts.along`; an image tower
    that tells frames apart (grid (F,...)) gives the frames.
    """

    kind: Literal["procedural"] = "procedural"
    weight: float = 1.0
    cost: Literal["frames", "steps", "cosine"] = "frames"
    """Of a frame that shows a step: ``-log softmax`` of the cosines over the video's frames, or
    over its steps; or one minus the cosine."""

    temperature: Positive = 0.1
    """What cosines are divided by in the cost; PeskaVLP's γ over frames."""

    gamma: Positive = 0.1
    """Temperature of the soft minimum over alignments."""

    soft_min: SoftMin = "logsumexp"
    scale: Positive | None = None
    """What an alignment's cost is multiplied by. If not given, one over the number of frames and
    steps, so that it is about the mean cost of the cells on its path."""

    negatives: tuple[Literal["reverse", "shuffle", "swap", "cross-video"], ...] = (
        "reverse",
        "shuffle",
        "swap",
        "cross-video",
    )
    """What must cost more: a video's own steps in reverse, in any other order, with neighbours
    exchanged; all other recordings' steps, over all ranks. One that reads as the steps themselves
    is none."""

    draws: Annotated[int, Field(ge=1)] = 1
    """Shuffles, and exchanges of neighbours, of each video in a step."""

    contrast: Literal["hinge", "smooth"] = "smooth"
    """With d the cost less that of a negative, plus the margin: the mean of ``max(d, 0)`` over a
    video's negatives, or ``log(1 + Σ exp d)``."""

    margin: Weight = 0.0
    alignment: Weight = 1.0
    """Weight of the cost itself."""

    order: Weight = 0.5
    """Weight of the contrast, a mean over the sorts of negatives."""

    def __post_init__(self) -> None:
        if len(set(self.negatives)) < len(self.negatives):
            raise ValueError("negatives: a sort is named twice")
        if not self.alignment and not (self.order and self.negatives):
            raise ValueError("neither alignment nor order has a weight, or there is no negative")

    def build(self, sizes: Sizes) -> Objective:
        """The objective; `sizes` plays no part."""
        return ProceduralObjective(self)


class ProceduralObjective(Objective):
    """The mean over all ranks' samples with a step; sorts of negatives that one lacks count 0."""

    scope: ClassVar[Literal["batch", "sample"]] = "batch"
    reads: ClassVar[frozenset[str]] = frozenset(
        {
            *("patch_BPE", "text_BNE", "text_BNT", "text_mask_BNT"),
            *("seed_B", "recording_B"),
        }
    )

    def __init__(self, config: ProceduralConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, encodings: Encodings, batch: Batch) -> Tensor:
        """The loss over all ranks.

        Raises:
            ValueError: The batch has no seeds or recordings.
        """
        if batch.seed_B is None or batch.recording_B is None:
            raise ValueError("procedural: the batch has no seed_B or recording_B")
        frame_BTE = frame_embeddings(encodings.patch_BPE, encodings.image.grid)
        steps = Steps.of(encodings.text_BNE, batch)
        if not steps.step_BKE.shape[1]:
            return frame_BTE.sum() * 0.0 + encodings.text_BNE.sum() * 0.0
        return procedural(self.config, frame_BTE, steps)


@plain_dataclass(frozen=True, kw_only=True)
class Steps:
    """The steps of some videos, each video's first in the first place."""

    step_BKE: Tensor
    """Normalised; zero where there are fewer than K."""

    length_B: Tensor
    """How many there are."""

    text_BK: Tensor
    """A number of each text, -1 where there is none: equal ones read alike."""

    recording_B: Tensor
    seed_B: Tensor

    @classmethod
    def of(cls, text_BNE: Tensor, batch: Batch) -> Steps:
        """Those of a batch: all texts but each sample's first."""
        assert batch.seed_B is not None
        assert batch.recording_B is not None
        there_BN = chosen_texts(batch, "rest")
        # Absent texts stand behind the others, and the first text is none of them.
        place_BK = (~there_BN).int().argsort(dim=1, stable=True)[:, : there_BN.shape[1] - 1]
        there_BK = there_BN.gather(1, place_BK)
        shape = batch.text_BNT.shape[:2]
        ids, mask = batch.text_BNT.flatten(0, 1), batch.text_mask_BNT.flatten(0, 1)
        text_BK = text_groups(ids, mask).view(shape).gather(1, place_BK)
        where_BKE = place_BK[..., None].expand(-1, -1, text_BNE.shape[2])
        return cls(
            step_BKE=widened(text_BNE).gather(1, where_BKE).masked_fill(~there_BK[..., None], 0.0),
            length_B=there_BK.sum(1),
            text_BK=text_BK.where(there_BK, -1),
            recording_B=batch.recording_B,
            seed_B=batch.seed_B,
        )

    def gathered(self) -> Steps:
        """Those of all ranks."""
        held = ("step_BKE", "length_B", "text_BK", "recording_B", "seed_B")
        return Steps(**{name: gather_rows(getattr(self, name)) for name in held})


def frame_embeddings(patch_BPE: Tensor, grid: Sequence[int]) -> Tensor:
    """Each frame's mean of its patches, normalised (B,T,E), in float32 or better.

    Args:
        patch_BPE: Projected patches, not normalised.
        grid: Theirs, frames first.
    """
    with torch.autocast(patch_BPE.device.type, enabled=False):
        samples, _, width = patch_BPE.shape
        patch_BTPE = widened(patch_BPE).reshape(samples, grid[0], -1, width)
        return F.normalize(patch_BTPE.mean(2), dim=2)


def procedural(config: ProceduralConfig, frame_BTE: Tensor, steps: Steps) -> Tensor:
    """The objective's value over all ranks.

    Args:
        config: How.
        frame_BTE: This rank's frames, normalised.
        steps: Its videos' steps; a video may have none.
    """
    with torch.autocast(frame_BTE.device.type, enabled=False):
        some_B = steps.length_B > 0
        row_R = some_B.nonzero()[:, 0]
        length_R = steps.length_B[row_R]
        cosine_BTK = frame_BTE @ steps.step_BKE.transpose(1, 2)
        cost_BTK = step_cost(config, cosine_BTK, steps.length_B)
        cost_RTK = cost_BTK[row_R]
        right_R = align(config, cost_RTK, length_R)
        loss_R = config.alignment * right_R
        kinds = config.negatives if config.order else ()
        for kind in kinds:
            if kind == "cross-video":
                negatives_R = _of_others(config, right_R, row_R, frame_BTE, steps)
            else:
                negatives_R = _of_orders(config, kind, right_R, row_R, cost_RTK, steps)
            loss_R = loss_R + config.order / len(kinds) * negatives_R
        # Still a function of both towers where no video here has a step.
        return share(some_B.sum()) * loss_R.sum() + 0.0 * cost_BTK.sum()


def step_cost(config: ProceduralConfig, cosine_XTK: Tensor, length_X: Tensor) -> Tensor:
    """The cost (X,T,K) of showing each step in each frame; beyond a sample's steps, any number."""
    if config.cost == "frames":
        return frame_cost(cosine_XTK, config.temperature)
    if config.cost == "cosine":
        return (1 - cosine_XTK) / config.temperature
    place_K = torch.arange(cosine_XTK.shape[2], device=length_X.device)
    absent_X1K = (place_K >= length_X[:, None])[:, None]
    # Not -inf, of which a sample without a step would make no number.
    scores_XTK = (cosine_XTK / config.temperature).masked_fill(absent_X1K, -1e9)
    return -scores_XTK.log_softmax(2)


def align(config: ProceduralConfig, cost_XTK: Tensor, length_X: Tensor) -> Tensor:
    """The cost of each video's alignment (X,), scaled."""
    if not len(cost_XTK):
        return cost_XTK.sum((1, 2))
    value_X = soft_dtw(cost_XTK, config.gamma, None, length_X, config.soft_min)
    if config.scale is not None:
        return config.scale * value_X
    return value_X / (cost_XTK.shape[1] + length_X)


def _of_orders(
    config: ProceduralConfig,
    kind: Wrong,
    right_R: Tensor,
    row_R: Tensor,
    cost_RTK: Tensor,
    steps: Steps,
) -> Tensor:
    """The contrast of each video with its own steps in wrong orders (R,)."""
    length_R, text_RK = steps.length_B[row_R], steps.text_BK[row_R]
    order_RJK = wrong_orders(kind, length_R, steps.seed_B[row_R], config.draws, text_RK.shape[1])
    rows, orders, _ = order_RJK.shape
    there_RJTK = order_RJK[:, :, None].expand(-1, -1, cost_RTK.shape[1], -1)
    wrong_RJTK = cost_RTK[:, None].expand(-1, orders, -1, -1).gather(3, there_RJTK)
    length_X = length_R.repeat_interleave(orders)
    wrong_RJ = align(config, wrong_RJTK.flatten(0, 1), length_X).view(rows, orders)
    texts_RJK = text_RK[:, None].expand(-1, orders, -1)
    differs_RJ = (texts_RJK.gather(2, order_RJK) != texts_RJK).any(2)
    return cheaper(config, right_R, wrong_RJ, differs_RJ)


def _of_others(
    config: ProceduralConfig, right_R: Tensor, row_R: Tensor, frame_BTE: Tensor, steps: Steps
) -> Tensor:
    """The contrast of each video with the steps of other recordings, on all ranks (R,)."""
    pool = steps.gathered()
    allowed_RN = steps.recording_B[row_R, None] != pool.recording_B
    allowed_RN &= pool.length_B > 0
    allowed_RN &= (steps.text_BK[row_R, None] != pool.text_BK).any(2)
    video_X, other_X = allowed_RN.nonzero().unbind(1)
    length_X = pool.length_B[other_X]
    # All products at once: taken pair by pair, frames would be there as often as other videos.
    cosine_RTNK = torch.einsum("rte,nke->rtnk", frame_BTE[row_R], pool.step_BKE)
    cost_XTK = step_cost(config, cosine_RTNK.transpose(1, 2)[video_X, other_X], length_X)
    wrong_X = align(config, cost_XTK, length_X)
    wrong_RN = right_R.new_zeros(allowed_RN.shape).index_put((video_X, other_X), wrong_X)
    # Ranks without a pair take part in the others' gradients.
    return cheaper(config, right_R, wrong_RN, allowed_RN) + 0.0 * pool.step_BKE.sum()


def cheaper(
    config: ProceduralConfig, right_R: Tensor, wrong_RJ: Tensor, counts_RJ: Tensor
) -> Tensor:
    """How far the right alignment is from being cheaper than wrong ones (R,); 0 where none counts.

    Args:
        config: Which contrast, and its margin.
        right_R: Costs.
        wrong_RJ: Costs of negatives.
        counts_RJ: Which count.
    """
    more_RJ = right_R[:, None] - wrong_RJ + config.margin
    if config.contrast == "hinge":
        total_R = (more_RJ.clamp(min=0) * counts_RJ).sum(1)
        return total_R / counts_RJ.sum(1).clamp(min=1)
    exponents_RJ = more_RJ.masked_fill(~counts_RJ, -torch.inf)
    return F.pad(exponents_RJ, (1, 0)).logsumexp(1)
