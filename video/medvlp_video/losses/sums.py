"""Sums inside a logarithm over groups of pairs."""

from __future__ import annotations

import torch
from torch import Tensor

NOTHING = -1e30
"""Stands for the logarithm of an empty sum: unlike -inf, it has a gradient, of zero."""


def group_logsumexp(value_P: Tensor, group_P: Tensor, groups: int) -> Tensor:
    """``log Σ exp`` of each group's values (G,); about `NOTHING` for groups without any.

    Args:
        value_P: Float64.
        group_P: The group of each, from 0.
        groups: G.
    """
    value_P = value_P.clamp(min=NOTHING)
    most_G = value_P.new_full((groups,), NOTHING)
    most_G = most_G.scatter_reduce(0, group_P, value_P.detach(), "amax")
    sum_G = torch.zeros_like(most_G).index_add(0, group_P, (value_P - most_G[group_P]).exp())
    return sum_G.clamp(min=torch.finfo(sum_G.dtype).tiny).log() + most_G


def log_add(one: Tensor, other: Tensor) -> Tensor:
    """``log(exp(one) + exp(other))`` where either may be -inf."""
    return torch.logaddexp(one.clamp(min=NOTHING), other.clamp(min=NOTHING))
