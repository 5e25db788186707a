"""A small transformer decoder that writes text about an image, and its decoding.

The decoder attends to an image's patch tokens (Vaswani et al. 2017, arXiv:1706.03762, with the
encoder's side replaced by the image) and is trained by teacher forcing. A sequence may begin with
a prefix that is given and not learnt: a question.

Shape letters: B batch, T tokens, V vocabulary, P visual tokens, D the image tower's width, W the
decoder's width, K beams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.evaluate.heads.visual import Visual
from medvlp.progress import track

Count = Annotated[int, Field(gt=0)]
IGNORED = -100
"""Target of a token that is not learnt."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DecoderConfig:
    """Size of the decoder, the same for every model."""

    depth: Count = 3
    width: Count = 192
    heads: Count = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    max_tokens: Annotated[int, Field(gt=2)] = 128
    """Longest text, its prefix and end included; longer ones are cut."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")


@plain_dataclass(frozen=True, kw_only=True)
class Passage:
    """One text to learn or to go on from."""

    image: int
    """The image's row in `Visual`."""

    ids: tuple[int, ...]
    prefix: int = 1
    """How many tokens at the beginning are given."""


class TextDecoder(nn.Module):
    """Next tokens from earlier ones and an image.

    Args:
        config: Sizes.
        vocabulary: V.
        visual: (P, D) of the visual tokens.
    """

    def __init__(self, config: DecoderConfig, vocabulary: int, visual: tuple[int, int]) -> None:
        super().__init__()
        self.config = config
        self.token = nn.Embedding(vocabulary, config.width)
        self.place = nn.Parameter(0.02 * torch.randn(config.max_tokens, config.width))
        # Tokens of a convolutional tower do not know where they are.
        self.visual_place = nn.Parameter(0.02 * torch.randn(visual[0], config.width))
        self.visual = nn.Linear(visual[1], config.width)
        self.visual_norm = nn.LayerNorm(config.width)
        layer = nn.TransformerDecoderLayer(
            config.width, config.heads, 4 * config.width, config.dropout, "gelu",
            batch_first=True, norm_first=True,
        )  # fmt: skip
        self.layers = nn.TransformerDecoder(layer, config.depth, nn.LayerNorm(config.width))
        nn.init.normal_(self.token.weight, std=0.02)

    def forward(self, ids_BT: Tensor, visual_BPD: Tensor) -> Tensor:
        """Logits (B,T,V) of the token after each one."""
        length = ids_BT.shape[1]
        token_BTW = self.token(ids_BT) + self.place[:length]
        memory_BPW = self.visual_norm(self.visual(visual_BPD)) + self.visual_place
        ahead_TT = torch.ones(length, length, dtype=torch.bool, device=ids_BT.device).triu(1)
        hidden_BTW = self.layers(token_BTW, memory_BPW, tgt_mask=ahead_TT)
        # Input and output share their embedding (Press & Wolf 2017, arXiv:1608.05859).
        logits: Tensor = hidden_BTW @ self.token.weight.T
        return logits


@torch.no_grad()
def write(
    decoder: TextDecoder,
    visual: Visual,
    prompts: Sequence[Passage],
    *,
    end: int,
    beams: int = 1,
    batch_size: int = 32,
    forbidden: Sequence[int] = (),
    label: str = "writing",
) -> list[list[int]]:
    """The most likely continuation of each prefix, without the prefix and the end.

    Args:
        decoder: A trained decoder.
        visual: The images.
        prompts: Their `ids` are the prefixes.
        end: The token that ends a text.
        beams: 1 takes the likeliest token each time; more keep so many unfinished texts and
            compare them by their mean log-likelihood.
        batch_size: Texts at a time.
        forbidden: Tokens that no text holds, such as padding.
        label: For the progress bar.
    """
    decoder.eval()
    by_length: dict[int, list[int]] = {}
    for at, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt.ids), []).append(at)
    chunks = [
        group[i : i + batch_size]
        for group in by_length.values()
        for i in range(0, len(group), batch_size)
    ]
    written: list[list[int]] = [[] for _ in prompts]
    for chunk in track(chunks, label):
        visual_BPD = visual.tokens([prompts[at].image for at in chunk])
        prefix_BT = torch.tensor([prompts[at].ids for at in chunk], device=visual_BPD.device)
        for at, ids in zip(
            chunk, _beam(decoder, visual_BPD, prefix_BT, end, beams, forbidden), strict=True
        ):
            written[at] = ids
    return written


def _beam(
    decoder: TextDecoder,
    visual_BPD: Tensor,
    prefix_BT: Tensor,
    end: int,
    beams: int,
    forbidden: Sequence[int],
) -> list[list[int]]:
    """Beam search over one batch; with one beam, greedy decoding."""
    count, start = prefix_BT.shape
    ids_BKT = prefix_BT[:, None].repeat(1, beams, 1)
    visual_KPD = visual_BPD.repeat_interleave(beams, 0)
    # At first all beams are the same: only one of them may go on.
    score_BK = torch.full((count, beams), -torch.inf, device=prefix_BT.device)
    score_BK[:, 0] = 0
    done_BK = torch.zeros(count, beams, dtype=torch.bool, device=prefix_BT.device)
    length_BK = torch.zeros_like(score_BK)
    for _ in range(decoder.config.max_tokens - start):
        logits = decoder(ids_BKT.flatten(0, 1), visual_KPD)[:, -1].float()
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


def passage_losses(decoder: TextDecoder, visual: Visual, batch: Sequence[Passage]) -> Tensor:
    """The negative log-likelihoods (nats) of all learnt tokens of a batch, one after another."""
    visual_BPD = visual.tokens([text.image for text in batch])
    longest = max(len(text.ids) for text in batch)
    ids_BT = torch.zeros(len(batch), longest, dtype=torch.long)
    target_BT = torch.full_like(ids_BT, IGNORED)
    for row, text in enumerate(batch):
        ids = torch.tensor(text.ids)
        ids_BT[row, : len(ids)] = ids
        target_BT[row, text.prefix : len(ids)] = ids[text.prefix :]
    ids_BT, target_BT = ids_BT.to(visual_BPD.device), target_BT.to(visual_BPD.device)
    logits_BTV = decoder(ids_BT[:, :-1], visual_BPD)
    learnt = target_BT[:, 1:] != IGNORED
    return F.cross_entropy(logits_BTV[learnt].float(), target_BT[:, 1:][learnt], reduction="none")
