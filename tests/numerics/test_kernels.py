"""The Triton kernels against written-out float64, on a CUDA device or through the interpreter."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from medvlp.losses.contrastive import clip_loss, siglip_loss
from medvlp.losses.tiled import Exclusion, Keys

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="triton is not installed: it comes with CUDA builds of torch",
)

ROWS, COLUMNS, WIDTH, TILE = 150, 277, 43, 140
"""Odd sizes: two tiles a side, blocks of 128 cut short."""


def unit(rows, seed, device, dtype):
    generator = torch.Generator().manual_seed(seed)
    rows_RE = F.normalize(torch.randn(rows, WIDTH, generator=generator), dim=1)
    return rows_RE.to(device, dtype).requires_grad_()


def random_exclusion(device):
    """Also leaves out all pairs of row 3 and of column 5, by an id of everybody's."""
    generator = torch.Generator().manual_seed(5)

    def draw(count, width, values):
        return torch.randint(values, (count, width), generator=generator) + 2**40

    drop_R, drop_C = draw(ROWS, 3, 9), draw(COLUMNS, 3, 9)
    keep_R, keep_C = draw(ROWS, 2, 5), draw(COLUMNS, 2, 5)
    drop_R = torch.cat([drop_R, torch.full((ROWS, 1), 1), torch.full((ROWS, 1), -1)], 1)
    drop_C = torch.cat([drop_C, torch.full((COLUMNS, 1), -2), torch.full((COLUMNS, 1), 2)], 1)
    drop_R[3, 3], drop_C[5, 4] = -2, -1
    keep_R[3], keep_C[5] = -3, -4
    drop, keep = (
        Keys(row.to(device), column.to(device))
        for row, column in ((drop_R, drop_C), (keep_R, keep_C))
    )
    mask = (drop.row_RK[:, None] == drop.column_CK).any(2)
    mask &= ~(keep.row_RK[:, None] == keep.column_CK).any(2)
    assert mask[3].all()
    assert mask[:, 5].all()
    assert 0.1 < mask.double().mean() < 0.5
    return Exclusion(drop, keep), mask


def inputs(device, dtype, *scalars):
    scalars = [torch.tensor(value, device=device, requires_grad=True) for value in scalars]
    return unit(ROWS, 0, device, dtype), unit(COLUMNS, 1, device, dtype), *scalars


def compare(ours, theirs, leaves, tolerance):
    """Values, and the gradients of a weighted sum of them, relative to the largest."""
    pick = [
        torch.where(value.isinf(), 0.0, torch.linspace(-1, 2, value.numel(), device=value.device))
        for value in theirs
    ]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b.reshape(a.shape), rtol=tolerance, atol=tolerance)
    grads = []
    for values in (ours, theirs):
        total = sum(
            (torch.where(v.isinf(), 0.0, v) * p).sum() for v, p in zip(values, pick, strict=True)
        )
        grads.append(torch.autograd.grad(total, leaves))
    for a, b in zip(*grads, strict=True):
        assert a.dtype == b.dtype
        rounding = torch.finfo(a.dtype).eps
        close = 5 * tolerance + rounding
        torch.testing.assert_close(a, b, rtol=close, atol=close * float(b.abs().max()))


def check_logsumexp(device, size, dtype, masked, tolerance):
    from medvlp.losses import fused

    image, text, scale = leaves = inputs(device, dtype, size)
    excluded, mask = random_exclusion(device) if masked else (None, None)
    logits = scale.double() * (image.double() @ text.double().T)
    if mask is not None:
        logits = logits.masked_fill(mask, -torch.inf)
    exact = []
    for dim in (1, 0):
        # A line of -inf has no gradient; autograd would make it no number.
        empty = logits.isinf().all(dim)
        filled = logits.masked_fill(empty.unsqueeze(dim), 0.0).logsumexp(dim)
        exact.append(filled.masked_fill(empty, -torch.inf))
    assert bool(exact[0][3].isinf()) == masked
    ours = fused.logsumexp(image, text, scale, excluded, tile=TILE)
    compare(ours, exact, leaves, tolerance)


def check_softplus(device, size, dtype, masked, tolerance):
    from medvlp.losses import fused

    image, text, scale, bias = leaves = inputs(device, dtype, size, -12.0)
    excluded, mask = random_exclusion(device) if masked else (None, None)
    row_R = torch.linspace(0, 2, ROWS, device=device)
    column_C = torch.linspace(1, 3, COLUMNS, device=device)
    logits = scale.double() * (image.double() @ text.double().T) + bias.double()
    terms = F.softplus(logits, threshold=500)
    if mask is not None:
        terms = terms.masked_fill(mask, 0.0)
    exact = (row_R[:, None].double() * column_C * terms).sum()
    ours = fused.softplus(image, text, scale, bias, row_R, column_C, excluded, tile=TILE)
    compare([ours], [exact.reshape(1)], leaves, tolerance)


