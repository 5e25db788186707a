"""The text tower of models that read no text."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass
from torch import Tensor

from medvlp.config import STRICT
from medvlp.encoding import TextEncoder, TextFeatures
from medvlp.errors import ConfigError


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoTextConfig:
    """Stands in the text tower's place where there is none; it has no weights."""

    kind: Literal["none"] = "none"
    width: int = 1
    """What a text's vector would have; that of the joint space where there is no projection."""

    max_tokens: int = 1
    cache: bool = False

    def build(self, vocab_size: int, pad_id: int, sentence_id: int | None = None) -> TextEncoder:
        """The tower, for any tokenizer."""
        return NoText(self)


class NoText(TextEncoder):
    """Refuses every text."""

    def __init__(self, config: NoTextConfig) -> None:
        super().__init__()
        self.width = config.width
        self.max_tokens = config.max_tokens

    def forward(self, ids_MT: Tensor, mask_MT: Tensor) -> TextFeatures:
        """Refuse.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            "this model reads no text, so that prompts have no score",
            remedy="use its image features: the protocols probe and finetune, search by image, "
            "or init of a training",
        )
