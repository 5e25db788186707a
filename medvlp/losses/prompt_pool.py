"""Prompt pools that stand in for the modality that a tower does not see (arXiv:2302.08958)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.data.batch import Batch
from medvlp.encoding import Encodings, Sizes
from medvlp.losses.contrastive import widened
from medvlp.losses.gather import contrast_clip
from medvlp.losses.objective import Objective, present_texts

Count = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PromptPoolConfig:
    """Contrast of images and texts, each completed from a pool of prompts (PTUnifier).

    From the paper: two pools, of which a sample takes the entries with the largest dot products
    with what it does have, and a contrast of what comes out. Ours: entries lie in the joint space
    and their mean is added to the embedding, where the paper puts them before a fusion
    transformer; and the pools learn, which in the released code they do not.
    """

    kind: Literal["prompt-pool"] = "prompt-pool"
    weight: float = 1.0
    visual: Count = 2048
    """Entries that stand for images, with texts."""

    language: Count = 2048
    """Entries that stand for texts, with images."""

    visual_chosen: Count = 49
    """Entries that a text takes."""

    language_chosen: Count = 32
    """Entries that an image takes."""

    def __post_init__(self) -> None:
        for pool in ("visual", "language"):
            if getattr(self, f"{pool}_chosen") > getattr(self, pool):
                raise ValueError(f"{pool}_chosen exceeds the pool's {getattr(self, pool)} entries")

    def build(self, sizes: Sizes) -> Objective:
        """The objective with its pools."""
        return PromptPoolObjective(self, sizes.embed)


class PromptPoolObjective(Objective):
    """`contrast_clip` of completed images and completed texts."""

    scope: ClassVar[Literal["batch", "sample"]] = "batch"
    reads: ClassVar[frozenset[str]] = frozenset({"image_BE", "text_BNE", "scale", "text_mask_BNT"})

    def __init__(self, config: PromptPoolConfig, width: int) -> None:
        super().__init__()
        self.config = config
        # Entries about as long as embeddings, so that neither drowns the other.
        self.visual_KE = nn.Parameter(torch.randn(config.visual, width) / width**0.5)
        self.language_KE = nn.Parameter(torch.randn(config.language, width) / width**0.5)

    def forward(self, encodings: Encodings, batch: Batch) -> Tensor:
        """The loss over all ranks."""
        text_ME, owner_M = present_texts(encodings, batch)
        image_BE = completed(encodings.image_BE, self.language_KE, self.config.language_chosen)
        text_ME = completed(text_ME, self.visual_KE, self.config.visual_chosen)
        return contrast_clip(image_BE, text_ME, owner_M, encodings.scale)


def stand_in(query_ME: Tensor, pool_KE: Tensor, chosen: int) -> Tensor:
    """The mean of the pool's entries with the largest dot products with each query, (M,E).

    Which entries they are has no gradient; the entries themselves have.

    Args:
        query_ME: What is there of a sample.
        pool_KE: Entries for what is not.
        chosen: How many entries are taken.
    """
    with torch.no_grad():
        chosen_MC = (query_ME @ pool_KE.T).topk(chosen, 1).indices
    return F.embedding_bag(chosen_MC, pool_KE, mode="mean")


def completed(query_ME: Tensor, pool_KE: Tensor, chosen: int) -> Tensor:
    """The query plus its `stand_in`, normalised (M,E), in float32 or better."""
    with torch.autocast(query_ME.device.type, enabled=False):
        query_ME = widened(query_ME)
        pool_KE = pool_KE.to(query_ME.dtype)
        return F.normalize(query_ME + stand_in(query_ME, pool_KE, chosen), dim=1)
