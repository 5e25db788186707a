"""How tokens become one vector, and what a tower sees of a text that is not there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AttentionPool(nn.Module):
    """Multi-head attention whose one query is the mean token, as in COLIPRI (arXiv:2510.15042).

    Pooled is ``out(concat_n Σ_p a_np · value_n(x_p))`` with the weights a of head n; the tokens
    that it gives are ``out(value(x_p))``, a token as the pooler takes it. Both maps are affine and
    weights sum to 1: under even attention the mean of the tokens is the pooled vector.

    Args:
        width: E.
        heads: N, a divisor of it.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x_BPE: Tensor, seen_BP: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The pooled vector (B,E) and the tokens in its space (B,P,E).

        Args:
            x_BPE: Tokens.
            seen_BP: True for those that count, at least one each; None where all do.
        """
        value_BPE = self.value(x_BPE)
        mean_B1E = masked_mean(x_BPE, seen_BP)[:, None]
        query, key, value = (
            split_heads(part, self.heads)
            for part in (self.query(mean_B1E), self.key(x_BPE), value_BPE)
        )
        mask = None if seen_BP is None else seen_BP[:, None, None]
        found_BN1C = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(found_BN1C.flatten(1)), self.out(value_BPE)


def split_heads(x_BPE: Tensor, heads: int) -> Tensor:
    """(B,N,P,E/N): each head's share of the channels."""
    return x_BPE.reshape(*x_BPE.shape[:2], heads, -1).transpose(1, 2)


def masked_mean(x_BPE: Tensor, seen_BP: Tensor | None) -> Tensor:
    """(B,E): the mean over the tokens that the mask shows; None shows all."""
    if seen_BP is None:
        return x_BPE.mean(1)
    weight_BP1 = seen_BP.unsqueeze(2).to(x_BPE.dtype)
    return (x_BPE * weight_BP1).sum(1) / weight_BP1.sum(1)


def never_blank(mask_MT: Tensor) -> Tensor:
    """The mask, but that an absent text shows its first token: attention over nothing is NaN."""
    seen_MT = mask_MT.clone()
    seen_MT[:, 0] |= ~mask_MT.any(1)
    return seen_MT


def last_token(tokens_MTD: Tensor, seen_MT: Tensor) -> Tensor:
    """(M,D): each text's vector at the last place that the mask shows."""
    place_T = torch.arange(seen_MT.shape[1], device=seen_MT.device)
    last_M = (seen_MT * place_T).amax(1)
    return tokens_MTD[torch.arange(len(last_M), device=last_M.device), last_M]
