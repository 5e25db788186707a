"""Contrastive losses of matched pairs as pure functions of embeddings; no devices, no modules."""

from __future__ import annotations

import torch
from torch import Tensor

from medvlp.losses.tiled import cross_logsumexp, cross_softplus


def widened(embedding: Tensor) -> Tensor:
    """In float32 or better, in which all losses are computed."""
    return embedding.to(torch.promote_types(torch.float32, embedding.dtype))


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
    _check(image_BD, text_BD)
    with torch.autocast(image_BD.device.type, enabled=False):
        image, text = widened(image_BD), widened(text_BD)
        row_B, column_B = cross_logsumexp(image, text, scale)
        loss = (row_B + column_B).mean() / 2 - (scale * (image * text).sum(1)).mean()
    return loss.to(image.dtype)


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
    _check(image_BD, text_BD)
    with torch.autocast(image_BD.device.type, enabled=False):
        image, text = widened(image_BD), widened(text_BD)
        one_B = image.new_ones(len(image))
        pairs = cross_softplus(image, text, scale, bias, one_B, one_B)
        positives = (scale * (image * text).sum(1) + bias).double().sum()
        loss = (pairs - positives) / len(image)
    return loss.to(image.dtype)


def _check(image_BD: Tensor, text_BD: Tensor) -> None:
    if image_BD.shape != text_BD.shape or image_BD.ndim != 2 or not len(image_BD):
        raise ValueError(
            f"expected images and texts of one shape (B,D) with B > 0, got "
            f"{tuple(image_BD.shape)} and {tuple(text_BD.shape)}"
        )
