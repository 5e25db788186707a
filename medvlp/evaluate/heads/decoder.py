"""A small transformer decoder that writes text about an image, its training and its decoding.

The decoder attends to an image's patch tokens (Vaswani et al. 2017, arXiv:1706.03762, with the
encoder's side replaced by the image) and is trained by teacher forcing. A sequence may begin with
a prefix that is given and not learnt: a question.

Shape letters: B batch, T tokens, V vocabulary, P visual tokens, D the image tower's width, W the
decoder's width, K beams.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.data.randomness import generator
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


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Budget:
    """How long and how fast is learnt: the same for every model, control and seed."""

    steps: Count = 1000
    batch_size: Count = 16
    lr: Annotated[float, Field(gt=0)] = 5e-4
    encoder_lr: Annotated[float, Field(gt=0)] = 1e-5
    """Of the image tower, where it is tuned."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    valid_every: Count = 100
    """Steps between looks at the validation split; the weights with the least loss there win."""


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


def fit(
    decoder: TextDecoder,
    visual: Visual,
    train: Sequence[Passage],
    valid: Sequence[Passage],
    budget: Budget,
    *,
    seed: int,
    label: str,
) -> float:
    """Train in place, and leave the weights that were best on validation; their loss there.

    Args:
        decoder: The decoder, on its device.
        visual: The images of both splits; a tuned tower learns along.
        train: What is learnt.
        valid: What chooses the weights.
        budget: Steps and rates.
        seed: Of the order of the batches and of dropout.
        label: For the progress bar.
    """
    own, tower = list(decoder.parameters()), visual.learns
    groups = [{"params": own, "lr": budget.lr}, {"params": tower, "lr": budget.encoder_lr}]
    optimizer = torch.optim.AdamW(groups[: 1 + bool(tower)], weight_decay=budget.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, budget))
    best, kept = float("inf"), _state(decoder, visual)
    batches = _batches(train, budget, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for step in track(range(1, budget.steps + 1), label):
            decoder.train()
            loss = _loss(decoder, visual, next(batches)).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_([*own, *tower], 1.0)
            optimizer.step()
            schedule.step()
            if step % budget.valid_every == 0 or step == budget.steps:
                found = mean_loss(decoder, visual, valid, budget.batch_size)
                if found < best:
                    best, kept = found, _state(decoder, visual)
    decoder.load_state_dict(kept[0])
    visual.restore(kept[1])
    decoder.eval()
    return best


@torch.no_grad()
def mean_loss(
    decoder: TextDecoder, visual: Visual, texts: Sequence[Passage], batch_size: int
) -> float:
    """Negative log-likelihood per learnt token, in nats."""
    decoder.eval()
    parts = [
        _loss(decoder, visual, texts[i : i + batch_size]) for i in range(0, len(texts), batch_size)
    ]
    return float(torch.cat(parts).mean())


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


def _loss(decoder: TextDecoder, visual: Visual, batch: Sequence[Passage]) -> Tensor:
    """The losses of all learnt tokens of a batch, one after another."""
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


def _batches(train: Sequence[Passage], budget: Budget, seed: int) -> Iterator[Sequence[Passage]]:
    epoch = 0
    while True:
        order = generator(seed, epoch, "texts", "decoder").permutation(len(train))
        for i in range(0, len(order), budget.batch_size):
            yield [train[at] for at in order[i : i + budget.batch_size]]
        epoch += 1


def _rate(step: int, budget: Budget) -> float:
    """Warm-up, then a straight line to a tenth."""
    if step < budget.warmup_steps:
        return (step + 1) / budget.warmup_steps
    left = (budget.steps - step) / max(budget.steps - budget.warmup_steps, 1)
    return 0.1 + 0.9 * max(left, 0.0)


def _state(decoder: TextDecoder, visual: Visual) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return copy.deepcopy(decoder.state_dict()), visual.state()
