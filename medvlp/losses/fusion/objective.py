"""The objective `fusion`: one decoder that judges, writes, answers and restores words."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.data.batch import Batch, TokenIds
from medvlp.encoding import Encodings, Sizes
from medvlp.errors import ConfigError
from medvlp.losses.contrastive import widened
from medvlp.losses.fusion.decoder import DecoderConfig, TextDecoder, next_token_losses
from medvlp.losses.fusion.masking import Masker
from medvlp.losses.fusion.matching import barred_pairs, draw_pairs
from medvlp.losses.fusion.questions import LabelQuestions, QuestionWords
from medvlp.losses.objective import Objective, share

Weight = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FusionConfig:
    """Image-text matching, report writing, answering and restoring words by one decoder.

    After BLIP (arXiv:2201.12086) and MISS (arXiv:2401.05163), whose contrastive third is the
    objective `clip` or `siglip` beside it. Departures: all of the decoder's weights serve all
    purposes, also those of self-attention; a pair is judged from the text tower's own tokens, so
    that matching trains both towers; no momentum encoder, no queue, no label smoothing; answers
    are learnt with the rest, from questions about labels.
    """

    NEEDS_GRID: ClassVar[str] = "attends to patches"
    NEEDS_PLACES: ClassVar[str] = "learns where each patch lies"

    kind: Literal["fusion"] = "fusion"
    weight: float = 1.0
    matching: Weight = 1.0
    """Weight of telling right from wrong pairs. Partners are drawn from the device's own samples,
    of other patients, other words and another vector of labels."""

    writing: Weight = 1.0
    """Weight of the next token of the batch's texts."""

    answering: Weight = 0.0
    """Weight of the answers to questions about the batch's labels, one a sample and step."""

    masking: Weight = 0.0
    """Weight of restoring words that were hidden from the text tower, which reads the altered
    texts once more: not with ``trainer.micro_batch``."""

    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the words' tokens that are hidden, as by `MaskedTextConfig.fraction`."""

    questions: QuestionWords = QuestionWords()
    decoder: DecoderConfig = DecoderConfig()

    def __post_init__(self) -> None:
        if not self.matching + self.writing + self.answering + self.masking:
            raise ValueError("matching, writing, answering and masking have no weight")

    @property
    def reads_tokens(self) -> str | None:
        """Why the text tower cannot serve it from memory, if it cannot."""
        if self.matching or self.masking:
            return "reads texts' tokens in matching and masking"
        return None

    def build(self, sizes: Sizes) -> Objective:
        """The objective with its decoder.

        Raises:
            ConfigError: What is written would have no beginning and end, there is no mask token
                for `masking`, or `answering` finds no label.
        """
        tokens = sizes.tokens
        if tokens is None or (self.writing + self.answering and not _marks_ends(tokens)):
            raise ConfigError(
                "objective fusion: the tokenizer does not put marks around a text",
                remedy="use a tokenizer that does, such as one trained on the reports, without "
                "data.texts.mark_sentences; or set writing=0 and answering=0",
            )
        if self.masking and tokens.mask is None:
            raise ConfigError(
                "objective fusion: the tokenizer has no mask token",
                remedy="use a tokenizer with a mask_token, or set masking=0",
            )
        return (RestoringObjective if self.masking else FusionObjective)(self, sizes, tokens)