def check_tile_and_repetition(device):
    from medvlp.losses import fused

    image, text, scale = leaves = inputs(device, torch.float32, 60.0)
    excluded, _ = random_exclusion(device)
    results = []
    for tile in (TILE, TILE, 4096):
        row, column = fused.logsumexp(image, text, scale, excluded, tile=tile)
        total = row[4:].sum() + column[6:].sum()
        results.append([row, column, *torch.autograd.grad(total, leaves)])
    for a, b, c in zip(*results, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, rtol=1e-4, atol=1e-4)


def check_nothing(device):
    from medvlp.losses import fused

    scale = torch.tensor(3.0, device=device)
    some, none = torch.ones(3, 4, device=device), torch.ones(0, 4, device=device)
    row, column = fused.logsumexp(some, none, scale)
    assert row.isneginf().all()
    assert len(row) == 3
    assert len(column) == 0
    row, column = fused.logsumexp(none, some, scale)
    assert len(row) == 0
    assert column.isneginf().all()


def check_all(device):
    from medvlp.losses import fused

    with pytest.MonkeyPatch.context() as patch:
        # Few parts, so that each has several blocks and runs its maximum on.
        patch.setattr(fused, "_SPLITS", 2)
        check_values(device)


def check_values(device):
    for size, masked in ((5.0, True), (300.0, False), (1e4, True)):
        check_logsumexp(device, size, torch.float32, masked, 3e-6 * max(1.0, size / 30))
        check_softplus(device, size, torch.float32, masked, 3e-6 * max(1.0, size / 30))
    # Triton's interpreter multiplies the bits of bfloat16 as if they were integers.
    for dtype in (torch.float16,) if device == "cpu" else (torch.float16, torch.bfloat16):
        # Products of halves are exact in float32; only the results are rounded.
        check_logsumexp(device, 30.0, dtype, True, 1e-5)
        check_softplus(device, 30.0, dtype, True, 1e-5)
    check_tile_and_repetition(device)
    check_nothing(device)


@needs_triton
def test_kernels_interpreted_equal_float64():
    # Triton chooses between compiler and interpreter at import, so this needs a fresh process.
    done = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["checked"]


@needs_triton
@pytest.mark.parametrize("name", ["log_sums", "softmax_gradient", "softplus_sums"])
def test_kernels_compile_without_a_device(name, tmp_path, monkeypatch):
    # The interpreter accepts Python that the compiler refuses.
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from medvlp.losses import fused, kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    rows = torch.ones(1, 1)
    options = fused._Pairs(rows, rows, rows, rows, None).options
    fixed = {k: v for k, v in options.items() if k.isupper()} | {"EXCLUDE": True, "GRADIENT": True}
    kernel = getattr(kernels, name)
    numbers = {"row_count", "column_count", "width", "drop_places", "keep_places", "split"}
    ids = {"drop_rows", "drop_columns", "keep_rows", "keep_columns"}
    signature = {
        argument: "constexpr"
        if argument in fixed
        else "i32"
        if argument in numbers
        else "*i64"
        if argument in ids
        else "*fp32"
        for argument in kernel.arg_names
    }
    constants = {k: v for k, v in fixed.items() if k in signature}
    compiled = triton.compile(
        ASTSource(kernel, signature, constants),
        target=GPUTarget("cuda", 80, 32),
        options={k: v for k, v in options.items() if k.islower()},
    )
    assert "mma.sync" in compiled.asm["ptx"]
    assert compiled.metadata.shared <= 99 * 1024


@needs_triton
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_kernels_on_a_device_equal_float64():
    check_all("cuda")


@needs_triton
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("loss", [clip_loss, siglip_loss])
def test_losses_on_a_device_equal_the_cpu(loss):
    image, text = (unit(ROWS, seed, "cpu", torch.float32) for seed in (0, 1))
    more = (20.0,) if loss is clip_loss else (20.0, -5.0)
    here = loss(image, text, *more)
    there = loss(image.cuda(), text.cuda(), *more)
    torch.testing.assert_close(there.cpu(), here, rtol=1e-5, atol=1e-5)
    for a, b in zip(*(torch.autograd.grad(v, [image, text]) for v in (there, here)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


if __name__ == "__main__":
    check_all("cpu")
    sys.stdout.write("checked\n")
