"""What a trained decoder writes about an image, and how likely it holds a given text.

Shape letters: B rows, T tokens, P visual tokens, W the decoder's width, V vocabulary, K beams,
C choices.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from medvlp.encoding import ImageFeatures
from medvlp.errors import InputError
from medvlp.losses.fusion.decoder import TextDecoder, next_token_losses
from medvlp.models.language import Language


@dataclass(frozen=True, kw_only=True)
class Passage:
    """One text to learn, to weigh or to go on from."""

    image: int
    """The image's row."""

    ids: tuple[int, ...]
    prefix: int = 1
    """How many tokens at the beginning are given."""


class Scribe:
    """A decoder with its language.

    Args:
        decoder: A trained decoder.
        tokenizer: The one that it was trained with.
    """

    def __init__(self, decoder: TextDecoder, tokenizer: Any) -> None:
        self.decoder = decoder
        self.language = Language(tokenizer, decoder.config.max_tokens)

    def write(
        self,
        images: Iterable[ImageFeatures],
        prompt: str = "",
        beams: int = 1,
        max_tokens: int | None = None,
    ) -> list[str]:
        """A report about each image, behind its first words.

        Args:
            images: An image tower's output, batch by batch.
            prompt: The report's first words, which are not repeated; none if empty.
            beams: Unfinished texts that are kept; 1 takes the likeliest token each time.
            max_tokens: The most tokens to write; as many as the decoder takes if None.
        """
        start = self.language.start(opening=prompt)
        return [text for f in images for text in self._go_on(f, start, beams, max_tokens)]

    def answer(
        self,
        images: Iterable[ImageFeatures],
        question: str,
        choices: Sequence[str] | None = None,
        beams: int = 1,
    ) -> list[str]:
        """An answer about each image: the likeliest of `choices`, or free words without any.

        Raises:
            InputError: There is nothing to choose from.
        """
        start = self.language.start(question)
        if choices is None:
            return [text for f in images for text in self._go_on(f, start, beams, None)]
        if not choices:
            raise InputError("no choice to answer with", remedy="give some, or leave choices out")
        return [text for f in images for text in self._choose(f, start, choices)]

    @torch.inference_mode()
    def _go_on(
        self, features: ImageFeatures, start: Sequence[int], beams: int, most: int | None
    ) -> list[str]:
        memory_BPW = self.decoder.look(features)
        prefix_BT = torch.tensor([start], device=memory_BPW.device).expand(len(memory_BPW), -1)
        found = continuations(
            self.decoder,
            memory_BPW,
            prefix_BT,
            end=self.language.end,
            beams=beams,
            forbidden=self.language.forbidden,
            most=most,
        )
        return [self.language.text(ids) for ids in found]

    @torch.inference_mode()
    def _choose(
        self, features: ImageFeatures, start: Sequence[int], choices: Sequence[str]
    ) -> list[str]:
        options = [self.language.after(start, choice) for choice in choices]
        chosen = []
        for memory_PW in self.decoder.look(features):
            passages = [Passage(image=0, ids=ids, prefix=len(start)) for ids in options]
            likelihood_C = log_likelihoods(self.decoder, memory_PW[None], passages)
            chosen.append(choices[int(likelihood_C.argmax())])
        return chosen


def log_likelihoods(
    decoder: TextDecoder, memory_BPW: Tensor, passages: Sequence[Passage]
) -> Tensor:
    """Log-likelihood (nats) of each passage behind its prefix, its end included.

    Args:
        decoder: A trained decoder.
        memory_BPW: Of the images.
        passages: The texts.
    """
    ids_BT, learnt_BT = stacked(passages, memory_BPW.device)
    rows = [passage.image for passage in passages]
    loss_X = next_token_losses(decoder, ids_BT, learnt_BT, memory_BPW[rows])
    row_X = learnt_BT.nonzero()[:, 0]
    return loss_X.new_zeros(len(passages)).index_add(0, row_X, -loss_X)


def stacked(passages: Sequence[Passage], device: torch.device) -> tuple[Tensor, Tensor]:
    """Passages as ids (B,T), padded with zeros, and True where a token is behind the prefix."""
    ids = [torch.tensor(passage.ids) for passage in passages]
    learnt = [torch.arange(len(passage.ids)) >= passage.prefix for passage in passages]
    return (
        pad_sequence(ids, batch_first=True).to(device),
        pad_sequence(learnt, batch_first=True).to(device),
    )


@torch.no_grad()
def continuations(
    decoder: TextDecoder,
    memory_BPW: Tensor,
    prefix_BT: Tensor,
    *,
    end: int,
    beams: int = 1,
    forbidden: Sequence[int] = (),
    most: int | None = None,
) -> list[list[int]]:
    """The likeliest continuation of each prefix by beam search, without the prefix and the end.

    Args:
        decoder: A trained decoder.
        memory_BPW: Of each row's image.
        prefix_BT: What is given.
        end: The token that ends a text.
        beams: 1 takes the likeliest token each time; more keep so many unfinished texts and
            compare them by their mean log-likelihood.
        forbidden: Tokens that no text holds, such as padding.
        most: The most tokens to write; as many as the decoder takes if None.
    """
    count, start = prefix_BT.shape
    room = decoder.config.max_tokens - start
    ids_BKT = prefix_BT[:, None].repeat(1, beams, 1)
    memory_KPW = memory_BPW.repeat_interleave(beams, 0)
    # At first all beams are the same: only one of them may go on.
    score_BK = torch.full((count, beams), -torch.inf, device=prefix_BT.device)
    score_BK[:, 0] = 0
    done_BK = torch.zeros(count, beams, dtype=torch.bool, device=prefix_BT.device)
    length_BK = torch.zeros_like(score_BK)
    for _ in range(room if most is None else min(most, room)):
        logits = decoder(ids_BKT.flatten(0, 1), memory_KPW)[:, -1].float()
        logits[:, list(forbidden)] = -torch.inf
        step_BKV = F.log_softmax(logits, dim=-1).view(count, beams, -1)
        size = step_BKV.shape[-1]
        # A finished text goes on with its end alone, at no cost.
        only_end = torch.full((size,), -torch.inf, device=step_BKV.device)
        only_end[end] = 0
        step_BKV = torch.where(done_BK[..., None], only_end, step_BKV)
        longer_BK = length_BK + ~done_BK
        total_BKV = score_BK[..., None] + step_BKV
        ranked = (total_BKV / longer_BK.clamp(min=1)[..., None]).flatten(1)
        chosen_BK = ranked.topk(beams, dim=1).indices
        beam_BK, token_BK = chosen_BK // size, chosen_BK % size
        score_BK = total_BKV.flatten(1).gather(1, chosen_BK)
        length_BK = longer_BK.gather(1, beam_BK)
        done_BK = done_BK.gather(1, beam_BK) | (token_BK == end)
        kept = ids_BKT.gather(1, beam_BK[..., None].expand(-1, -1, ids_BKT.shape[-1]))
        ids_BKT = torch.cat([kept, token_BK[..., None]], dim=-1)
        if done_BK.all():
            break
    best_B = (score_BK / length_BK.clamp(min=1)).argmax(1)
    chosen = ids_BKT[torch.arange(count), best_B, start:].tolist()
    return [ids[: ids.index(end)] if end in ids else ids for ids in chosen]
