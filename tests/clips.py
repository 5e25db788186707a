"""Encodings and batches of clips with the texts within them, for tests of surgical objectives."""

from __future__ import annotations

import dataclasses

import encoded
import torch
from torch import Tensor

from medvlp.data.batch import Batch
from medvlp.encoding import Encodings

FRAMES = 4
RECORDINGS = (7, 7, 9, 11, 9, 13)


def encodings(count: int, texts: int, seed: int = 0) -> Encodings:
    """As `encoded.encodings`, of `FRAMES` frames of two patches, with what norms take away."""
    one = encoded.encodings(count, texts, patches=2 * FRAMES, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)

    def longer(unit: Tensor) -> Tensor:
        norm = 0.5 + torch.rand(unit.shape[:-1], generator=generator, dtype=torch.float64)
        return (unit.detach() * norm[..., None]).requires_grad_()

    return dataclasses.replace(
        one,
        image=dataclasses.replace(one.image, grid=(FRAMES, 1, 2)),
        image_raw_BE=longer(one.image_BE),
        text_raw_BNE=longer(one.text_BNE),
    )


def batch(
    count: int,
    texts: int,
    *,
    absent: tuple[tuple[int, int], ...] = (),
    labels: list[list[float]] | None = None,
) -> Batch:
    """As `encoded.batch`: a phase and what is said in it, of `RECORDINGS`."""
    levels = ("phase", *("clip",) * (texts - 1))
    one = encoded.batch(count, texts, absent=absent, levels=levels, labels=labels)
    generator = torch.Generator().manual_seed(5)
    return dataclasses.replace(
        one,
        recording_B=torch.tensor(RECORDINGS[:count]),
        patient_B=torch.tensor([r % 4 for r in RECORDINGS[:count]]),
        seed_B=torch.arange(100, 100 + count),
        confidence_BN=torch.rand(count, texts, generator=generator),
    )


def owners(data: Batch, which: slice = slice(None)) -> list[tuple[int, int]]:
    """Sample and place of each text that is there, in order."""
    there = data.text_mask_BNT.any(2)
    places = range(there.shape[1])[which]
    return [(i, n) for i in range(len(there)) for n in places if there[i, n]]
