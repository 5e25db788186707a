"""Texts of marked sentences and random numbers for what towers make of them."""

from __future__ import annotations

import torch
from torch import Tensor

from medvlp.data.batch import Batch, TokenIds
from medvlp.encoding import Encodings, ImageFeatures, Sizes

BEGIN, MARK = 1, 4
IDS = TokenIds(count=30, mask=3, special=(0, 1, 2, 3, 4), begin=BEGIN, end=2, sentence=MARK)
SENTENCES, TEXT, EMBED = 3, 5, 4
GRIDS = ((2, 2, 2), (1, 2, 2), (1, 1, 2), (1, 1, 1))
WIDTHS = (2, 3, 4, 5)
SIZES = Sizes(image=5, text=TEXT, embed=EMBED, tokens=IDS, maps=WIDTHS, sentences=SENTENCES)

Said = tuple[int, ...] | None
"""Words of each sentence of a text; None for an absent text."""

REPORTS: tuple[tuple[Said, ...], ...] = (
    ((2, 1), (3,)),
    ((1,), None),
    (None, None),
    ((), (1, 2, 1)),
    ((2, 2), (1,)),
    ((1, 1), None),
)
"""Two texts a sample: also with one sentence, none, and no text at all."""


def ids_of(said: Said, generator: torch.Generator) -> list[int]:
    """Begin, and each sentence behind its mark."""
    if said is None:
        return []
    ids = [BEGIN]
    for words in said:
        drawn = torch.randint(5, IDS.count, (words,), generator=generator)
        ids += [MARK, *drawn.tolist()]
    return ids


def batch(
    reports: tuple[tuple[Said, ...], ...] = REPORTS,
    *,
    longest: int | None = None,
    size: tuple[int, ...] = (1, 1, 1),
    seed: int = 0,
) -> Batch:
    """A batch with these texts, padded to the longest of them or to `longest`."""
    generator = torch.Generator().manual_seed(seed)
    rows = [[ids_of(said, generator) for said in texts] for texts in reports]
    longest = longest or max(len(ids) for texts in rows for ids in texts)
    text = torch.zeros(len(rows), len(rows[0]), longest, dtype=torch.long)
    mask = torch.zeros(text.shape, dtype=torch.bool)
    for b, texts in enumerate(rows):
        for n, ids in enumerate(texts):
            text[b, n, : len(ids)] = torch.tensor(ids)
            mask[b, n, : len(ids)] = True
    return Batch(
        image=torch.randn(len(rows), 1, *size, generator=generator),
        text_BNT=text,
        text_mask_BNT=mask,
        level_BN=torch.where(mask.any(2), 0, -1),
        labels_BL=torch.zeros(len(rows), 0),
        patient_B=torch.arange(len(rows)),
        sample=tuple(map(str, range(len(rows)))),
        stream=("items",) * len(rows),
    )


def encodings(data: Batch, *, seed: int = 0) -> Encodings:
    """Of the batch's samples; all that is read has a gradient."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        drawn = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return drawn.requires_grad_()

    (count, texts), length = data.text_BNT.shape[:2], data.text_BNT.shape[2]
    maps = tuple(draw(count, width, *grid) for width, grid in zip(WIDTHS, GRIDS, strict=True))
    return Encodings(
        image=ImageFeatures(
            pooled_BD=draw(count, 5), tokens_BPD=draw(count, 1, 5), grid=(1, 1, 1), maps=maps
        ),
        image_BE=draw(count, EMBED),
        patch_BPE=draw(count, 1, EMBED),
        text_BNE=draw(count, texts, EMBED),
        token_BNTE=draw(count, texts, length, EMBED),
        state_BNTD=draw(count, texts, length, TEXT),
        sentence_BNSD=draw(count, texts, SENTENCES, TEXT),
        scale=torch.tensor(6.0, dtype=torch.float64),
        bias=torch.tensor(0.0, dtype=torch.float64),
        see=None,  # type: ignore[arg-type]
        read=None,  # type: ignore[arg-type]
    )
