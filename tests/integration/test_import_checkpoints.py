"""Files of weights that are no such thing: code, archives, programs, bombs; nothing is run."""

import argparse
import io
import os
import sys
import tarfile
import types
import zipfile

import pytest
import torch
from torch import nn

from medvlp.errors import ConfigError
from medvlp.models.imports.checkpoint import LARGEST, read_tensors
from medvlp.models.imports.keys import fitted, folded, left_out, renamed, to


class Runs:
    """What a hostile checkpoint holds."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("old", [False, True])
def test_code_in_a_checkpoint_is_not_run(tmp_path, old):
    trace = tmp_path / "trace"
    file = tmp_path / "weights.pt"
    state = {"w": torch.ones(2), "extra": Runs(trace)}
    torch.save(state, file, _use_new_zipfile_serialization=not old)
    with pytest.raises(ConfigError, match="it was not run") as caught:
        read_tensors(file)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


def test_states_are_found_where_frameworks_put_them(tmp_path):
    state = {"a.w": torch.ones(2), "b": torch.zeros(3, dtype=torch.float16)}
    wrapped = {f"module.{k}": v for k, v in state.items()}
    for saved in (
        state,
        {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}},
        {"model": wrapped, "config": {"name": "x"}},
        {"model": {"state_dict": wrapped}},
    ):
        torch.save(saved, tmp_path / "w.pt")
        found = read_tensors(tmp_path / "w.pt")
        assert set(found) == set(state)
        assert torch.equal(found["a.w"], state["a.w"])


def test_settings_of_training_frameworks_are_left_aside(tmp_path, monkeypatch):
    # As a checkpoint of Lightning with settings of OmegaConf names them; neither is installed.
    kind = type("DictConfig", (), {"__module__": "omegaconf.dictconfig"})
    module = types.ModuleType("omegaconf.dictconfig")
    module.DictConfig = kind
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    monkeypatch.setitem(sys.modules, "omegaconf.dictconfig", module)
    settings = kind()
    settings.content = {"lr": 0.1, "more": argparse.Namespace(seed=1)}
    saved = {"state_dict": {"w": torch.ones(2)}, "hyper_parameters": settings}
    torch.save(saved, tmp_path / "w.ckpt")
    monkeypatch.undo()
    assert set(read_tensors(tmp_path / "w.ckpt")) == {"w"}


def test_what_is_no_file_of_tensors_is_named(tmp_path):
    file = tmp_path / "w.pt"

    def refused(message):
        with pytest.raises(ConfigError, match=message):
            read_tensors(file)

    refused("missing")
    file.write_bytes(b"no weights at all")
    refused("damaged")
    torch.save([torch.ones(2)], file)
    refused("no state of a model")
    torch.save({"w": torch.ones(2), "epoch": 3}, file)
    refused("more than tensors, first .*epoch")
    torch.save({}, file)
    refused("no tensor")
    torch.save({"w": torch.ones(1).expand(1 << 40)}, file)
    refused("w is no plain tensor")
    torch.save({"w": torch.ones(4).to_sparse()}, file)
    refused("w is no plain tensor")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("weights.bin", b"1")
    refused("a zip archive of files")
    with tarfile.open(file, "w") as archive:
        archive.addfile(tarfile.TarInfo("weights.bin"), io.BytesIO())
    refused("a tar or gzip archive")
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("w/data.pkl", "w/constants.pkl", "w/code/__torch__.py"):
            archive.writestr(name, b"")
    refused("TorchScript program")
    torch.save({"w": torch.zeros(1 << 12)}, file)
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    refused("is compressed")
    with file.open("wb") as sparse:
        sparse.truncate(LARGEST + 1)
    refused("larger than 16 GiB")
    (tmp_path / "link.pt").symlink_to(file)
    file = tmp_path / "link.pt"
    refused("no file of its own")


def test_a_batch_norm_is_folded_into_the_layer_before_it():
    torch.manual_seed(0)
    layer, norm = nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5)
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight.normal_()
        norm.bias.normal_()
    stack = nn.Sequential(layer, norm).eval()
    found = folded(stack.state_dict(), "0", "1")
    assert set(found) == {"0.weight", "0.bias"}
    image = torch.randn(2, 3, 4, 4)
    flat = torch.nn.functional.linear(image.movedim(1, 3), found["0.weight"], found["0.bias"])
    torch.testing.assert_close(flat.movedim(3, 1), stack(image))
    plain = nn.Sequential(nn.Linear(3, 5, bias=False), nn.BatchNorm1d(5, affine=False)).eval()
    with torch.no_grad():
        plain[1].running_mean.normal_()
    found = folded(plain.state_dict(), "0", "1")
    rows = torch.randn(4, 3)
    expected = torch.nn.functional.linear(rows, found["0.weight"], found["0.bias"])
    torch.testing.assert_close(expected, plain(rows))
    with pytest.raises(ConfigError, match=r"no tensor 2\.running_mean"):
        folded(plain.state_dict(), "0", "2")
    with pytest.raises(ConfigError, match="does not fit"):
        folded(found | {"1.running_mean": torch.ones(3), "1.running_var": torch.ones(3)}, "0", "1")


def test_rules_split_and_account_for_every_tensor():
    model = {"q": torch.zeros(2), "k": torch.zeros(2), "n": torch.zeros(1, dtype=torch.long)}
    rules = (left_out("pool"), to(r"(.)k", "q", "k"), to("n", "n"))
    found = fitted(
        {"qk": torch.arange(4.0).half(), "n": torch.ones(1), "pool": torch.ones(1)}, rules, model
    )
    assert found["k"].tolist() == [2, 3]
    assert found["q"].dtype == torch.float32
    assert found["n"].dtype == torch.long
    stated = {"qk": torch.ones(4), "n": torch.ones(1)}
    for weights, message in (
        ({"qk": torch.ones(3)}, "no stack of 2"),
        (stated | {"xk": torch.ones(4)}, "two tensors for q"),
        (stated | {"x": torch.ones(4)}, "1 of 3 tensors"),
        ({"qk": torch.ones(4)}, "first n"),
    ):
        with pytest.raises(ConfigError, match=message):
            fitted(weights, rules, model)
    assert fitted({"qk": torch.ones(4)}, rules, model, own=("n",))["n"] is model["n"]
    with pytest.raises(ConfigError, match="two tensors would be a"):
        renamed({"a": torch.ones(1), "x.a": torch.ones(1)}, {r"^x\.": ""})
