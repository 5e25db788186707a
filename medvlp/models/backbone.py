"""What the towers from transformers share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig

from medvlp.encoding import Alter, ImageEncoder
from medvlp.errors import ConfigError
from medvlp.models.pretrained import describe, from_description


class Backbone(ImageEncoder):
    """A model of transformers as an image tower.

    Args:
        backbone: The model.
        config: The tower's configuration.
        channels: What the preprocessing contract gives.

    Raises:
        ConfigError: The model takes another number of channels.
    """

    def __init__(self, backbone: Any, config: Any, channels: int) -> None:
        super().__init__()
        expected = backbone.config.num_channels
        if expected != channels and channels != 1:
            raise ConfigError(
                f"encoder takes {expected} channels, the preprocessing gives {channels}",
                remedy="choose weights and a preprocessing contract of equal channels",
            )
        self.backbone = backbone
        self._channels = expected
        self.portable = portable(config, backbone)

    def _input(self, image_BCHW: Tensor) -> Tensor:
        # Gray images enter RGB weights as three equal channels.
        return image_BCHW.expand(-1, self._channels, -1, -1)


class PatchBackbone(Backbone):
    """A vision transformer: square patches, perhaps behind one token for the whole image."""

    lead = 1
    """Tokens before the patches."""

    def grid(self, image: Tensor) -> tuple[int, int]:
        """Patches along each side."""
        patch = self.backbone.config.patch_size
        return image.shape[2] // patch, image.shape[3] // patch

    def run(self, image: Tensor) -> Any:
        """The model's output with all its layers; positions are interpolated where they must."""
        side = self.backbone.config.image_size
        return self.backbone(
            self._input(image),
            output_hidden_states=True,
            interpolate_pos_encoding=tuple(image.shape[2:]) != (side, side),
        )

    def levels(
        self, hidden: Sequence[Tensor], tokens_BPD: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, ...]:
        """Maps after each quarter of the depth, the last being `tokens_BPD`."""
        depth = len(hidden) - 1
        inner = sorted({max(1, depth * quarter // 4) for quarter in (1, 2, 3)} - {depth})
        found = [*(hidden[layer][:, self.lead :] for layer in inner), tokens_BPD]
        return tuple(level.transpose(1, 2).reshape(len(level), -1, *grid) for level in found)

    def _alter(self, image: Tensor, out: Any, alter: Alter) -> Any:
        lead_BPD, patches_BPD = out[:, : self.lead], out[:, self.lead :]
        return torch.cat([lead_BPD, alter(patches_BPD, self.grid(image))], 1)


def described(values: dict[str, Any], kind: str) -> Any:
    """The configuration of transformers that `values` describe.

    Args:
        values: As ``config.json`` has them.
        kind: The `model_type` that it must be.

    Raises:
        ConfigError: Another kind of model, or values that it cannot have.
    """
    found = from_description(values)
    if found.model_type != kind:
        raise ConfigError(
            f"architecture: model_type is {found.model_type}, the tower needs {kind}",
            remedy="choose the tower of that kind",
        )
    return found


def check_bert(width: int, heads: int, dropout: float) -> None:
    """See that a text tower's sizes fit together.

    Raises:
        ValueError: They do not.
    """
    if width % heads:
        raise ValueError(f"width {width} is no multiple of {heads} heads")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout {dropout} is not in [0, 1)")


def bert_config(tower: Any, vocab_size: int, pad_id: int, **more: Any) -> BertConfig:
    """The BERT that a text tower's configuration describes.

    Args:
        tower: Its configuration: `width`, `depth`, `heads`, `max_tokens`, `dropout`.
        vocab_size: Tokens of the tokenizer.
        pad_id: Its padding.
        more: Further values of transformers' configuration.
    """
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=tower.width,
        num_hidden_layers=tower.depth,
        num_attention_heads=tower.heads,
        intermediate_size=4 * tower.width,
        max_position_embeddings=tower.max_tokens,
        hidden_dropout_prob=tower.dropout,
        attention_probs_dropout_prob=tower.dropout,
        pad_token_id=pad_id,
        **more,
    )


def portable(config: Any, backbone: Any) -> Any:
    """A tower's configuration without its pretrained folder, with what that decided instead.

    None where the configuration names no folder and rebuilds the tower by itself.
    """
    if not getattr(config, "pretrained", None):
        return None
    return dataclasses.replace(config, pretrained=None, architecture=describe(backbone))


def check_text(backbone: Any, vocab_size: int, max_tokens: int) -> None:
    """See that a text tower knows the tokens and the places that it will be given.

    Raises:
        ConfigError: It does not.
    """
    rows = backbone.get_input_embeddings().weight.shape[0]
    if vocab_size > rows:
        raise ConfigError(
            f"text tower knows {rows} tokens, the tokenizer has {vocab_size}",
            remedy="use the tokenizer of the folder that the weights come from",
        )
    positions = getattr(backbone.config, "max_position_embeddings", max_tokens)
    if max_tokens > positions:
        raise ConfigError(
            f"text.max_tokens is {max_tokens}, the text tower has {positions} positions",
            remedy=f"set text.max_tokens to at most {positions}",
        )
