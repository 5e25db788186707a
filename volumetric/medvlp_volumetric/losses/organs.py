"""Organ by organ: what is seen of an organ against what the reports say of it (arXiv:2501.14548).

Shape letters: B samples of this rank, N of all ranks, R organs (regions of the batch), P tokens, K
of them in view, D the tower's width, E joint embedding.
"""

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
from medvlp.errors import ConfigError
from medvlp.losses.contrastive import widened
from medvlp.losses.gather import contrast_clip, gather_rows, rank_rows
from medvlp.losses.objective import Objective
from medvlp.losses.ties import Ties, text_groups
from medvlp.models.pooling import split_heads

Count = Annotated[int, Field(gt=0)]

_NORMAL = 0
"""The group of samples that are normal at an organ; a text's own is 0 once in 2^63 times."""

_UNCOUNTED = -1


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OrgansConfig:
    """Contrast of organs and their texts, each organ by itself (fVLM, arXiv:2501.14548).

    A query of each organ looks at the tokens of that organ alone. Samples in which the organ is
    not in view, as `data.regions` says, or of which nothing is told, do not count for it.
    """

    NEEDS_GRID: ClassVar[str] = "looks at an organ's places"
    READS_REGIONS: ClassVar[bool] = True

    kind: Literal["organs"] = "organs"
    weight: float = 1.0
    alike: Literal["normal", "words", "none"] = "normal"
    """Samples whose texts of an organ say the same, and that share it as a target: ``normal``,
    those with nothing abnormal there, and among the others those in the same words; ``words``, the
    latter among all; ``none``, each has its own text alone."""

    same_patient: Literal["negative", "leave-out"] = "negative"
    """An organ and a text of two samples of one patient: negatives, or left out of the sums."""

    over: Literal["mean", "sum"] = "mean"
    """Of the organs' contrasts. The sum, as published, grows with the organs that a batch shows."""

    least_cover: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """A token is an organ's if more than this share of its cell is."""

    heads: Count = 4
    """Of the attention; a divisor of the image tower's width."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Of the attention's weights."""

    def build(self, sizes: Sizes) -> Objective:
        """The objective with its queries.

        Raises:
            ConfigError: The data name no regions, or the heads do not share out the width.
        """
        if not sizes.regions:
            raise ConfigError(
                "objective organs: the data have no regions", remedy="name some in data.regions"
            )
        if sizes.image % self.heads:
            raise ConfigError(
                f"objective organs: heads={self.heads} is no divisor of the image tower's width "
                f"{sizes.image}",
                remedy="set the objective's heads to one",
            )
        return OrgansObjective(self, sizes)


