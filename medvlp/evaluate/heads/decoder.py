"""How a decoder of text learns, writes and weighs over the images of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from medvlp.evaluate.heads.visual import Visual
from medvlp.losses.fusion.decoder import TextDecoder, next_token_losses
from medvlp.models.writing import Passage, continuations, log_likelihoods, stacked
from medvlp.progress import track

BATCH = 32


def write(
    decoder: TextDecoder,
    visual: Visual,
    prompts: Sequence[Passage],
    *,
    end: int,
    beams: int = 1,
    forbidden: Sequence[int] = (),
    label: str = "writing",
) -> list[list[int]]:
    """The most likely continuation of each prefix, without the prefix and the end.

    Args:
        decoder: A trained decoder.
        visual: The images.
        prompts: Their `ids` are the prefixes.
        end: The token that ends a text.
        beams: As for `continuations`.
        forbidden: Tokens that no text holds, such as padding.
        label: For the progress bar.
    """
    decoder.eval()
    written: list[list[int]] = [[] for _ in prompts]
    for chunk in track(list(_by_length(prompts)), label):
        memory_BPW = _memory(decoder, visual, [prompts[at] for at in chunk])
        prefix_BT = torch.tensor([prompts[at].ids for at in chunk], device=memory_BPW.device)
        found = continuations(
            decoder, memory_BPW, prefix_BT, end=end, beams=beams, forbidden=forbidden
        )
        for at, ids in zip(chunk, found, strict=True):
            written[at] = ids
    return written


@torch.no_grad()
def weigh(decoder: TextDecoder, visual: Visual, passages: Sequence[Passage]) -> list[float]:
    """The log-likelihood of each passage behind its prefix."""
    decoder.eval()
    found: list[float] = []
    for start in range(0, len(passages), BATCH):
        chunk = passages[start : start + BATCH]
        memory_BPW = _memory(decoder, visual, chunk)
        found += log_likelihoods(decoder, memory_BPW, _renumbered(chunk)).tolist()
    return found


def passage_losses(decoder: TextDecoder, visual: Visual, batch: Sequence[Passage]) -> Tensor:
    """The negative log-likelihoods (nats) of all learnt tokens of a batch, one after another."""
    memory_BPW = _memory(decoder, visual, batch)
    return next_token_losses(decoder, *stacked(batch, memory_BPW.device), memory_BPW)


def _memory(decoder: TextDecoder, visual: Visual, passages: Sequence[Passage]) -> Tensor:
    """Row by row, each passage's image."""
    return decoder.memory(visual.tokens([p.image for p in passages]), visual.grid)


def _by_length(prompts: Sequence[Passage]) -> Iterator[list[int]]:
    """Numbers of prompts of one length, some at a time."""
    groups: dict[int, list[int]] = {}
    for at, prompt in enumerate(prompts):
        groups.setdefault(len(prompt.ids), []).append(at)
    for group in groups.values():
        yield from (group[i : i + BATCH] for i in range(0, len(group), BATCH))


def _renumbered(passages: Sequence[Passage]) -> list[Passage]:
    return [Passage(image=k, ids=p.ids, prefix=p.prefix) for k, p in enumerate(passages)]