class FusionObjective(Objective):
    """The weighted sum of three means: over pairs, over texts' tokens, over answers' tokens.

    `RestoringObjective` adds the fourth.

    Matching needs partners, and what it shares with writing is the decoder: so all of it is of
    scope ``batch``. Under cached gradients the towers go by micro-batches, the decoder does not.
    """

    scope: ClassVar[Literal["batch", "sample"]] = "batch"
    reads: ClassVar[frozenset[str]] = frozenset(
        {"image", "image_BE", "text_BNE", "token_BNTE", "scale", "text_BNT", "text_mask_BNT",
         "labels_BL", "patient_B", "told_BNQ"}
    )  # fmt: skip

    def __init__(self, config: FusionConfig, sizes: Sizes, tokens: TokenIds) -> None:
        super().__init__()
        self.config = config
        self.decoder = TextDecoder(config.decoder, tokens.count, sizes.image)
        self.matcher = Matcher(config.decoder.width, sizes.embed) if config.matching else None
        self.questions = None
        if config.answering:
            longest = config.decoder.max_tokens
            self.questions = LabelQuestions(config.questions, sizes.labels, tokens, longest)

    @property
    def writes(self) -> bool:
        """Whether the decoder learns to write."""
        return bool(self.config.writing or self.config.answering)

    def forward(self, encodings: Encodings, batch: Batch) -> Tensor:
        """The value over all ranks."""
        return self._terms(encodings, batch, self.decoder.look(encodings.image))

    def _terms(self, encodings: Encodings, batch: Batch, memory_BPW: Tensor) -> Tensor:
        # A batch without texts still depends on the image tower's weights.
        loss = 0.0 * widened(memory_BPW).sum()
        if self.matcher is not None:
            loss = loss + self.config.matching * self._matching(
                self.matcher, encodings, batch, memory_BPW
            )
        if self.config.writing:
            loss = loss + self.config.writing * self._writing(batch, memory_BPW)
        if self.questions is not None:
            loss = loss + self.config.answering * self._answering(self.questions, batch, memory_BPW)
        return loss

    def _matching(
        self, matcher: Matcher, encodings: Encodings, batch: Batch, memory_BPW: Tensor
    ) -> Tensor:
        """Mean cross-entropy of right and wrong pairs."""
        longest = self.config.decoder.max_tokens - 1
        present_BN = batch.text_mask_BNT.any(2)
        pairs = draw_pairs(
            encodings.image_BE.detach(),
            encodings.text_BNE[present_BN].detach(),
            present_BN.nonzero()[:, 0],
            barred_pairs(batch),
            encodings.scale.detach(),
        )
        logit_K = matcher(
            self.decoder,
            encodings.token_BNTE[present_BN][pairs.text_K, :longest],
            batch.text_mask_BNT[present_BN][pairs.text_K, :longest],
            memory_BPW[pairs.image_K],
        )
        loss_K = F.binary_cross_entropy_with_logits(
            logit_K, pairs.right_K.to(logit_K.dtype), reduction="none"
        )
        return _mean(loss_K)

    def _writing(self, batch: Batch, memory_BPW: Tensor) -> Tensor:
        """Mean negative log-likelihood of the texts' tokens after the first."""
        longest = self.config.decoder.max_tokens
        present_BN = batch.text_mask_BNT.any(2)
        return _mean(
            next_token_losses(
                self.decoder,
                batch.text_BNT[present_BN][:, :longest],
                batch.text_mask_BNT[present_BN][:, :longest],
                memory_BPW[present_BN.nonzero()[:, 0]],
            )
        )

    def _answering(self, questions: LabelQuestions, batch: Batch, memory_BPW: Tensor) -> Tensor:
        """Mean negative log-likelihood of the answers' tokens."""
        row_K, ids_KT, learnt_KT = questions.draw(batch.labels_BL)
        return _mean(next_token_losses(self.decoder, ids_KT, learnt_KT, memory_BPW[row_K]))


class RestoringObjective(FusionObjective):
    """With the mean over hidden words, for which it reads altered texts."""

    reads: ClassVar[frozenset[str]] = FusionObjective.reads | {"read"}

    def __init__(self, config: FusionConfig, sizes: Sizes, tokens: TokenIds) -> None:
        super().__init__(config, sizes, tokens)
        self.masker = Masker(config.decoder.width, sizes.text, config.fraction, tokens)

    def _terms(self, encodings: Encodings, batch: Batch, memory_BPW: Tensor) -> Tensor:
        restored_K = self.masker(self.decoder, encodings, batch, memory_BPW)
        rest = super()._terms(encodings, batch, memory_BPW)
        return rest + self.config.masking * _mean(restored_K)


class Matcher(nn.Module):
    """Judges pairs through the decoder's layers, from a token of its own before the text.

    Args:
        width: The decoder's.
        embed: Of the text tokens.
    """

    def __init__(self, width: int, embed: int) -> None:
        super().__init__()
        self.first = nn.Parameter(0.02 * torch.randn(width))
        self.text = nn.Linear(embed, width)
        self.text_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)

    def forward(
        self, decoder: TextDecoder, token_KTE: Tensor, mask_KT: Tensor, memory_KPW: Tensor
    ) -> Tensor:
        """Logit (K,) that image and text belong together, in float32 or better."""
        word_KTW = self.text_norm(self.text(token_KTE))
        first_K1W = self.first.to(word_KTW.dtype).expand(len(word_KTW), 1, -1)
        mask_KT = F.pad(mask_KT, (1, 0), value=True)
        hidden_KTW = decoder.both_ways(torch.cat([first_K1W, word_KTW], 1), mask_KT, memory_KPW)
        return widened(self.head(hidden_KTW[:, 0])[:, 0])


def _mean(loss_K: Tensor) -> Tensor:
    """The mean over all ranks' terms, once it is averaged over ranks; 0 for none."""
    count = torch.tensor(len(loss_K), device=loss_K.device)
    return share(count) * loss_K.sum()


def _marks_ends(tokens: TokenIds) -> bool:
    if tokens.encode is None or None in (tokens.begin, tokens.end):
        return False
    ids = tokens.encode(["a"])[0][0].tolist()
    return bool(ids[0] == tokens.begin and ids[-1] == tokens.end)