class OrgansObjective(Objective):
    """`contrast_organs` of a batch."""

    scope: ClassVar[Literal["batch", "sample"]] = "batch"
    reads: ClassVar[frozenset[str]] = frozenset(
        {"image", "region_BRE", "scale", "cover_BRDHW", "region_text_BRT", "region_mask_BRT"}
        | {"normal_BR", "patient_B"}
    )

    def __init__(self, config: OrgansConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config = config
        self.pool = OrganPool(
            len(sizes.regions), sizes.image, sizes.embed, config.heads, config.dropout
        )

    def forward(self, encodings: Encodings, batch: Batch) -> Tensor:
        """The loss over all ranks."""
        assert encodings.region_BRE is not None
        where_BRP = self._where(encodings, batch)
        image_BRE = self.pool(encodings.image.tokens_BPD, where_BRP)
        group_BR = self._groups(batch).masked_fill(~where_BRP.any(2), _UNCOUNTED)
        leave_out = self.config.same_patient == "leave-out"
        return contrast_organs(
            image_BRE,
            encodings.region_BRE,
            group_BR,
            encodings.scale,
            patient_B=batch.patient_B if leave_out else None,
            over=self.config.over,
        )

    def _where(self, encodings: Encodings, batch: Batch) -> Tensor:
        """Which tokens belong to each organ in view (B,R,P)."""
        cover_BRDHW, grid = batch.cover_BRDHW, encodings.image.grid
        if cover_BRDHW is None:
            raise ValueError("objective organs: the batch has no regions")
        if tuple(cover_BRDHW.shape[2:]) != tuple(grid):
            raise ConfigError(
                f"objective organs: the image tower's tokens are {tuple(grid)}, the regions' cells "
                f"{tuple(cover_BRDHW.shape[2:])}",
                remedy="set data.regions.cell to the voxels of a token along D, H and W",
            )
        return cover_BRDHW.flatten(2) > self.config.least_cover

    def _groups(self, batch: Batch) -> Tensor:
        """An id for each sample's text of each organ (B,R), the same where they say the same."""
        ids_BRT, mask_BRT, normal_BR = (
            batch.region_text_BRT, batch.region_mask_BRT, batch.normal_BR,
        )  # fmt: skip
        assert ids_BRT is not None
        assert mask_BRT is not None
        assert normal_BR is not None
        if self.config.alike == "none":
            group_BR = 1 + rank_rows(normal_BR)[:, None].expand(normal_BR.shape)
        else:
            group_M = text_groups(ids_BRT.flatten(0, 1), mask_BRT.flatten(0, 1))
            group_BR = group_M.view(normal_BR.shape)
        if self.config.alike == "normal":
            group_BR = group_BR.masked_fill(normal_BR, _NORMAL)
        return group_BR.masked_fill(~mask_BRT.any(2), _UNCOUNTED)


class OrganPool(nn.Module):
    """Attention of each organ's query to that organ's tokens, and its way to the joint space.

    ``W_r · out(concat_n Σ_p a_np · value_n(x_p)) + b_r`` with the softmax weights a of head n over
    the organ's tokens. Queries start at 0: the mean of the tokens.

    Args:
        organs: R.
        width: D.
        embed: E.
        heads: A divisor of D.
        dropout: Of the attention's weights.
    """

    def __init__(self, organs: int, width: int, embed: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query_RD = nn.Parameter(torch.zeros(organs, width))
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        bound = width**-0.5
        self.weight_RDE = nn.Parameter(torch.empty(organs, width, embed).uniform_(-bound, bound))
        self.bias_RE = nn.Parameter(torch.zeros(organs, embed))

    def forward(self, token_BPD: Tensor, where_BRP: Tensor) -> Tensor:
        """What is seen of each organ (B,R,E), not normalised; of one without a token, anything.

        Args:
            token_BPD: The tower's tokens.
            where_BRP: Which of them are the organ's.
        """
        nowhere_BR1 = ~where_BRP.any(2, keepdim=True)
        query_NRC = split_heads(self.query(self.query_RD)[None], self.heads)
        found_BNRC = F.scaled_dot_product_attention(
            query_NRC.expand(len(token_BPD), -1, -1, -1),
            split_heads(self.key(token_BPD), self.heads),
            split_heads(self.value(token_BPD), self.heads),
            attn_mask=(where_BRP | nowhere_BR1)[:, None],
            dropout_p=self.dropout if self.training else 0.0,
        )
        found_BRD = self.out(found_BNRC.transpose(1, 2).flatten(2))
        return torch.einsum("brd,rde->bre", found_BRD, self.weight_RDE) + self.bias_RE


def contrast_organs(
    image_BRE: Tensor,
    text_BRE: Tensor,
    group_BR: Tensor,
    scale: Tensor | float,
    *,
    patient_B: Tensor | None = None,
    over: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Symmetric InfoNCE of each organ over all ranks' samples that count for it.

    ``-½ Σ_ij t_ij (log softmax_j(s·x_i·y_j) + log softmax_j(s·x_j·y_i)) / M`` of M samples, where
    the targets t_ij are even over the samples j of i's group and 0 elsewhere
    (`medvlp.losses.gather.contrast_clip`). An organ in which all samples are of one group tells
    nothing apart and has no part in the loss. One organ is computed after another, so that memory
    does not grow with pairs of samples.

    Args:
        image_BRE: What is seen of each organ; normalised here.
        text_BRE: What is said of it, normalised.
        group_BR: Samples of one group say the same of the organ; below 0 they do not count for it.
            The same numbers on every rank.
        scale: The inverse temperature s.
        patient_B: Pairs of two samples of one patient are left out, unless they say the same.
        over: Of the organs that have a part.
    """
    group_NR = gather_rows(group_BR)
    terms = []
    for r in range(group_BR.shape[1]):
        counted_K = group_NR[:, r][group_NR[:, r] >= 0]
        if len(torch.unique(counted_K)) < 2:
            continue
        row_M = (group_BR[:, r] >= 0).nonzero()[:, 0]
        ties = Ties(
            group_M=group_BR[row_M, r],
            share=True,
            patient_B=None if patient_B is None else patient_B[row_M],
        )
        seen_ME = F.normalize(widened(image_BRE[row_M, r]), dim=1)
        said_ME = text_BRE[row_M, r].to(seen_ME.dtype)
        owner_M = torch.arange(len(row_M), device=row_M.device)
        terms.append(contrast_clip(seen_ME, said_ME, owner_M, scale, ties))
    if not terms:
        # Still a function of both towers: data-parallel training waits for every weight's gradient.
        return image_BRE.sum() * 0.0 + text_BRE.sum() * 0.0
    total = torch.stack(terms)
    return total.mean() if over == "mean" else total.sum()
