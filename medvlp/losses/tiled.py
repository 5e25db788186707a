"""Sums over all pairs of images and texts, in tiles: memory grows with rows, not with pairs.

Both contrastive losses are a sum over all pairs, computed here, less a sum over the few positive
pairs, which needs no tiles. Backward recomputes the tiles' logits. Where the logits are sure not
to overflow, one exponential a pair serves its row and its column; otherwise the exact slower form.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE = 2048
"""Rows and columns of a tile; a tile of float32 takes 16 MiB and should stay in a CPU's cache."""

STRIP = 256
"""Rows of a tile that go through all operations on single elements before the next ones do, so
that they stay in the cache nearest to a core."""

_HEADROOM = {torch.float32: 60.0, torch.float64: 600.0}
"""Exponents up to which sums of exponentials are far from overflow."""
_SPREAD = {torch.float32: 20.0, torch.float64: 250.0}
"""Distance from the common shift at which what underflows is far below rounding."""


@dataclass(frozen=True)
class Keys:
    """A row and a column match where they agree in any of K places; K is the same for both."""

    row_RK: Tensor
    column_CK: Tensor

    def of_pairs(self, row_P: Tensor, column_P: Tensor) -> Tensor:
        """Which of some pairs match (P,)."""
        return (self.row_RK[row_P] == self.column_CK[column_P]).any(1)

    def match(self, rows: slice, columns: slice) -> Tensor | None:
        """Which pairs of a tile match (r,c); None where none does."""
        found = None
        for row_R, column_C in zip(
            self.row_RK[rows].unbind(1), self.column_CK[columns].unbind(1), strict=True
        ):
            if torch.isin(column_C, row_R).any():
                same = row_R[:, None] == column_C
                found = same if found is None else found | same
        return found


@dataclass(frozen=True)
class Exclusion:
    """Pairs left out of the sums: those that match in `drop` and not in `keep`."""

    drop: Keys
    keep: Keys

    def of_pairs(self, row_P: Tensor, column_P: Tensor) -> Tensor:
        """Which of some pairs are left out (P,)."""
        return self.drop.of_pairs(row_P, column_P) & ~self.keep.of_pairs(row_P, column_P)

    def mask(self, rows: slice, columns: slice) -> Tensor | None:
        """Which pairs of a tile are left out (r,c); None where none is."""
        dropped = self.drop.match(rows, columns)
        kept = None if dropped is None else self.keep.match(rows, columns)
        return dropped if dropped is None or kept is None else dropped & ~kept


def cross_logsumexp(
    image_RE: Tensor,
    text_CE: Tensor,
    scale: Tensor | float,
    excluded: Exclusion | None = None,
    *,
    tile: int = TILE,
) -> tuple[Tensor, Tensor]:
    """``log Σ exp(scale · x·y)`` over each row's and over each column's pairs.

    Args:
        image_RE: Rows, float32 or float64.
        text_CE: Columns, of the same type.
        scale: The inverse temperature.
        excluded: Pairs left out.
        tile: Rows and columns computed at a time; the result does not depend on it.

    Returns:
        (R,) and (C,), float64; -inf where every pair is left out.
    """
    scale = torch.as_tensor(scale, dtype=image_RE.dtype, device=image_RE.device)
    if _has_kernels(image_RE):
        from medvlp.losses import fused

        return fused.logsumexp(image_RE, text_CE, scale, excluded)
    sums: tuple[Tensor, Tensor] = _LogSumExp.apply(  # type: ignore[no-untyped-call]
        image_RE.contiguous(), text_CE.contiguous(), scale, excluded, tile
    )
    return sums


def cross_softplus(
    image_RE: Tensor,
    text_CE: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    row_weight_R: Tensor,
    column_weight_C: Tensor,
    excluded: Exclusion | None = None,
    *,
    tile: int = TILE,
) -> Tensor:
    """``Σ w_i u_j log(1 + exp(scale · x·y + bias))`` over all pairs, float64.

    A pair's gradient depends on no other pair, so the forward pass computes it at once.

    Args:
        image_RE: Rows, float32 or float64.
        text_CE: Columns, of the same type.
        scale: The inverse temperature.
        bias: Added to every logit.
        row_weight_R: w; no gradient.
        column_weight_C: u; no gradient.
        excluded: Pairs left out.
        tile: As in `cross_logsumexp`.
    """
    scale, bias = (
        torch.as_tensor(value, dtype=image_RE.dtype, device=image_RE.device)
        for value in (scale, bias)
    )
    if _has_kernels(image_RE):
        from medvlp.losses import fused

        weights = (row_weight_R, column_weight_C)
        return fused.softplus(image_RE, text_CE, scale, bias, *weights, excluded)
    weights = (row_weight_R.to(image_RE.dtype), column_weight_C.to(image_RE.dtype))
    total: Tensor = _Softplus.apply(  # type: ignore[no-untyped-call]
        image_RE.contiguous(), text_CE.contiguous(), scale, bias, weights, excluded, tile
    )
    return total


