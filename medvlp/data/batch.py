"""The typed tensors of one step.

Shape letters used in the whole project: B batch, N texts of a sample, T tokens, P patches,
L labels, F frames, C channels, D width (depth in image shapes), H, W height and width, E the
joint embedding's width.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's input; objectives read it, nothing changes it."""

    image: Tensor
    """(B,C,H,W), (B,C,D,H,W) or (B,F,C,H,W), float32."""

    text_BNT: Tensor
    """Token ids, padded."""

    text_mask_BNT: Tensor
    """True where a token is real; a row that is False throughout is an absent text."""

    level_BN: Tensor
    """Index into `medvlp.data.tables.LEVELS` of each text; -1 where absent."""

    labels_BL: Tensor
    """1 present, 0 absent, -1 uncertain, NaN unknown."""

    sample: tuple[str, ...]
    """Pseudonymous sample ids, for messages and predictions."""

    def to(self, device: torch.device, *, images: bool = True) -> Batch:
        """The same batch with its tensors on `device`; the images only if `images`."""
        moved: dict[str, Any] = {
            f.name: value.to(device, non_blocking=True)
            for f in dataclasses.fields(self)
            if isinstance(value := getattr(self, f.name), Tensor) and (images or f.name != "image")
        }
        return dataclasses.replace(self, **moved)

    def part(self, rows: slice) -> Batch:
        """Some of the samples."""
        taken = {f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)}
        return dataclasses.replace(self, **taken)


@dataclass(frozen=True, kw_only=True)
class TokenIds:
    """What an objective that alters or writes text needs to know of the tokenizer."""

    count: int
    """Entries of the vocabulary."""

    mask: int | None
    """The id that hides a token, if the tokenizer has one."""

    special: tuple[int, ...]
    """Ids that stand for no word: padding, beginning, end, mask, ..."""
