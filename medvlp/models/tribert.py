"""One BERT that reads a text at three levels: as a whole, sentence by sentence, word by word.

TriBERT of VELVET-Med (arXiv:2508.12108): a token stands before each sentence and sees its own
sentence alone; the text's first token and the words see everything.

Shape letters: M texts, T tokens, S sentences, D width.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from transformers import AutoModel, BertModel
from transformers.modeling_layers import GradientCheckpointingLayer

from medvlp.config import STRICT
from medvlp.encoding import TextEncoder, TextFeatures, sentence_numbers
from medvlp.errors import ConfigError
from medvlp.models.backbone import bert_config, check_bert, check_text, described, portable
from medvlp.models.pooling import never_blank
from medvlp.models.pretrained import load_pretrained
from medvlp.models.recompute import recompute_blocks

Count = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TribertConfig:
    """A BERT (arXiv:1810.04805) over marked sentences (``data.texts.mark_sentences``)."""

    cache: ClassVar[bool] = False
    """Not to be served from memory: what it is for are sentences and words."""

    kind: Literal["tribert"] = "tribert"
    width: int = 256
    depth: int = 4
    heads: int = 4
    max_tokens: int = 512
    max_sentences: Count = 50
    """Of texts with more, training leaves some out, drawn anew each epoch; what is read otherwise
    loses its last ones."""

    dropout: float = 0.0
    pretrained: str | None = None
    """A local folder of a BERT in the form of transformers; it then decides width, depth and
    heads, and the tokenizer must be that folder's own. The mark before sentences starts as the
    mean of all tokens, and every sentence's number as the folder's first segment."""

    checkpoint_activations: bool = False
    """As `TextTowerConfig.checkpoint_activations`."""

    architecture: dict[str, Any] | None = None
    """What `pretrained` decided; a bundle carries it in place of the folder's name."""

    def __post_init__(self) -> None:
        check_bert(self.width, self.heads, self.dropout)

    def build(self, vocab_size: int, pad_id: int, sentence_id: int | None = None) -> TextEncoder:
        """The tower for a tokenizer of `vocab_size` tokens.

        Raises:
            ConfigError: The tokenizer marks no sentences, or a pretrained folder cannot be used,
                or knows fewer tokens, positions or sentences than asked for.
        """
        if sentence_id is None:
            raise ConfigError(
                "text tower tribert: the tokenizer marks no sentences",
                remedy="set data.texts.mark_sentences=true",
            )
        options: dict[str, Any] = {"attn_implementation": "sdpa", "add_pooling_layer": False}
        if self.pretrained:
            backbone: Any = load_pretrained(BertModel, self.pretrained, **options)
            _enlarge(backbone, vocab_size, self.max_sentences)
        else:
            own = self._config(vocab_size, pad_id)
            backbone = AutoModel.from_config(own, **options)  # type: ignore[no-untyped-call]
        check_text(backbone, vocab_size, self.max_tokens)
        if backbone.config.type_vocab_size <= self.max_sentences:
            raise ConfigError(
                f"text.max_sentences is {self.max_sentences}, the text tower numbers "
                f"{backbone.config.type_vocab_size - 1}",
                remedy=f"set text.max_sentences to {backbone.config.type_vocab_size - 1}",
            )
        return _Tribert(backbone, self, sentence_id)

    def _config(self, vocab_size: int, pad_id: int) -> Any:
        if self.architecture:
            return described(self.architecture, "bert")
        return bert_config(self, vocab_size, pad_id, type_vocab_size=self.max_sentences + 1)


def sentence_mask(ids_MT: Tensor, mask_MT: Tensor, sentence_id: int) -> Tensor:
    """Which token (second) each token (first) attends to (M,T,T).

    The mark of a sentence attends to what stands before the first sentence, the text's beginning,
    and to its own sentence, itself included. All other tokens attend to every real one.

    Args:
        ids_MT: Token ids.
        mask_MT: True where a token is real.
        sentence_id: The mark.
    """
    number_MT = sentence_numbers(ids_MT, mask_MT, sentence_id)
    free_MT = ~mask_MT | (ids_MT != sentence_id)
    own_MTT = (number_MT[:, None] == number_MT[:, :, None]) | (number_MT[:, None] == 0)
    return mask_MT[:, None] & (free_MT[:, :, None] | own_MTT)


class _Tribert(TextEncoder):
    def __init__(self, backbone: Any, config: TribertConfig, sentence_id: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.width = backbone.config.hidden_size
        self.max_tokens = config.max_tokens
        self.max_sentences: int = config.max_sentences
        self._sentence_id = sentence_id
        if config.checkpoint_activations:
            recompute_blocks(backbone, GradientCheckpointingLayer)
        self.portable = portable(config, backbone)

    def forward(self, ids_MT: Tensor, mask_MT: Tensor) -> TextFeatures:
        seen_MT = never_blank(mask_MT)
        number_MT = sentence_numbers(ids_MT, seen_MT, self._sentence_id)
        tokens_MTD: Tensor = self.backbone(
            input_ids=ids_MT,
            attention_mask=sentence_mask(ids_MT, seen_MT, self._sentence_id)[:, None],
            # Whoever gives more sentences than the tower counts has the rest counted as the last.
            token_type_ids=number_MT.clamp(max=self.max_sentences),
        ).last_hidden_state
        return TextFeatures(
            pooled_MD=tokens_MTD[:, 0],
            tokens_MTD=tokens_MTD,
            sentence_MSD=self._sentences(tokens_MTD, number_MT),
        )

    def _sentences(self, tokens_MTD: Tensor, number_MT: Tensor) -> Tensor:
        """The mean of each sentence's mark and words (M,S,D); zero where there is none."""
        number_S1 = torch.arange(1, self.max_sentences + 1, device=number_MT.device)[:, None]
        part_MST = (number_MT[:, None] == number_S1).to(tokens_MTD.dtype)
        return part_MST @ tokens_MTD / part_MST.sum(2, keepdim=True).clamp(min=1)


def _enlarge(backbone: Any, vocab_size: int, sentences: int) -> None:
    """Room for the mark, where the vocabulary has none left, and for the sentences' numbers."""
    embeddings, config = backbone.embeddings, backbone.config
    word_VD = embeddings.word_embeddings.weight.detach()
    if vocab_size == len(word_VD) + 1:
        grown_VD = torch.cat([word_VD, word_VD.mean(0, keepdim=True)])
        embeddings.word_embeddings = _table(grown_VD, embeddings.word_embeddings.padding_idx)
        config.vocab_size = vocab_size
    segment_XD = embeddings.token_type_embeddings.weight.detach()
    if len(segment_XD) <= sentences:
        embeddings.token_type_embeddings = _table(segment_XD[:1].repeat(sentences + 1, 1))
        config.type_vocab_size = sentences + 1


def _table(weight_VD: Tensor, padding_idx: int | None = None) -> nn.Embedding:
    table = nn.Embedding(len(weight_VD), weight_VD.shape[1], padding_idx=padding_idx)
    table.weight = nn.Parameter(weight_VD)
    return table
