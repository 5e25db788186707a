import hashlib
import math
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from medvlp.errors import RunError
from medvlp.train.checkpoint import read_checkpoint, write_checkpoint
from medvlp.train.checkpoint_io import SafeCheckpointIO, SaveError, check_room
from medvlp.train.saving import final_state, resume_point


def test_nested_state_comes_back_with_its_types(tmp_path: Path) -> None:
    weight = torch.randn(3, 2)
    state = {
        "state_dict": {"a": weight, "tied": weight, "n": torch.tensor(7), "h": weight.bfloat16()},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "betas": (0.9, 0.98)}],
        "loops": {"best": math.inf, "none": None, "flag": True, "text": "ä", 3: [1, (2, 3)]},
        "empty": {},
        "transposed": weight.T,
    }
    path = tmp_path / "new" / "last.safetensors"
    write_checkpoint(state, path)
    back = read_checkpoint(path)
    for name, value in state["state_dict"].items():
        assert torch.equal(back["state_dict"][name], value)
        assert back["state_dict"][name].dtype == value.dtype
    assert torch.equal(back["transposed"], weight.T)
    assert back["optimizer_states"][0]["betas"] == (0.9, 0.98)
    assert back["optimizer_states"][0]["state"][0]["step"] == 1
    assert back["loops"] == state["loops"]
    assert back["empty"] == {}


STATE = {
    "state_dict": {"w": torch.arange(300.0), "h": torch.ones(7).bfloat16()},
    "optimizer_states": [{"state": {0: {"step": torch.tensor(4.0)}}}],
    "global_step": 12,
}


def test_every_flipped_bit_and_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    write_checkpoint(STATE, path)
    data, draw = path.read_bytes(), random.Random(0)
    damaged = [data[: draw.randrange(len(data))] for _ in range(50)]
    # Of the bits, half in the header, where they mean lengths, names and plain values.
    header = len(data) - 4 * 301 - 2 * 7 - 32
    for end in (header, len(data)):
        for _ in range(75):
            flipped = bytearray(data)
            flipped[draw.randrange(end)] ^= 1 << draw.randrange(8)
            damaged.append(bytes(flipped))
    for content in [*damaged, data + b" ", b""]:
        path.write_bytes(content)
        with pytest.raises(RunError, match=r"last\.safetensors is missing or damaged"):
            read_checkpoint(path)
    path.unlink()
    with pytest.raises(RunError, match="missing"):
        read_checkpoint(path)


