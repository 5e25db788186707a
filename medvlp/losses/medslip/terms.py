"""MeDSLIP's three sums as functions of tensors, and the draw of its negatives.

Notation: R (B,A,Q) relations with values of `medvlp.data.presence`; a stream has M queries and N
names on the other side: (M,N) is (Q,A) for observations and (A,Q) for anatomies. Only present and
absent are known; uncertain is neither.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medvlp.data.presence import ABSENT, PRESENT, UNTOLD
from medvlp.losses.told import known


def existence_total(logits_BM2: Tensor, told_BM: Tensor) -> Tensor:
    """Sum of the two-way cross-entropies where `told_BM` is known; column 1 is presence."""
    target_N = told_BM.clamp(min=0).long().flatten()
    loss_N = F.cross_entropy(logits_BM2.flatten(0, 1), target_N, reduction="none")
    return torch.where(known(told_BM).flatten(), loss_N, 0.0).sum()


def draw_negatives(
    relations_BMN: Tensor, count: int, *, unmentioned: bool
) -> tuple[Tensor, Tensor]:
    """Up to `count` different names of the other side that a query is not tied to.

    Draws from torch's default generator, which a training run seeds at every step.

    Args:
        relations_BMN: The relations.
        count: K.
        unmentioned: Whether a relation that is not told may be drawn like one that is denied.
            Present and uncertain ones never are.

    Returns:
        (B,M,K) indices into N, and where they are real: a query with fewer candidates has fewer.
    """
    candidate_BMN = relations_BMN == ABSENT
    if unmentioned:
        candidate_BMN |= relations_BMN == UNTOLD
    draw_BMN = torch.rand(relations_BMN.shape, device=relations_BMN.device)
    draw_BMN = draw_BMN.masked_fill(~candidate_BMN, -1.0)
    most = draw_BMN.topk(min(count, relations_BMN.shape[2]), dim=2)
    return most.indices, most.values >= 0


def prototype_terms(relations_BMN: Tensor, real_BMK: Tensor) -> Tensor:
    """(B,M): queries with something present to be drawn to, and something else to be told from."""
    return (relations_BMN == PRESENT).any(2) & real_BMK.any(2)


def prototype_total(
    found_BMd: Tensor,
    weight_Dd: Tensor,
    bias_D: Tensor,
    book_ND: Tensor,
    relations_BMN: Tensor,
    negatives: tuple[Tensor, Tensor],
) -> Tensor:
    """Sum over `prototype_terms` of ``-log softmax([t⁺·z, t⁻₁·z, ..., t⁻_K·z])₀``.

    z = W f + b; t⁺ is the mean of the other side's vectors that are present with the query. Scalar
    products being linear, t⁺·z is the mean of the products, and W moves to the book's side: all
    that is needed is one product ``f · (T W)ᵀ`` of the R queries that are terms, R·N numbers.

    Args:
        found_BMd: f.
        weight_Dd: W.
        bias_D: b.
        book_ND: T, the other side's vectors.
        relations_BMN: Which are present with which.
        negatives: Of `draw_negatives`.
    """
    index_BMK, real_BMK = negatives
    term_BM = prototype_terms(relations_BMN, real_BMK)
    present_RN = relations_BMN[term_BM] == PRESENT
    score_RN = found_BMd[term_BM] @ (book_ND @ weight_Dd).T + book_ND @ bias_D
    positive_R = (score_RN * present_RN).sum(1) / present_RN.sum(1)
    negative_RK = score_RN.gather(1, index_BMK[term_BM])
    negative_RK = negative_RK.masked_fill(~real_BMK[term_BM], -torch.inf)
    all_RK = torch.cat([positive_R[:, None], negative_RK], 1)
    return (all_RK.logsumexp(1) - positive_R).sum()


def products(anatomy_BAd: Tensor, observation_BQd: Tensor) -> Tensor:
    """(B,A,Q): scalar products of what the two streams found."""
    return torch.einsum("bad,bqd->baq", anatomy_BAd, observation_BQd)


def relation_total(logits_BAQ: Tensor, relations_BAQ: Tensor) -> Tensor:
    """Sum of the binary cross-entropies of the known relations."""
    target_BAQ = (relations_BAQ == PRESENT).to(logits_BAQ.dtype)
    loss_BAQ = F.binary_cross_entropy_with_logits(logits_BAQ, target_BAQ, reduction="none")
    return torch.where(known(relations_BAQ), loss_BAQ, 0.0).sum()
