"""Bytes that formats' own libraries would not write."""

from __future__ import annotations

import hashlib
import io
import json
import pickle  # noqa: TID251 - what a hostile file holds; nothing here unpickles
import struct
from typing import Any

import numpy as np
import torch

from hostile.case import Payload


def pickled(command: str, protocol: int | None = None) -> bytes:
    """A pickle that runs `command`; of protocol 0 it is plain text."""
    return pickle.dumps({"state_dict": Payload(command)}, protocol)


def torch_zip(command: str) -> bytes:
    """What `torch.save` writes, with the payload in it."""
    out = io.BytesIO()
    torch.save({"state_dict": {"weight": torch.zeros(2)}, "hook": Payload(command)}, out)
    return out.getvalue()


def npy_of_objects(command: str) -> bytes:
    """An array of one object: numpy pickles it."""
    out = io.BytesIO()
    np.save(out, np.array([Payload(command)], object), allow_pickle=True)
    return out.getvalue()


def safetensors(header: str | bytes | dict[str, Any], data: bytes = b"", length: int = -1) -> bytes:
    """A file with any header, and any statement of its length."""
    text = json.dumps(header) if isinstance(header, dict) else header
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw) if length < 0 else length) + raw + data


def sealed(data: bytes) -> bytes:
    """`data` and its digest, as a checkpoint ends."""
    return data + hashlib.sha256(data).digest()


def tree(text: str) -> bytes:
    """A checkpoint whose header, tensors and digest are right, with any text as its tree."""
    header = {"__metadata__": {"tree": text}, "sha256": entry(32, at=(0, 32), dtype="U8")}
    return sealed(safetensors(header))


def entry(*shape: int, at: tuple[int, int], dtype: str = "F32") -> dict[str, Any]:
    """A tensor's lines in a header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(at)}
