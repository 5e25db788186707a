"""Encodings and batches of random numbers, for tests of objectives."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medvlp.data.batch import Batch, TokenIds
from medvlp.data.tables import LEVELS
from medvlp.encoding import Encodings, ImageFeatures, Sizes

WIDTH, EMBED, TOKENS = 5, 4, 6
IDS = TokenIds(count=20, mask=3, special=(0, 1, 2, 3))
SIZES = Sizes(image=WIDTH, text=WIDTH, embed=EMBED, labels=("a", "b", "c"), tokens=IDS)


def nowhere(*_: Any) -> Any:
    raise AssertionError("the objective looks at nothing a second time")


def encodings(
    count: int, texts: int, *, patches: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Encodings:
    """Of `count` samples with `texts` texts each; all that is random has a gradient."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    image = F.normalize(draw(count, EMBED), dim=-1).requires_grad_()
    text = F.normalize(draw(count, texts, EMBED), dim=-1).requires_grad_()
    pooled = draw(count, WIDTH).requires_grad_()
    return Encodings(
        image=ImageFeatures(pooled_BD=pooled, tokens_BPD=pooled[:, None], grid=(1, 1), maps=()),
        image_BE=image,
        patch_BPE=draw(count, patches, EMBED).requires_grad_(),
        text_BNE=text,
        token_BNTE=draw(count, texts, TOKENS, EMBED).requires_grad_(),
        scale=torch.tensor(6.0, dtype=dtype, requires_grad=True),
        bias=torch.tensor(-2.0, dtype=dtype, requires_grad=True),
        see=nowhere,
        read=nowhere,
    )


def batch(
    count: int,
    texts: int,
    *,
    absent: tuple[tuple[int, int], ...] = (),
    levels: tuple[str, ...] | None = None,
    labels: list[list[float]] | None = None,
    seed: int = 0,
) -> Batch:
    """Texts of two to four words between special tokens, padded; `levels` of the texts."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(2, TOKENS - 1, (count, texts, 1), generator=generator)
    place = torch.arange(TOKENS)
    mask = place < words + 2
    ids = torch.randint(4, IDS.count, (count, texts, TOKENS), generator=generator)
    ids = torch.where(place == 0, 1, torch.where(place == words + 1, 2, ids)) * mask
    level = torch.tensor([LEVELS.index(name) for name in levels or ("section",) * texts])
    level = level.repeat(count, 1)
    for row, column in absent:
        mask[row, column] = False
        ids[row, column] = 0
        level[row, column] = -1
    return Batch(
        image=torch.zeros(count, 1, 2, 2),
        text_BNT=ids,
        text_mask_BNT=mask,
        level_BN=level,
        labels_BL=torch.zeros(count, 3) if labels is None else torch.tensor(labels),
        sample=tuple(map(str, range(count))),
        stream=("items",) * count,
    )


def altered(one: Encodings, absent: tuple[tuple[int, int], ...]) -> Encodings:
    """The same encodings with other numbers for the absent texts."""
    text, token = one.text_BNE.detach().clone(), one.token_BNTE.detach().clone()
    for row, column in absent:
        text[row, column], token[row, column] = 7.0, -9.0
    return dataclasses.replace(one, text_BNE=text, token_BNTE=token)


def permuted(
    one: Encodings, data: Batch, samples: list[int], texts: list[int]
) -> tuple[Encodings, Batch]:
    """Samples and texts in another order."""
    rows = torch.tensor(samples)
    one, data = one.rows(rows), data.rows(rows)
    return (
        dataclasses.replace(
            one, text_BNE=one.text_BNE[:, texts], token_BNTE=one.token_BNTE[:, texts]
        ),
        dataclasses.replace(
            data,
            text_BNT=data.text_BNT[:, texts],
            text_mask_BNT=data.text_mask_BNT[:, texts],
            level_BN=data.level_BN[:, texts],
        ),
    )


def gradients(loss: Tensor, one: Encodings, *names: str) -> dict[str, Tensor]:
    """The loss's gradient with respect to the named encodings; zero where it plays no part."""
    wanted = [getattr(one, name) for name in names]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return {
        name: torch.zeros_like(tensor) if grad is None else grad
        for name, tensor, grad in zip(names, wanted, found, strict=True)
    }
