"""What `tiled` computes, for CUDA tensors, by Triton kernels.

Forward writes no logits: partial log-sums of blocks of rows, added in a fixed order. Backward
writes one tile of the logits' gradient after another, which the vendor's library multiplies with
rows and columns while most of it is in the second-level cache: three products a pair, where
kernels that sum the gradients themselves, of rows and then of columns, need four.

This module needs triton, which the CUDA builds of torch bring; only `tiled` imports it, on demand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from medvlp.losses import kernels

if TYPE_CHECKING:
    from medvlp.losses.tiled import Exclusion

TILE = 4096
"""Rows and columns of a tile of gradients (64 MiB), and rows whose partial sums are held."""

_SPLITS = 16
"""Parts of the columns that are summed side by side, to give every multiprocessor work."""

_BLOCK_R, _BLOCK_C = 128, 64
"""Logits of one program; 128 columns would spill registers, seen in compiled code."""


def logsumexp(
    image_RE: Tensor,
    text_CE: Tensor,
    scale: Tensor,
    excluded: Exclusion | None = None,
    *,
    tile: int = TILE,
) -> tuple[Tensor, Tensor]:
    """As `tiled.cross_logsumexp`; rows and columns may be float32, bfloat16 or float16.

    Sums are float32 within a block and float64 across blocks.
    """
    sums: tuple[Tensor, Tensor] = _LogSumExp.apply(  # type: ignore[no-untyped-call]
        image_RE.contiguous(), text_CE.contiguous(), scale.float(), excluded, tile
    )
    return sums


def softplus(
    image_RE: Tensor,
    text_CE: Tensor,
    scale: Tensor,
    bias: Tensor,
    row_weight_R: Tensor,
    column_weight_C: Tensor,
    excluded: Exclusion | None = None,
    *,
    tile: int = TILE,
) -> Tensor:
    """As `tiled.cross_softplus`; rows and columns may be float32, bfloat16 or float16."""
    weights = row_weight_R.float().contiguous(), column_weight_C.float().contiguous()
    total: Tensor = _Softplus.apply(  # type: ignore[no-untyped-call]
        image_RE.contiguous(),
        text_CE.contiguous(),
        scale.float(),
        bias.float(),
        weights,
        excluded,
        tile,
    )
    return total


class _Pairs:
    """What every kernel is told of rows, columns and left-out pairs."""

    def __init__(
        self,
        image_RE: Tensor,
        text_CE: Tensor,
        scale: Tensor,
        bias: Tensor,
        excluded: Exclusion | None,
    ) -> None:
        self.image, self.text, self.scale, self.bias = image_RE, text_CE, scale, bias
        # Triton launches on the current device.
        device = image_RE.device
        self.device = torch.cuda.device(device.index if device.type == "cuda" else -1)
        self.ids: tuple[Tensor, ...] = ()
        if excluded is not None:
            keys = excluded.drop, excluded.keep
            self.ids = tuple(
                ids.contiguous() for key in keys for ids in (key.row_RK, key.column_CK)
            )
        precise = torch.backends.cuda.matmul.fp32_precision != "tf32"
        self.options = {
            "EXCLUDE": excluded is not None,
            # Three products of rounded parts: float32's accuracy from tensor cores.
            "PRECISION": "tf32x3" if precise else "tf32",
            "BLOCK_R": _BLOCK_R,
            "BLOCK_C": _BLOCK_C,
            "BLOCK_E": 32 if image_RE.element_size() == 4 else 64,
            # Said outright, since Triton's default is about to change.
            "enable_fp_fusion": True,
            "num_warps": 8,
            "num_stages": 3,
        }

    def of(self, rows: slice, columns: slice) -> tuple[Tensor | int, ...]:
        """The arguments that all kernels begin with, for a tile."""
        image, text = self.image[rows], self.text[columns]
        # Without ids, any pointer will do for what is never read.
        ids: tuple[Tensor, ...] = (image, text, image, text)
        places = 0, 0
        if self.ids:
            parts = (rows, columns, rows, columns)
            ids = tuple(ids[part] for ids, part in zip(self.ids, parts, strict=True))
            places = ids[0].shape[1], ids[2].shape[1]
        sizes = len(image), len(text), image.shape[1]
        return image, text, self.scale, self.bias, *ids, *sizes, *places


class _Gradient:
    """The gradients of rows, columns and scale, summed from tiles of the logits' gradient."""

    def __init__(self, pairs: _Pairs, tile: int) -> None:
        self.pairs, self.tile = pairs, tile
        self.image, self.text = pairs.image.float(), pairs.text.float()
        self.image_grad = torch.zeros_like(self.image)
        self.text_grad = torch.zeros_like(self.text)
        size = min(tile, len(self.image)) * min(tile, len(self.text))
        self.buffer = self.image.new_empty(size)

    def tile_of(self, rows: slice, columns: slice) -> Tensor:
        height, width = rows.stop - rows.start, columns.stop - columns.start
        return self.buffer[: height * width].view(height, width)

    def add(self, rows: slice, columns: slice) -> None:
        grad = self.tile_of(rows, columns)
        self.image_grad[rows].addmm_(grad, self.text[columns])
        self.text_grad[columns].addmm_(grad.T, self.image[rows])

    def finish(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of rows, columns and scale."""
        scale = torch.zeros((), dtype=torch.float64, device=self.image.device)
        for rows in _slices(len(self.image), self.tile):
            scale += (self.image_grad[rows] * self.image[rows]).sum()
        image_grad, text_grad = (
            grad.mul_(self.pairs.scale).to(self.pairs.image.dtype)
            for grad in (self.image_grad, self.text_grad)
        )
        return image_grad, text_grad, scale.float()


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
        pairs = _Pairs(image_RE, text_CE, scale, torch.zeros_like(scale), excluded)
        count = len(text_CE)
        row_R = scale.new_full((len(image_RE),), -torch.inf, dtype=torch.float64)
        column_C = scale.new_full((count,), -torch.inf, dtype=torch.float64)
        blocks = triton.cdiv(count, _BLOCK_C)
        split = max(triton.cdiv(blocks, _SPLITS), 1) * _BLOCK_C
        grid_C = triton.cdiv(count, split)
        for rows in _slices(len(image_RE) if count else 0, tile):
            height = rows.stop - rows.start
            grid = (triton.cdiv(height, _BLOCK_R), grid_C)
            row_parts = scale.new_empty(grid[1], height)
            column_parts = scale.new_empty(grid[0], count)
            with pairs.device:
                kernels.log_sums[grid](
                    *pairs.of(rows, slice(0, count)),
                    row_parts,
                    column_parts,
                    split,
                    **pairs.options,
                )
            row_R[rows] = row_parts.double().logsumexp(0)
            column_C = torch.logaddexp(column_C, column_parts.double().logsumexp(0))
        ctx.excluded, ctx.tile = excluded, tile
        ctx.save_for_backward(image_RE, text_CE, scale, row_R, column_C)
        return row_R, column_C

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_R: Tensor, grad_C: Tensor) -> tuple[Tensor | None, ...]:
        image_RE, text_CE, scale, row_R, column_C = ctx.saved_tensors
        pairs = _Pairs(image_RE, text_CE, scale, torch.zeros_like(scale), ctx.excluded)
        gradient = _Gradient(pairs, ctx.tile)
        # A row without a pair has no gradient; -inf less -inf would be no number.
        row_R, column_C = (torch.where(v.isinf(), 0.0, v).float() for v in (row_R, column_C))
        grad_R, grad_C = grad_R.float().contiguous(), grad_C.float().contiguous()
        for rows, columns in _tiles(pairs, ctx.tile):
            out = gradient.tile_of(rows, columns)
            by_tile = (row_R[rows], column_C[columns], grad_R[rows], grad_C[columns], out)
            with pairs.device:
                kernels.softmax_gradient[_grid(out)](
                    *pairs.of(rows, columns), *by_tile, **pairs.options
                )
            gradient.add(rows, columns)
        return *gradient.finish(), None, None


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
        pairs = _Pairs(image_RE, text_CE, scale, bias, excluded)
        wanted = any(ctx.needs_input_grad)
        gradient = _Gradient(pairs, tile)
        total = torch.zeros((), dtype=torch.float64, device=image_RE.device)
        bias_grad = torch.zeros_like(total)
        for rows, columns in _tiles(pairs, tile):
            out = gradient.tile_of(rows, columns)
            parts, grad_parts = scale.new_zeros(2, *_grid(out))
            by_tile = (weights[0][rows], weights[1][columns], parts, grad_parts, out)
            with pairs.device:
                kernels.softplus_sums[_grid(out)](
                    *pairs.of(rows, columns), *by_tile, GRADIENT=wanted, **pairs.options
                )
            total += parts.double().sum()
            bias_grad += grad_parts.double().sum()
            if wanted:
                gradient.add(rows, columns)
        if wanted:
            ctx.save_for_backward(*gradient.finish(), bias_grad.float())
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *(saved * grad.to(saved.dtype) for saved in ctx.saved_tensors), None, None, None


def _slices(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _tiles(pairs: _Pairs, size: int) -> Iterator[tuple[slice, slice]]:
    for rows in _slices(len(pairs.image), size):
        for columns in _slices(len(pairs.text), size):
            yield rows, columns


def _grid(tile: Tensor) -> tuple[int, int]:
    height, width = tile.shape
    return triton.cdiv(height, _BLOCK_R), triton.cdiv(width, _BLOCK_C)
