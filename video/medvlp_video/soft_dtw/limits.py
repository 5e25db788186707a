"""What both kinds of kernels take for infinity and for nothing."""

from __future__ import annotations

import torch


def limits(dtype: torch.dtype, gamma: float) -> tuple[float, float, float, float, float]:
    """Gamma, its inverse, infinity, an exponent, and a tiny number.

    Infinity is a number that may be added to itself. Down from the exponent an exponential counts
    as 0, being less than the least normal number; up to the tiny number a share of the gradient
    does, since numbers below the normal ones are slow.
    """
    big = torch.finfo(dtype).max / 4
    floor, tiny = (-88.0, 1e-30) if dtype == torch.float32 else (-709.0, 1e-290)
    return gamma, min(1 / gamma, big), big, floor, tiny
