"""Checkpoints without pickle: one safetensors file whose header holds the rest as JSON.

The last 32 bytes of the file are the SHA-256 of all bytes before them (to a reader of safetensors,
a tensor named ``sha256``). The same state gives the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from medvlp.errors import RunError

_TENSOR, _TUPLE, _ITEMS = "$tensor", "$tuple", "$items"
_MARKS = {_TENSOR, _TUPLE, _ITEMS}
_SEAL = "sha256"
_SEAL_BYTES = 32
_BLOCK = 1 << 22
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class Packed:
    """A state taken apart: nested plain values as JSON, and the tensors that they name."""

    tree: str
    tensors: dict[str, Tensor]

    @property
    def size(self) -> int:
        """Bytes of the file, but for its header."""
        return len(self.tree) + sum(t.nbytes for t in self.tensors.values())


def pack(state: Mapping[str, Any]) -> Packed:
    """Take apart nested plain values and tensors; the tensors are not copied.

    Raises:
        RunError: A value that is neither plain nor a tensor (it would need pickle).
    """
    tensors: dict[str, Tensor] = {}
    return Packed(json.dumps(_pack(dict(state), tensors)), tensors)


def write_checkpoint(state: Mapping[str, Any], path: Path, *, previous: Path | None = None) -> None:
    """Write a state: either the whole file, or the one before stays.

    Args:
        state: Nested plain values and tensors.
        path: The file.
        previous: Where the file that stands at `path` goes; without it, it is replaced.

    Raises:
        RunError: A value that is neither plain nor a tensor (it would need pickle).
        OSError: The disk does not take it.
    """
    write_packed(pack(state), path, previous=previous)


def write_packed(packed: Packed, path: Path, *, previous: Path | None = None) -> None:
    """`write_checkpoint` for a state that is taken apart already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            _write_sealed(packed, file)
            file.flush()
            os.fsync(file.fileno())
        # Between the two renamings only `previous` is there, and whole.
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `write_checkpoint` wrote, verified, with tensors on the CPU.

    Raises:
        RunError: The file is missing, or one bit of it is not what was written.
    """
    try:
        _verify(path)
        with safe_open(path, framework="pt") as file:
            tree = (file.metadata() or {})["tree"]
            names = [name for name in file.keys() if name != _SEAL]  # noqa: SIM118
            tensors = {name: file.get_tensor(name) for name in names}
        state: dict[str, Any] = _unpack(json.loads(tree), tensors)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise RunError(
            f"checkpoint {path.name} is missing or damaged",
            remedy="delete it, and repeat the command to start from the beginning",
        ) from error
    return state


def remove_orphans(folder: Path) -> int:
    """Delete the unfinished files of writers that were killed; how many there were."""
    orphans = list(folder.glob(".*.safetensors.*.tmp"))
    for orphan in orphans:
        orphan.unlink(missing_ok=True)
    return len(orphans)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_sealed(packed: Packed, file: IO[bytes]) -> None:
    """Header, tensors, digest; hashed block by block while the block is in the cache."""
    digest = hashlib.sha256()
    for block in _blocks(packed):
        digest.update(block)
        file.write(block)
    file.write(digest.digest())


def _blocks(packed: Packed) -> Iterator[memoryview]:
    # Wide types first, so that every tensor of a mapped file is aligned.
    ordered = sorted(packed.tensors.items(), key=lambda pair: -pair[1].element_size())
    header: dict[str, Any] = {"__metadata__": {"format": "pt", "tree": packed.tree}}
    end = 0
    for name, tensor in ordered:
        offsets = [end, end := end + tensor.nbytes]
        header[name] = _entry(_DTYPES[tensor.dtype], list(tensor.shape), offsets)
    header[_SEAL] = _entry("U8", [_SEAL_BYTES], [end, end + _SEAL_BYTES])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for _, tensor in ordered:
        flat = tensor.reshape(-1).view(torch.uint8).numpy().data
        for start in range(0, len(flat), _BLOCK):
            yield flat[start : start + _BLOCK]


def _entry(dtype: str, shape: list[int], offsets: list[int]) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def _verify(path: Path) -> None:
    """Raises ValueError unless the file ends with the digest of what comes before."""
    left = path.stat().st_size - _SEAL_BYTES
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        while left > 0:
            count = file.readinto(buffer[: min(left, _BLOCK)])
            if not count:
                raise ValueError("shorter than the system says")
            digest.update(buffer[:count])
            left -= count
        if file.read() != digest.digest():
            raise ValueError("digest")


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor) and value.dtype in _DTYPES:
        name = f"t{len(tensors):06d}"
        tensors[name] = value.detach().contiguous()
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
