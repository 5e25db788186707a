"""Checkpoints without pickle: one safetensors file whose header holds the rest as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from medvlp.digest import digest_bytes
from medvlp.errors import RunError

_TENSOR, _TUPLE, _ITEMS = "$tensor", "$tuple", "$items"
_MARKS = {_TENSOR, _TUPLE, _ITEMS}


def write_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Write nested plain values and tensors: either the whole file, or the one before stays.

    Raises:
        RunError: A value that is neither plain nor a tensor (it would need pickle).
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_pack(dict(state), tensors))
    header = {"tree": tree, "tree_sha256": digest_bytes(tree.encode()), "crc32": _checksum(tensors)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, metadata=header)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `write_checkpoint` wrote, with tensors on the CPU.

    Raises:
        RunError: The file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tree = header["tree"]
        if header["tree_sha256"] != digest_bytes(tree.encode()):
            raise ValueError
        if header["crc32"] != _checksum(tensors):
            raise ValueError
        state: dict[str, Any] = _unpack(json.loads(tree), tensors)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise RunError(
            f"checkpoint {path.name} is missing or damaged",
            remedy="delete it, and repeat the command to start from the beginning",
        ) from error
    return state


class SafeCheckpointIO(CheckpointIO):
    """Lightning's door to `write_checkpoint` and `read_checkpoint`."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write the training state."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read the training state, on the CPU; Lightning moves it."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = f"t{len(tensors):06d}"
        # A copy: weights that share memory (tied ones) are refused by the format.
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        return _pack_mapping(value, tensors)
    if isinstance(value, tuple):
        return {_TUPLE: [_pack(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_pack(item, tensors) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise RunError(
        f"checkpoint: {type(value).__name__} cannot be stored without pickle",
        remedy="keep plain values and tensors in the states of modules and callbacks",
    )


def _pack_mapping(value: Mapping[Any, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    if all(isinstance(key, str) for key in value) and not _MARKS & set(value):
        return {key: _pack(item, tensors) for key, item in value.items()}
    return {_ITEMS: [[_pack(k, tensors), _pack(v, tensors)] for k, v in value.items()]}


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if _TENSOR in value:
        return tensors[value[_TENSOR]]
    if _TUPLE in value:
        return tuple(_unpack(item, tensors) for item in value[_TUPLE])
    if _ITEMS in value:
        return {_unpack(k, tensors): _unpack(v, tensors) for k, v in value[_ITEMS]}
    return {key: _unpack(item, tensors) for key, item in value.items()}


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    crc = 0
    for name in sorted(tensors):
        flat = tensors[name].reshape(-1).view(torch.uint8)
        crc = zlib.crc32(flat.numpy().data, crc)
    return f"{crc:08x}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