def test_the_file_is_one_that_other_readers_of_safetensors_take(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    write_checkpoint(STATE, path)
    found = load_file(path)
    seal = hashlib.sha256(path.read_bytes()[:-32]).digest()
    assert bytes(found.pop("sha256").tolist()) == seal
    assert sorted(tuple(t.shape) for t in found.values()) == [(), (7,), (300,)]


def test_the_file_before_is_kept_and_used_when_the_last_is_damaged(tmp_path: Path, capsys) -> None:
    assert resume_point(tmp_path, first=True) == (None, 0)
    last, previous = tmp_path / "last.safetensors", tmp_path / "previous.safetensors"
    io = SafeCheckpointIO({last: previous})
    for step in (1, 2, 3):
        io.save_checkpoint({"global_step": step}, last)
    assert resume_point(tmp_path, first=True) == (last, 3)
    orphan = tmp_path / ".last.safetensors.77.tmp"
    orphan.write_bytes(last.read_bytes()[:20])
    last.write_bytes(last.read_bytes()[:-1])
    assert capsys.readouterr().err == ""
    assert resume_point(tmp_path, first=True) == (previous, 2)
    assert capsys.readouterr().err == (
        "medvlp: last.safetensors is damaged; going on from the checkpoint before it, step 2\n"
    )
    assert not orphan.exists()
    # The damaged one is gone: at the next save it would have taken the sound one's place.
    io.save_checkpoint({"global_step": 4}, last)
    assert [read_checkpoint(path)["global_step"] for path in (last, previous)] == [4, 2]
    last.unlink()
    previous.write_bytes(b"")
    with pytest.raises(RunError, match=r"previous\.safetensors is missing or damaged"):
        resume_point(tmp_path, first=True)
    # Killed between the two renamings: there is no last one, and nothing is damaged.
    io.save_checkpoint({"global_step": 5}, previous)
    assert resume_point(tmp_path, first=True) == (previous, 5)
    assert capsys.readouterr().err == ""


def test_a_run_is_exported_from_its_best_weights_or_else_the_last(tmp_path: Path, capsys) -> None:
    best = tmp_path / "best.safetensors"
    write_checkpoint({"global_step": 9}, tmp_path / "last.safetensors")
    assert final_state(tmp_path) == {"global_step": 9}
    write_checkpoint({"global_step": 7}, best)
    assert final_state(tmp_path) == {"global_step": 7}
    assert capsys.readouterr().err == ""
    best.write_bytes(best.read_bytes()[:-1])
    assert final_state(tmp_path) == {"global_step": 9}
    assert capsys.readouterr().err.startswith("medvlp: best.safetensors is damaged")


def test_a_thread_writes_the_same_bytes_whatever_happens_to_the_tensors(tmp_path: Path) -> None:
    weight = torch.randn(200, 300)
    at_once, later = SafeCheckpointIO(), SafeCheckpointIO(asynchronous=True)
    for step in (1, 2):
        state = {"w": weight, "tied": weight, "t": weight.T, "global_step": step}
        at_once.save_checkpoint(state, tmp_path / "a")
        later.save_checkpoint(state, tmp_path / "b")
        weight.add_(1.0)
        later.finish()
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    later.teardown()
    assert later.failed is None


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_failing_write_is_kept_for_who_asked_for_it(tmp_path: Path, asynchronous: bool) -> None:
    io = SafeCheckpointIO(asynchronous=asynchronous)
    (tmp_path / "folder").touch()
    io.save_checkpoint({"global_step": 1}, tmp_path / "folder" / "last.safetensors")
    io.finish()
    assert isinstance(io.failed, SaveError)
    assert io.failed.exit_code == 3
    assert "last.safetensors cannot be written (File exists)" in str(io.failed)
    io.save_checkpoint({"global_step": 2}, tmp_path / "last.safetensors")
    io.finish()
    assert str(tmp_path) not in str(io.failed)
    io.teardown()


def test_no_room_for_two_checkpoints_is_said_before_training(tmp_path: Path) -> None:
    check_room(tmp_path, 1000)
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(SaveError, match=r"two checkpoints of \d+ MB do not fit"):
        check_room(tmp_path, free)


LIMITED = """
import resource, sys, torch
from pathlib import Path
from medvlp.guarded import run_guarded
from medvlp.train.checkpoint_io import SafeCheckpointIO
last = Path(sys.argv[1])
io = SafeCheckpointIO({last: last.with_name("previous.safetensors")})
io.save_checkpoint({"w": torch.zeros(1000)}, last)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
io.save_checkpoint({"w": torch.zeros(100_000)}, last)
def end():
    raise io.failed
sys.exit(run_guarded(end))
"""


@pytest.mark.slow
def test_a_full_disk_leaves_the_file_and_ends_with_one_line(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "last.safetensors cannot be written (File too large)" in done.stderr
    assert read_checkpoint(path)["w"].shape == (1000,)
    assert [p.name for p in tmp_path.iterdir()] == ["last.safetensors"]


def test_what_needs_pickle_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    write_checkpoint({"step": 1}, path)
    with pytest.raises(RunError, match="without pickle"):
        write_checkpoint({"step": 2, "thing": object()}, path)
    assert read_checkpoint(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.safetensors"]


def test_a_failing_write_keeps_the_old_file(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "last.safetensors"
    write_checkpoint({"step": 1}, path)
    monkeypatch.setattr("medvlp.train.checkpoint.os.fsync", _full)
    with pytest.raises(OSError, match="full"):
        write_checkpoint({"step": 2}, path)
    assert read_checkpoint(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.safetensors"]


def _full(descriptor: int) -> None:
    raise OSError("disk full")
