"""Image-text matching: which pairs are asked about, and which may be called wrong ones.

Each text is judged beside its own image (right), beside another image, and its image beside
another text (wrong); wrong partners are drawn by likeness, the likest most often
(arXiv:2107.07651, section 3.2; arXiv:2201.12086, section 3.2).

Shape letters: B images, M texts, E joint embedding, R rows, C candidates, K pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medvlp.data.batch import Batch
from medvlp.data.presence import UNTOLD
from medvlp.losses.contrastive import widened
from medvlp.losses.ties import text_groups


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Pairs to be judged."""

    image_K: Tensor
    text_K: Tensor
    right_K: Tensor
    """True where they belong together."""


def draw_pairs(
    image_BE: Tensor, text_ME: Tensor, owner_M: Tensor, barred_BM: Tensor, scale: Tensor | float
) -> Pairs:
    """The right pairs and up to two wrong ones a text; no gradient passes.

    A wrong partner is drawn with a probability proportional to ``exp(scale · cos)`` among the
    pairs that are not barred; where all are, there is none. Draws from torch's default generator.

    Args:
        image_BE: Image embeddings.
        text_ME: Text embeddings.
        owner_M: Row of `image_BE` to which each text belongs.
        barred_BM: True where a pair is no wrong one, the right pairs among them.
        scale: The inverse temperature.
    """
    with torch.no_grad():
        likeness_BM = scale * widened(image_BE) @ widened(text_ME).T
        image_M, has_image_M = _draw(likeness_BM.T, barred_BM.T)
        text_M, has_text_M = _draw(likeness_BM[owner_M], barred_BM[owner_M])
    own_M = torch.arange(len(owner_M), device=owner_M.device)
    image_K = torch.cat([owner_M, image_M[has_image_M], owner_M[has_text_M]])
    text_K = torch.cat([own_M, own_M[has_image_M], text_M[has_text_M]])
    right_K = torch.arange(len(image_K), device=owner_M.device) < len(owner_M)
    return Pairs(image_K=image_K, text_K=text_K, right_K=right_K)


def barred_pairs(batch: Batch) -> Tensor:
    """Which image may not be paired with which present text as a wrong pair (B,M).

    Barred are an image's own texts, those of its patient, those in the words of one of its own or
    that tell the same observations, and those of a sample with the same vector of labels: ARL
    (arXiv:2209.07118) takes partners of another label vector. A vector in which nothing is known
    says nothing of likeness, and bars nothing.

    Raises:
        ValueError: The batch has no patients.
    """
    if batch.patient_B is None:
        raise ValueError("wrong pairs are of two patients: the batch has no patient_B")
    present_BN = batch.text_mask_BNT.any(2)
    owner_M = present_BN.nonzero()[:, 0]
    alike_MM = _equal(text_groups(batch.text_BNT[present_BN], batch.text_mask_BNT[present_BN]))
    if batch.told_BNQ is not None:
        told_MQ = batch.told_BNQ[present_BN].long()
        alike_MM |= _equal(text_groups(told_MQ, told_MQ != UNTOLD))
    known_BL = ~batch.labels_BL.isnan()
    labels_B = text_groups(batch.labels_BL.nan_to_num().long(), known_BL)
    barred_BB = _equal(labels_B) | _equal(batch.patient_B + 1)
    barred_BM = barred_BB[:, owner_M]
    # What is alike to one of an image's texts is not wrong beside the image.
    alike_BM = torch.zeros_like(barred_BM, dtype=torch.float32)
    return barred_BM | (alike_BM.index_add(0, owner_M, alike_MM.float()) > 0) | _own(owner_M, batch)


def _own(owner_M: Tensor, batch: Batch) -> Tensor:
    return torch.arange(len(batch.sample), device=owner_M.device)[:, None] == owner_M


def _equal(group_R: Tensor) -> Tensor:
    """Pairs of one group; 0 is no group."""
    return (group_R[:, None] == group_R) & (group_R != 0)


def _draw(likeness_RC: Tensor, barred_RC: Tensor) -> tuple[Tensor, Tensor]:
    """A candidate for each row, and whether the row has any that is not barred."""
    if not likeness_RC.numel():
        none_R = torch.zeros(len(likeness_RC), dtype=torch.bool, device=likeness_RC.device)
        return none_R.long(), none_R
    # The greatest of log-weights with Gumbel noise is a draw by weight.
    uniform_RC = torch.rand(
        likeness_RC.shape, dtype=likeness_RC.dtype, device=likeness_RC.device
    ).clamp(min=torch.finfo(likeness_RC.dtype).tiny)
    noisy_RC = likeness_RC - (-uniform_RC.log()).log()
    return noisy_RC.masked_fill(barred_RC, -torch.inf).argmax(1), ~barred_RC.all(1)
