"""A frozen text tower reads each text once; what it made of it is kept in the host's memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from medvlp.encoding import TextEncoder, TextFeatures
from medvlp.errors import ConfigError


def remember_texts(tower: TextEncoder) -> None:
    """Make the tower keep the pooled vector of every text that it has read.

    A text is known by its real tokens, whatever its padding. It takes the tower's width times
    four bytes: 3 GB for a million texts at width 768. `TextFeatures.tokens_MTD` then has no
    token, since those would take a hundred times as much. As soon as a weight of the tower learns,
    every text is read anew.

    Args:
        tower: The tower, changed in place.

    Raises:
        ConfigError: The tower learns.
    """
    if _learns(tower):
        raise ConfigError(
            "text.cache: the text tower learns, so what it makes of a text changes",
            remedy="set optim.freeze=[{part: text}], without adapters in the text tower, or "
            "text.cache=false",
        )
    known: dict[bytes, Tensor] = {}
    tower.forward = partial(_recall, tower, tower.forward, known)  # type: ignore[method-assign]


def _recall(
    tower: TextEncoder,
    forward: Callable[[Tensor, Tensor], TextFeatures],
    known: dict[bytes, Tensor],
    ids_MT: Tensor,
    mask_MT: Tensor,
) -> TextFeatures:
    if _learns(tower):
        return forward(ids_MT, mask_MT)
    keys = _digests(ids_MT, mask_MT)
    new = {key: row for row, key in enumerate(keys) if key not in known}
    if new:
        rows = torch.tensor(list(new.values()), device=ids_MT.device)
        with torch.no_grad():
            pooled_KD = forward(ids_MT[rows], mask_MT[rows]).pooled_MD.cpu()
        known.update((key, vector.clone()) for key, vector in zip(new, pooled_KD, strict=True))
    pooled_MD = torch.stack([known[key] for key in keys]).to(ids_MT.device)
    return TextFeatures(
        pooled_MD=pooled_MD, tokens_MTD=pooled_MD.new_empty(len(keys), 0, tower.width)
    )


def _digests(ids_MT: Tensor, mask_MT: Tensor) -> list[bytes]:
    ids, mask = ids_MT.cpu().numpy(), mask_MT.cpu().numpy()
    return [
        hashlib.sha256(row[real].tobytes()).digest() for row, real in zip(ids, mask, strict=True)
    ]


def _learns(tower: nn.Module) -> bool:
    return any(weight.requires_grad for weight in tower.parameters())
