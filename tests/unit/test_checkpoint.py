import math
from pathlib import Path

import pytest
import torch

from medvlp.errors import RunError
from medvlp.train.checkpoint import read_checkpoint, write_checkpoint


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


@pytest.mark.parametrize("damage", ["flip", "truncate", "header", "absent"])
def test_damage_is_noticed(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "last.safetensors"
    write_checkpoint({"w": torch.ones(100), "step": 12}, path)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-5] ^= 1
    elif damage == "truncate":
        data = data[:-8]
    elif damage == "header":
        data = data.replace(b": 12", b": 13")
    path.write_bytes(data)
    if damage == "absent":
        path.unlink()
    with pytest.raises(RunError, match=r"last\.safetensors is missing or damaged"):
        read_checkpoint(path)


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
    monkeypatch.setattr("medvlp.train.checkpoint._sync", _full)
    with pytest.raises(OSError, match="full"):
        write_checkpoint({"step": 2}, path)
    assert read_checkpoint(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.safetensors"]


def _full(path: Path) -> None:
    raise OSError("disk full")
