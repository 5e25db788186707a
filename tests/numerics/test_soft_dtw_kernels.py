"""Soft-DTW's Triton kernels against the CPU's, and the CPU's in other processes."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from medvlp_video.soft_dtw import expected_alignment, soft_drop_dtw, soft_dtw

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="triton is not installed: it comes with CUDA builds of torch",
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def inputs(batch, frames, steps, dtype, drops):
    generator = torch.Generator().manual_seed(3)
    cost_BTK = torch.rand(batch, frames, steps, generator=generator, dtype=dtype)
    drop_BT = torch.rand(batch, frames, generator=generator, dtype=dtype) if drops else None
    lengths = [torch.randint(1, n + 1, (batch,), generator=generator) for n in (frames, steps)]
    lengths[0][0], lengths[1][0] = frames, steps
    weight_B = torch.randn(batch, generator=generator, dtype=dtype)
    return cost_BTK, drop_BT, lengths, weight_B


def swept(sweeps, device, given, probability):
    cost_BTK, drop_BT, lengths, weight_B = given
    cost_BTK, weight_B = cost_BTK.to(device), weight_B.to(device)
    drop_BT = None if drop_BT is None else drop_BT.to(device)
    settings = drop_BT, *(x.to(device) for x in lengths), 0.3, probability
    value_B, tables = sweeps.forward(cost_BTK, *settings, True)
    alone_B, _ = sweeps.forward(cost_BTK, *settings, False)
    assert torch.equal(value_B, alone_B)
    grads = sweeps.backward(tuple(cost_BTK.shape[1:]), *settings, tables, value_B, weight_B)
    return [x.cpu() for x in (value_B, *grads) if x is not None]


def check_triton(device):
    """Also with blocks of few steps, which make several strips."""
    from medvlp_video.soft_dtw import cpu, cuda

    shapes = [(3, 7, 5), (2, 5, 40), (1, 1, 1), (2, 1, 33), (2, 20, 17), (2, 9, 1), (2, 6, 50)]
    for block in (16, 1024):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cuda, "BLOCK", block)
            for number, shape in enumerate(shapes):
                for drops, probability in ((False, False), (True, True), (True, False)):
                    dtype = torch.float64 if number % 2 else torch.float32
                    given = inputs(*shape, dtype, drops)
                    ours = swept(cuda, device, given, probability)
                    theirs = swept(cpu, "cpu", given, probability)
                    close = 1e-10 if number % 2 else 1e-3
                    for a, b in zip(ours, theirs, strict=True):
                        torch.testing.assert_close(a, b, rtol=0, atol=close)


@needs_triton
def test_kernels_interpreted_equal_the_cpu():
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
@pytest.mark.parametrize("dtype", ["fp32", "fp64"])
@pytest.mark.parametrize("name", ["forward", "backward"])
def test_kernels_compile_without_a_device(name, dtype, tmp_path, monkeypatch):
    # The interpreter accepts Python that the compiler refuses.
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from medvlp_video.soft_dtw import cuda, triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel, options = getattr(triton_kernels, name), cuda._blocks(700)
    for drop, probability in ((True, True), (False, False)):
        fixed = {"BLOCK": options["BLOCK"], "DROP": drop, "PROBABILITY": probability, "KEEP": True}
        signature = {
            argument: "constexpr"
            if argument in fixed
            else "i32"
            if argument in {"rows", "width"}
            else "*i32"
            if argument in {"frames_B", "steps_B"}
            else f"*{dtype}"
            for argument in kernel.arg_names
        }
        constants = {k: v for k, v in fixed.items() if k in signature}
        triton.compile(
            ASTSource(kernel, signature, constants),
            target=GPUTarget("cuda", 80, 32),
            options={k: v for k, v in options.items() if k.islower()},
        )


@needs_triton
@needs_gpu
@pytest.mark.gpu
def test_kernels_on_a_device_equal_the_cpu():
    check_triton("cuda")


@needs_triton
@needs_gpu
@pytest.mark.gpu
def test_long_sequences_on_a_device():
    cost_BTK, drop_BT, lengths, _ = inputs(2, 3000, 2500, torch.float32, True)
    for drops in ([], [drop_BT]):
        form = soft_drop_dtw if drops else soft_dtw
        here = form(cost_BTK, *drops, 0.1, *lengths)
        there = form(cost_BTK.cuda(), *(x.cuda() for x in drops), 0.1, *lengths)
        torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-3)
        options = {"drop_BT": drop_BT} if drops else {}
        here = expected_alignment(cost_BTK, 0.1, *lengths, **options)
        options = {name: x.cuda() for name, x in options.items()}
        there = expected_alignment(cost_BTK.cuda(), 0.1, *lengths, **options)
        torch.testing.assert_close(there.cpu(), here, rtol=0, atol=2e-2)


IN_OTHER_PROCESSES = """
import os, sys
import torch
import medvlp.cli, medvlp_video
from medvlp_video.soft_dtw import soft_dtw
assert "numba" not in sys.modules
cost = torch.rand(8, 200, 200, generator=torch.Generator().manual_seed(0))
torch.set_num_threads(2)
value = soft_dtw(cost, 0.1)
child = os.fork()
if not child:
    os._exit(0 if torch.equal(soft_dtw(cost, 0.1), value) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("checked")
"""


def test_numba_is_loaded_by_the_first_alignment_and_its_threads_outlive_a_fork():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_OTHER_PROCESSES],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["checked"]


def test_kernels_compile_where_machine_code_cannot_be_kept():
    from medvlp_video.soft_dtw.kernels import compiled

    # numba keeps machine code by the file of its source: of this there is none.
    names: dict[str, object] = {}
    exec(compile("def twice(x):\n    return 2 * x\n", "/nowhere/source.py", "exec"), names)
    assert compiled(names["twice"])(21) == 42


if __name__ == "__main__":
    check_triton("cpu")
    sys.stdout.write("checked\n")
