"""The text tower: a BERT-type encoder, small from scratch or from any local folder."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor
from transformers import AutoModel
from transformers.modeling_layers import GradientCheckpointingLayer

from medvlp.config import STRICT
from medvlp.encoding import TextEncoder, TextFeatures
from medvlp.models.backbone import bert_config, check_bert, check_text, portable
from medvlp.models.clip import ClipTextConfig
from medvlp.models.no_text import NoTextConfig
from medvlp.models.pooling import AttentionPool, last_token, masked_mean, never_blank
from medvlp.models.pretrained import from_description, load_pretrained
from medvlp.models.recompute import recompute_blocks
from medvlp.models.siglip import SiglipTextConfig
from medvlp.models.tribert import TribertConfig


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TextTowerConfig:
    """A BERT (arXiv:1810.04805), or whatever encoder a local folder holds.

    A Longformer (arXiv:2004.05150) reads texts beyond 512 tokens; no token of it sees them all.
    """

    kind: Literal["bert"] = "bert"
    width: int = 256
    depth: int = 4
    heads: int = 4
    pool: Literal["cls", "mean", "last", "attention"] = "mean"
    """The vector of the first or of the last real token, or the mean over a text's real ones.
    ``attention``: the mean token asks all, with as many heads as the BERT has (COLIPRI)."""

    layers: tuple[int, ...] = (-1,)
    """The layers whose outputs are averaged, 0 being the embeddings and -1 the last layer."""

    max_tokens: int = 128
    dropout: float = 0.0
    pretrained: str | None = None
    """A local folder of a transformers encoder; it then decides the architecture, and the
    tokenizer must be that folder's own."""

    cache: bool = False
    """Where the tower is frozen (``optim.freeze: [{part: text}]``), read each text once in a run
    and keep its pooled vector in the host's memory, width times four bytes a text; not for
    objectives that look at the text's tokens."""

    checkpoint_activations: bool = False
    """In training, keep each block's input alone and compute the block twice: less memory, about
    a third more time, the same gradient (arXiv:1604.06174)."""

    architecture: dict[str, Any] | None = None
    """What `pretrained` decided; a bundle carries it in place of the folder's name."""

    def __post_init__(self) -> None:
        check_bert(self.width, self.heads, self.dropout)

    def build(self, vocab_size: int, pad_id: int, sentence_id: int | None = None) -> TextEncoder:
        """The tower for a tokenizer of `vocab_size` tokens; it tells no sentences apart.

        Raises:
            ConfigError: A pretrained folder that cannot be used, or that knows fewer tokens or
                positions than asked for.
        """
        if self.pretrained:
            backbone: Any = load_pretrained(AutoModel, self.pretrained)
        else:
            own = self._config(vocab_size, pad_id)
            backbone = AutoModel.from_config(own)  # type: ignore[no-untyped-call]
        _drop_unread(backbone)
        check_text(backbone, vocab_size, self.max_tokens)
        return _TransformerText(backbone, self)

    def _config(self, vocab_size: int, pad_id: int) -> Any:
        if self.architecture:
            return from_description(self.architecture)
        return bert_config(self, vocab_size, pad_id)


CORE_TEXT_TOWERS: dict[str, type] = {
    "bert": TextTowerConfig,
    "tribert": TribertConfig,
    "clip-text": ClipTextConfig,
    "none": NoTextConfig,
    "siglip-text": SiglipTextConfig,
}
"""Text towers by `kind`."""


def _drop_unread(backbone: Any) -> None:
    # Weights without a gradient, at which data-parallel training stops: BERT's pooler, and the
    # Longformer's for tokens that all others see, of which there are none here.
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None
    for name, weight in backbone.named_parameters():
        if name.split(".")[-2].endswith("_global"):
            weight.requires_grad_(False)


class _TransformerText(TextEncoder):
    def __init__(self, backbone: Any, config: TextTowerConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.width = backbone.config.hidden_size
        self.max_tokens = config.max_tokens
        self._pool = config.pool
        self._layers = config.layers
        if config.pool == "attention":
            self.pooler = AttentionPool(self.width, backbone.config.num_attention_heads)
        if config.checkpoint_activations:
            recompute_blocks(backbone, GradientCheckpointingLayer)
        self.portable = portable(config, backbone)

    def forward(self, ids_MT: Tensor, mask_MT: Tensor) -> TextFeatures:
        seen_MT = never_blank(mask_MT)
        tokens_MTD = self._tokens(ids_MT, seen_MT)
        if self._pool == "cls":
            pooled_MD = tokens_MTD[:, 0]
        elif self._pool == "last":
            pooled_MD = last_token(tokens_MTD, seen_MT)
        elif self._pool == "attention":
            pooled_MD, tokens_MTD = self.pooler(tokens_MTD, seen_MT)
        else:
            pooled_MD = masked_mean(tokens_MTD, seen_MT)
        return TextFeatures(pooled_MD=pooled_MD, tokens_MTD=tokens_MTD)

    def _tokens(self, ids_MT: Tensor, seen_MT: Tensor) -> Tensor:
        asked = {"input_ids": ids_MT, "attention_mask": seen_MT.long()}
        if self._layers == (-1,):
            last_MTD: Tensor = self.backbone(**asked).last_hidden_state
            return last_MTD
        hidden = self.backbone(**asked, output_hidden_states=True).hidden_states
        return torch.stack([hidden[layer] for layer in self._layers]).mean(0)
