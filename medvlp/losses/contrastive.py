"""Contrastive losses as pure functions of embeddings; no devices, no modules."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def similarity(
    image_BD: Tensor, text_MD: Tensor, scale: Tensor | float, bias: Tensor | float = 0.0
) -> Tensor:
    """``scale · x·y + bias`` of every pair (B,M), in float32 or better, whatever autocast says.

    Raises:
        ValueError: Not two matrices of one width.
    """
    if image_BD.ndim != 2 or text_MD.ndim != 2 or image_BD.shape[1] != text_MD.shape[1]:
        raise ValueError(
            f"expected (B,D) and (M,D) of one width, got {tuple(image_BD.shape)} "
            f"and {tuple(text_MD.shape)}"
        )
    dtype = torch.promote_types(torch.float32, image_BD.dtype)
    with torch.autocast(image_BD.device.type, enabled=False):
        return scale * (image_BD.to(dtype) @ text_MD.to(dtype).T) + bias


def positive_nce(logits_RC: Tensor, row_R: Tensor, column_C: Tensor) -> Tensor:
    """InfoNCE of each row, with one or several positive columns.

    A row's loss is the mean over its positives of ``-log softmax`` over all columns: the sum
    outside the logarithm (arXiv:2004.11362, equation 2).

    Args:
        logits_RC: Logits of every row and column.
        row_R: Whose sample a row is.
        column_C: Whose sample a column is; it is a row's positive where the two agree.

    Returns:
        (R,); 0 for a row without a positive.
    """
    positive_RC = row_R[:, None] == column_C[None, :]
    total_R = torch.where(positive_RC, -F.log_softmax(logits_RC, dim=1), 0.0).sum(1)
    return total_R / positive_RC.sum(1).clamp(min=1)


def sigmoid_terms(logits_RC: Tensor, row_R: Tensor, column_C: Tensor) -> Tensor:
    """``-log σ(z·logit)`` of every pair (R,C); z is 1 where row and column agree, else -1."""
    sign_RC = torch.where(row_R[:, None] == column_C[None, :], 1.0, -1.0)
    return -F.logsigmoid(sign_RC * logits_RC)


def clip_loss(image_BD: Tensor, text_BD: Tensor, scale: Tensor | float) -> Tensor:
    """Symmetric InfoNCE of matched pairs (arXiv:2103.00020, figure 3).

    ``-1/(2B) Σ_i [log softmax_j(s·x_i·y_j)_i + log softmax_j(s·x_j·y_i)_i]``

    Args:
        image_BD: Image embeddings, normalised by the caller.
        text_BD: The text of each image, normalised by the caller.
        scale: s, the inverse temperature.

    Returns:
        A scalar, in float32 or better.

    Raises:
        ValueError: The shapes are not one and the same (B,D).

    >>> round(clip_loss(torch.eye(2), torch.eye(2), 1.0).item(), 4)
    0.3133
    """
    logits_BB, own_B = _paired(image_BD, text_BD, scale, 0.0)
    rows_B = positive_nce(logits_BB, own_B, own_B)
    columns_B = positive_nce(logits_BB.T, own_B, own_B)
    return (rows_B.mean() + columns_B.mean()) / 2


def siglip_loss(
    image_BD: Tensor, text_BD: Tensor, scale: Tensor | float, bias: Tensor | float
) -> Tensor:
    """Pairwise sigmoid loss (arXiv:2303.15343, equation 1).

    ``-1/B Σ_i Σ_j log σ(z_ij (t·x_i·y_j + b))`` with z_ij = 1 on the diagonal, else -1.

    Args:
        image_BD: Image embeddings, normalised by the caller.
        text_BD: The text of each image, normalised by the caller.
        scale: t, the inverse temperature.
        bias: b.

    Returns:
        A scalar, in float32 or better.

    Raises:
        ValueError: The shapes are not one and the same (B,D).
    """
    logits_BB, own_B = _paired(image_BD, text_BD, scale, bias)
    return sigmoid_terms(logits_BB, own_B, own_B).sum() / len(own_B)


def _paired(
    image_BD: Tensor, text_BD: Tensor, scale: Tensor | float, bias: Tensor | float
) -> tuple[Tensor, Tensor]:
    if image_BD.shape != text_BD.shape or image_BD.ndim != 2 or not len(image_BD):
        raise ValueError(
            f"expected images and texts of one shape (B,D) with B > 0, got "
            f"{tuple(image_BD.shape)} and {tuple(text_BD.shape)}"
        )
    own_B = torch.arange(len(image_BD), device=image_BD.device)
    return similarity(image_BD, text_BD, scale, bias), own_B
