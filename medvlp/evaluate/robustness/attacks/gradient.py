"""Attacks on pictures with a budget: noise, FGSM, PGD, and one perturbation for all.

A picture u here is a model input brought to [0,1] by the input's own range, so that a budget of
k/255 means k grey levels of an 8-bit picture; `medvlp.evaluate.robustness.attacks.pictures`
makes them. All functions take a *rightness*: pictures (B,...) to how right the answers are (B,),
which an attack lowers, and return pictures in [0,1] within the budget of the clean ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Rightness = Callable[[Tensor], Tensor]


def noise(clean: Tensor, eps: float, rng: np.random.Generator) -> Tensor:
    """Every value up or down by the whole budget at random: as strong as an attack, but blind."""
    signs = torch.from_numpy(rng.integers(0, 2, tuple(clean.shape)) * 2.0 - 1).to(clean)
    return (clean + eps * signs).clamp(0, 1)


def fgsm(right: Rightness, clean: Tensor, eps: float) -> Tensor:
    """One step of the whole budget against the gradient's sign (arXiv:1412.6572)."""
    return (clean - eps * slope(right, clean).sign()).clamp(0, 1)


def pgd(right: Rightness, clean: Tensor, eps: float, steps: int = 20) -> Tensor:
    """Projected gradient descent (arXiv:1706.06083) from the FGSM point; the best is kept.

    Each step is 2.5·eps/steps long. Beginning at the FGSM point and keeping each picture's best
    iterate make it at least as strong as FGSM.
    """
    best = fgsm(right, clean, eps)
    with torch.no_grad():
        lowest_B = right(best)
    now = best
    for _ in range(steps):
        moved = now - 2.5 * eps / steps * slope(right, now).sign()
        now = within(moved, clean, eps)
        with torch.no_grad():
            right_B = right(now)
        better_B = right_B < lowest_B
        lowest_B = torch.where(better_B, right_B, lowest_B)
        best = torch.where(better_B.view(-1, *[1] * (clean.ndim - 1)), now, best)
    return best


def universal(batches: Sequence[tuple[Rightness, Tensor]], eps: float, passes: int = 10) -> Tensor:
    """One perturbation for all pictures: signed steps down the mean rightness of the subset.

    Args:
        batches: Rightness and clean pictures (B,...) of the subset that it is learnt on.
        eps: The budget.
        passes: Over the subset.
    """
    delta = torch.zeros_like(batches[0][1][:1])
    for _ in range(passes):
        for right, clean in batches:
            down = slope(right, (clean + delta).clamp(0, 1)).sum(0, keepdim=True).sign()
            delta = (delta - eps / 4 * down).clamp(-eps, eps)
    return delta


def slope(right: Rightness, pictures: Tensor) -> Tensor:
    """The gradient of each picture's rightness."""
    with torch.enable_grad():
        leaf = pictures.detach().clone().requires_grad_()
        (found,) = torch.autograd.grad(right(leaf).sum(), leaf)
    return found


def within(moved: Tensor, clean: Tensor, eps: float) -> Tensor:
    """The nearest pictures in [0,1] and in the budget."""
    return torch.minimum(torch.maximum(moved, clean - eps), clean + eps).clamp(0, 1)


def to_8bit(attacked: Tensor, clean: Tensor, eps: float) -> Tensor:
    """Attacked pictures as 8 bits store them, rounded inwards where rounding leaves the budget.

    The budget holds to a ten-thousandth of a grey level, which is what float32 leaves open. From
    eps = 1/255 on there is always a level within it.
    """
    slack = 1e-4
    exact = clean.double()
    lowest = ((exact - eps) * 255 - slack).ceil().clamp(min=0)
    highest = ((exact + eps) * 255 + slack).floor().clamp(max=255)
    level = (attacked.double() * 255).round()
    return (torch.minimum(torch.maximum(level, lowest), highest) / 255).to(clean.dtype)
