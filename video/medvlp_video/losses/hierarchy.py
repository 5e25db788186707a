"""A span's own text, and what is said within it: HecVL's contrast of levels."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from medvlp.config import STRICT
from medvlp.data.batch import Batch
from medvlp.encoding import Encodings, Sizes
from medvlp.losses.gather import contrast_clip
from medvlp.losses.objective import Objective, chosen_texts
from medvlp.losses.objectives import NegativesConfig, negative_ties
from medvlp.losses.ties import Ties


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HierarchyConfig(NegativesConfig):
    """A video v, its own text s and the mean c of the texts within it (HecVL, arXiv:2405.10075).

    ``[InfoNCE(v,s) + NTXent(v,s) + InfoNCE(v,c) + InfoNCE(s,c)] / 4``, as the code of HecVL and of
    PeskaVLP's middle level computes it. The texts within are those of `data.texts.along`; here
    each counts the same in their mean, whatever its embedding's length.
    """

    kind: Literal["hierarchy"] = "hierarchy"
    weight: float = 1.0
    to_texts: Annotated[float, Field(ge=0, le=1)] = 0.75
    """α of NTXent, ``α·CE(v→s) + (1-α)·CE(s→v)``."""

    def build(self, sizes: Sizes) -> Objective:
        """The objective; `sizes` plays no part."""
        return HierarchyObjective(self)


class HierarchyObjective(Objective):
    """The mean of the four terms over all ranks; pairs of which one side is absent have none."""

    scope: ClassVar[Literal["batch", "sample"]] = "batch"
    reads: ClassVar[frozenset[str]] = frozenset(
        {"image_BE", "text_BNE", "scale", "text_mask_BNT", "patient_B", "recording_B"}
    )

    def __init__(self, config: HierarchyConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, encodings: Encodings, batch: Batch) -> Tensor:
        """The loss over all ranks."""
        image_BE, scale = encodings.image_BE, encodings.scale
        ties = negative_ties(self.config, batch)
        own_B = chosen_texts(batch, "first").any(1)
        within_BN = chosen_texts(batch, "rest")
        own_BE, mean_BE = encodings.text_BNE[:, 0], mean_text(encodings.text_BNE, within_BN)
        have_B = within_BN.any(1)
        # InfoNCE is NTXent with an α of one half: together, twice that with the mean of both.
        to_texts = (0.5 + self.config.to_texts) / 2
        owner_M = own_B.nonzero()[:, 0]
        both = contrast_clip(image_BE, own_BE[own_B], owner_M, scale, ties, to_texts=to_texts)
        owner_M = have_B.nonzero()[:, 0]
        video = contrast_clip(image_BE, mean_BE[have_B], owner_M, scale, ties)
        # A sample without a text of its own is no negative of others' texts within.
        owner_M = have_B[own_B].nonzero()[:, 0]
        mean_ME = mean_BE[own_B & have_B]
        text = contrast_clip(own_BE[own_B], mean_ME, owner_M, scale, _rows(ties, own_B))
        return (2 * both + video + text) / 4


def mean_text(text_BNE: Tensor, wanted_BN: Tensor) -> Tensor:
    """The normalised mean of each sample's wanted texts (B,E); zero where there is none.

    Args:
        text_BNE: Normalised.
        wanted_BN: Which count.
    """
    with torch.autocast(text_BNE.device.type, enabled=False):
        wanted_BNE = text_BNE.masked_fill(~wanted_BN[..., None], 0.0)
        return F.normalize(wanted_BNE.sum(1), dim=1)


def _rows(ties: Ties, kept_B: Tensor) -> Ties:
    patient_B, recording_B = (
        None if ids is None else ids[kept_B] for ids in (ties.patient_B, ties.recording_B)
    )
    return Ties(patient_B=patient_B, recording_B=recording_B)
