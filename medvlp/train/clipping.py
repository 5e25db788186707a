"""The norm of all gradients, and clipping to it, where some tensors are shared out among ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def total_norm(grads: Sequence[Tensor]) -> Tensor:
    """The norm of all gradients together; of sharded ones all ranks' parts count."""
    parts = [nn.utils.get_total_norm(group) for group in _alike(grads)]
    whole = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in parts]
    return torch.stack(whole).norm() if whole else torch.zeros(())


def clip(weights: Sequence[Tensor], limit: float, norm: Tensor) -> None:
    """Scale the gradients down so that their `total_norm`, now `norm`, is at most `limit`."""
    for group in _alike([weight for weight in weights if weight.grad is not None]):
        nn.utils.clip_grads_with_norm_(group, limit, norm)


def _alike(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    # PyTorch's own functions take either sharded tensors or whole ones.
    sharded: list[Tensor] = [tensor for tensor in tensors if isinstance(tensor, DTensor)]
    whole = [tensor for tensor in tensors if not isinstance(tensor, DTensor)]
    return [group for group in (sharded, whole) if group]
