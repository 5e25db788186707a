"""Image-text-label contrast: pairs whose samples share findings are positives, too (UniCL)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor

from medvlp.config import STRICT
from medvlp.data.batch import Batch
from medvlp.encoding import Encodings, Sizes
from medvlp.errors import ConfigError
from medvlp.losses.contrastive import widened
from medvlp.losses.gather import (
    gather_rows,
    global_logsumexp,
    global_sum,
    rows_before,
    world,
)
from medvlp.losses.label_targets import Uncertain, known_labels
from medvlp.losses.objective import Objective, present_texts
from medvlp.losses.tiled import cross_logsumexp


@dataclass(frozen=True, kw_only=True, config=STRICT)
class UniclConfig:
    """Contrast with label-overlap targets (UniCL, arXiv:2204.03610).

    The paper's samples have one class each, and those of one class are each other's positives.
    Here a sample has a set of findings, and the targets follow the cosine of the sets, which for
    sets of one is the paper's.
    """

    kind: Literal["unicl"] = "unicl"
    weight: float = 1.0
    uncertain: Uncertain = "ignore"

    def build(self, sizes: Sizes) -> Objective:
        """The objective.

        Raises:
            ConfigError: The data brings no label.
        """
        if not sizes.labels:
            raise ConfigError(
                "objective unicl: the data has no labels", remedy="name some in data.labels"
            )
        return UniclObjective(self)


class UniclObjective(Objective):
    """`contrast_overlap` of a batch."""

    scope: ClassVar[Literal["batch", "sample"]] = "batch"
    reads: ClassVar[frozenset[str]] = frozenset(
        {"image_BE", "text_BNE", "scale", "text_BNT", "text_mask_BNT", "labels_BL"}
    )

    def __init__(self, config: UniclConfig) -> None:
        super().__init__()
        self.uncertain: Uncertain = config.uncertain

    def forward(self, encodings: Encodings, batch: Batch) -> Tensor:
        """The loss over all ranks."""
        text_ME, owner_M = present_texts(encodings, batch)
        set_BG = finding_sets(batch.labels_BL, self.uncertain)
        return contrast_overlap(encodings.image_BE, text_ME, owner_M, set_BG, encodings.scale)


def finding_sets(labels_BL: Tensor, uncertain: Uncertain) -> Tensor:
    """Each sample's present findings as a unit vector (B,G); zero where nothing is known to be.

    Samples of which every label is known and absent share one more finding: that there is none.

    Args:
        labels_BL: 1 present, 0 absent, -1 uncertain, NaN unknown.
        uncertain: What an uncertain label counts as.
    """
    known_BL, target_BL = known_labels(labels_BL, uncertain)
    none_B1 = known_BL.all(1, keepdim=True) & (target_BL == 0).all(1, keepdim=True)
    return F.normalize(torch.cat([target_BL, none_B1.to(target_BL.dtype)], 1), dim=1)


def contrast_overlap(
    image_BE: Tensor, text_ME: Tensor, owner_M: Tensor, set_BG: Tensor, scale: Tensor | float
) -> Tensor:
    """Symmetric cross-entropy over all ranks with targets spread by overlap of findings.

    An image's target for a text is the cosine of both samples' sets of findings, and 1 for a text
    of its own, over the sum for all texts; a text's for images likewise. Half the mean over images
    that have a target, plus half that over texts. With no set it is the contrast of pairs.

    Targets are products of two factors, as logits are: what an image shares with all texts needs
    no matrix of pairs.

    Args:
        image_BE: This rank's images, normalised.
        text_ME: This rank's texts, normalised, absent ones left out.
        owner_M: The image to which each text belongs.
        set_BG: Each image's findings as a unit vector or zero; no gradient.
        scale: The inverse temperature.
    """
    with torch.autocast(image_BE.device.type, enabled=False):
        image_BE, text_ME = widened(image_BE), widened(text_ME)
        set_BG = set_BG.detach().to(image_BE.dtype)
        text_NE, set_NG = gather_rows(text_ME), gather_rows(set_BG[owner_M])
        if not len(text_NE):
            return image_BE.sum() * 0.0 + text_ME.sum() * 0.0
        # A sample without findings is its own text's positive, and nothing else's.
        lone_B = (set_BG == 0).all(1).to(set_BG.dtype)
        mass_B = set_BG @ set_NG.sum(0) + lone_B * owner_M.bincount(minlength=len(image_BE))
        mass_M = (set_BG @ global_sum(set_BG.sum(0)) + lone_B)[owner_M]
        counted_B = (mass_B > 0).to(mass_B.dtype)
        images, texts = global_sum(torch.stack([counted_B.sum(), mass_M.new_tensor(len(mass_M))]))
        share_B = counted_B / mass_B.where(mass_B > 0, 1.0) / images.clamp(min=1)
        share_M = 1 / mass_M / texts.clamp(min=1)
        row_B, part_N = cross_logsumexp(image_BE, text_NE, scale)
        start = rows_before(text_ME)
        column_M = global_logsumexp(part_N)[start : start + len(text_ME)]
        negative = (counted_B * row_B).sum() / images.clamp(min=1) + column_M.sum() / texts
        shared_GE = set_NG.T @ text_NE
        spread_GE = (set_NG * gather_rows(share_M)[:, None]).T @ text_NE
        target_BE = share_B[:, None] * (set_BG @ shared_GE) + set_BG @ spread_GE
        own_M = lone_B[owner_M] * (share_B[owner_M] + share_M)
        positive = (target_BE * image_BE).sum() + (
            own_M * (image_BE[owner_M] * text_ME).sum(1)
        ).sum()
        loss: Tensor = world()[1] * (negative - (scale * positive).double()) / 2
        return loss.to(image_BE.dtype)
