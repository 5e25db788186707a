"""What the ranks of a run tell each other beside gradients: plain numbers and text, never pickle.

Every function must be called by all ranks at the same place.
"""

from __future__ import annotations

from typing import Literal

import torch
from lightning.pytorch import Trainer


def combine(trainer: Trainer, values: list[int], how: Literal["max", "sum"]) -> list[int]:
    """The highest, or the sum, of all ranks, value by value."""
    if trainer.world_size == 1:
        return values
    told = torch.tensor(values, device=trainer.strategy.root_device)
    return list(trainer.strategy.reduce(told, reduce_op=how).tolist())


def gather_text(trainer: Trainer, text: str) -> list[str]:
    """Every rank's text, in the order of the ranks."""
    if trainer.world_size == 1:
        return [text]
    data = text.encode()
    (longest,) = combine(trainer, [len(data)], "max")
    padded = torch.zeros(longest + 8, dtype=torch.uint8)
    padded[:8] = torch.tensor(list(len(data).to_bytes(8, "little")), dtype=torch.uint8)
    padded[8 : 8 + len(data)] = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)[
        : len(data)
    ]
    told = trainer.strategy.all_gather(padded.to(trainer.strategy.root_device)).cpu()
    return [_decode(bytes(row.tolist())) for row in told]


def _decode(row: bytes) -> str:
    return row[8 : 8 + int.from_bytes(row[:8], "little")].decode()