def _has_kernels(rows: Tensor) -> bool:
    """Whether the kernels of `fused` serve such rows; triton comes with CUDA builds of torch."""
    if not rows.is_cuda or torch.version.cuda is None or rows.dtype == torch.float64:
        return False
    # Older devices have neither the tensor cores for float32 nor the shared memory.
    recent = torch.cuda.get_device_capability(rows.device) >= (8, 0)
    return recent and importlib.util.find_spec("triton") is not None


class _Tiles:
    """Logits of one tile after another, in one buffer, and gradients summed from theirs."""

    def __init__(self, image_RE: Tensor, text_CE: Tensor, scale: Tensor, tile: int) -> None:
        self.image, self.text, self.scale, self.tile = image_RE, text_CE, scale, tile
        self.buffer = image_RE.new_empty(min(tile, len(image_RE)) * min(tile, len(text_CE)))

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor]]:
        for i in range(0, len(self.image), self.tile):
            rows = slice(i, min(i + self.tile, len(self.image)))
            self.scaled = self.image[rows] * self.scale
            for j in range(0, len(self.text), self.tile):
                columns = slice(j, min(j + self.tile, len(self.text)))
                logits = self.buffer_like(rows, columns, self.buffer)
                torch.mm(self.scaled, self.text[columns].T, out=logits)
                yield rows, columns, logits

    @staticmethod
    def buffer_like(rows: slice, columns: slice, buffer: Tensor) -> Tensor:
        height, width = rows.stop - rows.start, columns.stop - columns.start
        return buffer[: height * width].view(height, width)


class _Gradient:
    """The gradients of rows, columns and scale, from the gradients of tiles of logits."""

    def __init__(self, tiles: _Tiles) -> None:
        self.tiles = tiles
        self.image = torch.zeros_like(tiles.image)
        self.text = torch.zeros_like(tiles.text)

    def add(self, rows: slice, columns: slice, grad: Tensor) -> None:
        self.image[rows].addmm_(grad, self.tiles.text[columns])
        self.text[columns].addmm_(grad.T, self.tiles.scaled)

    def finish(self) -> Tensor:
        """Complete `image` and return the gradient of the scale."""
        scale = torch.zeros((), dtype=torch.float64, device=self.image.device)
        for i in range(0, len(self.image), self.tiles.tile):
            rows = slice(i, i + self.tiles.tile)
            scale += (self.image[rows] * self.tiles.image[rows]).sum()
            self.image[rows] *= self.tiles.scale
        return scale.to(self.image.dtype)


def _leave_out(
    logits: Tensor, excluded: Exclusion | None, rows: slice, columns: slice, value: float
) -> None:
    mask = None if excluded is None else excluded.mask(rows, columns)
    if mask is not None:
        logits.masked_fill_(mask, value)


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        image_RE: Tensor,
        text_CE: Tensor,
        scale: Tensor,
        excluded: Exclusion | None,
        tile: int,
    ) -> tuple[Tensor, Tensor]:
        tiles = _Tiles(image_RE, text_CE, scale, tile)
        sums = _shifted_sums(tiles, excluded)
        row_R, column_C = _running_sums(tiles, excluded) if sums is None else sums
        ctx.excluded, ctx.tile = excluded, tile
        ctx.save_for_backward(image_RE, text_CE, scale, row_R, column_C)
        return row_R, column_C

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_R: Tensor, grad_C: Tensor) -> tuple[Tensor | None, ...]:
        image_RE, text_CE, scale, row_R, column_C = ctx.saved_tensors
        tiles = _Tiles(image_RE, text_CE, scale, ctx.tile)
        gradient = _Gradient(tiles)
        # A row without a pair has no gradient; -inf less -inf would be no number.
        row_R, column_C = (torch.where(v.isinf(), 0.0, v) for v in (row_R, column_C))
        shift = _common_shift(torch.cat([row_R, column_C]), image_RE.dtype)
        if shift is None:
            softmax = _two_softmaxes(row_R, column_C, grad_R, grad_C, image_RE.dtype)
        else:
            softmax = _one_softmax(row_R, column_C, grad_R, grad_C, image_RE.dtype, shift)
        for rows, columns, logits in tiles:
            _leave_out(logits, ctx.excluded, rows, columns, -torch.inf)
            softmax(rows, columns, logits)
            gradient.add(rows, columns, logits)
        scale_grad = gradient.finish()
        return gradient.image, gradient.text, scale_grad, None, None


def _shifted_sums(tiles: _Tiles, excluded: Exclusion | None) -> tuple[Tensor, Tensor] | None:
    """Log-sums under one shift for all pairs; None where it would cost accuracy.

    By Cauchy-Schwarz no logit exceeds the product of scale and largest norms. A sum far above the
    smallest number has lost only terms far below rounding.
    """
    image, text = tiles.image, tiles.text
    if not len(image) or not len(text):
        return None
    headroom = _HEADROOM[image.dtype]
    bound = tiles.scale.abs() * image.norm(dim=1).amax() * text.norm(dim=1).amax()
    shift = max(0.0, float(bound) - headroom)
    row_R = torch.zeros(len(image), dtype=torch.float64, device=image.device)
    column_C = torch.zeros(len(text), dtype=torch.float64, device=image.device)
    for rows, columns, logits in tiles:
        _leave_out(logits, excluded, rows, columns, -torch.inf)
        for strip in torch.split(logits, STRIP):
            if shift:
                strip.sub_(shift)
            column_C[columns] += strip.exp_().sum(0)
        row_R[rows] += logits.sum(1)
    least = torch.minimum(row_R.amin(), column_C.amin()).log()
    if not bool(least > -2 * headroom / 3):
        return None
    return row_R.log_().add_(shift), column_C.log_().add_(shift)


def _running_sums(tiles: _Tiles, excluded: Exclusion | None) -> tuple[Tensor, Tensor]:
    """Log-sums for any logits, each tile under its own maxima."""
    device = tiles.image.device
    row_R = torch.full((len(tiles.image),), -torch.inf, dtype=torch.float64, device=device)
    column_C = torch.full((len(tiles.text),), -torch.inf, dtype=torch.float64, device=device)
    for rows, columns, logits in tiles:
        _leave_out(logits, excluded, rows, columns, -torch.inf)
        row_R[rows] = torch.logaddexp(row_R[rows], logits.logsumexp(1).double())
        column_C[columns] = torch.logaddexp(column_C[columns], logits.logsumexp(0).double())
    return row_R, column_C


def _common_shift(sums: Tensor, dtype: torch.dtype) -> float | None:
    """The middle of all log-sums, if none is far from it; 0 where none is needed."""
    if not len(sums):
        return None
    least, most = float(sums.min()), float(sums.max())
    if least >= -_SPREAD[dtype] and most <= _HEADROOM[dtype]:
        return 0.0
    return (least + most) / 2 if most - least <= 2 * _SPREAD[dtype] else None


def _one_softmax(
    row_R: Tensor,
    column_C: Tensor,
    grad_R: Tensor,
    grad_C: Tensor,
    dtype: torch.dtype,
    shift: float,
) -> Any:
    """Logits to ``exp(L - shift) · (g_i exp(shift - lse_i) + h_j exp(shift - lse_j))``."""
    left_R = (grad_R * (shift - row_R).exp()).to(dtype)
    right_C = (grad_C * (shift - column_C).exp()).to(dtype)

    def apply(rows: slice, columns: slice, logits: Tensor) -> None:
        strips = zip(torch.split(logits, STRIP), torch.split(left_R[rows], STRIP), strict=True)
        for strip, left in strips:
            if shift:
                strip.sub_(shift)
            strip.exp_().mul_(left[:, None] + right_C[columns])

    return apply


def _two_softmaxes(
    row_R: Tensor, column_C: Tensor, grad_R: Tensor, grad_C: Tensor, dtype: torch.dtype
) -> Any:
    """Logits to ``g_i exp(L - lse_i) + h_j exp(L - lse_j)``, safe for any logits."""
    row_R, column_C, grad_R, grad_C = (v.to(dtype) for v in (row_R, column_C, grad_R, grad_C))

    def apply(rows: slice, columns: slice, logits: Tensor) -> None:
        by_row = (logits - row_R[rows, None]).exp_().mul_(grad_R[rows, None])
        logits.sub_(column_C[columns]).exp_().mul_(grad_C[columns]).add_(by_row)

    return apply


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        image_RE: Tensor,
        text_CE: Tensor,
        scale: Tensor,
        bias: Tensor,
        weights: tuple[Tensor, Tensor],
        excluded: Exclusion | None,
        tile: int,
    ) -> Tensor:
        tiles = _Tiles(image_RE, text_CE, scale, tile)
        gradient = _Gradient(tiles) if any(ctx.needs_input_grad) else None
        total = torch.zeros((), dtype=torch.float64, device=image_RE.device)
        bias_grad = torch.zeros_like(total)
        weight_R, weight_C = weights
        for rows, columns, logits in tiles:
            logits += bias
            _leave_out(logits, excluded, rows, columns, -torch.inf)
            # Above the threshold torch returns the logit itself, exact to the last digit there.
            terms = F.softplus(logits, threshold=40.0)
            total += weight_R[rows] @ (terms @ weight_C[columns])
            if gradient is not None:
                logits.sigmoid_().mul_(weight_R[rows, None]).mul_(weight_C[columns])
                bias_grad += logits.sum()
                gradient.add(rows, columns, logits)
        if gradient is not None:
            scale_grad = gradient.finish()
            ctx.save_for_backward(
                gradient.image, gradient.text, scale_grad, bias_grad.to(scale_grad.dtype)
            )
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *(saved * grad.to(saved.dtype) for saved in ctx.saved_tensors), None, None, None
