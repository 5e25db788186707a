"""SigLIP's two towers (arXiv:2303.15343), from transformers; both end in the joint space.

Image: a learned query attends to the patches. Text: padded to the longest length, padding is read
like any other token, and the last place counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from transformers import SiglipTextModel, SiglipVisionModel
from transformers.modeling_layers import GradientCheckpointingLayer

from medvlp.config import STRICT
from medvlp.encoding import ImageEncoder, ImageFeatures, TextEncoder, TextFeatures
from medvlp.models.backbone import PatchBackbone, check_text, described
from medvlp.models.recompute import recompute_blocks


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SiglipVisionConfig:
    """SigLIP's vision transformer with its attention pooling."""

    kind: Literal["siglip-vision"] = "siglip-vision"
    architecture: dict[str, Any]
    """As transformers describes it: the ``vision_config`` of a ``config.json``, with `model_type`
    ``siglip_vision_model``."""

    checkpoint_activations: bool = False
    """As `Vit2dConfig.checkpoint_activations`."""

    def build(self, channels: int) -> ImageEncoder:
        """The tower for images of `channels` channels."""
        config = described(self.architecture, "siglip_vision_model")
        return _SiglipVision(SiglipVisionModel(config), self, channels)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SiglipTextConfig:
    """SigLIP's text transformer with its head."""

    kind: Literal["siglip-text"] = "siglip-text"
    architecture: dict[str, Any]
    """As transformers describes it, with `model_type` ``siglip_text_model``."""

    max_tokens: int = 64
    """Every text is padded to so many tokens."""

    cache: bool = False
    """As `TextTowerConfig.cache`."""

    checkpoint_activations: bool = False
    """As `TextTowerConfig.checkpoint_activations`."""

    def build(self, vocab_size: int, pad_id: int, sentence_id: int | None = None) -> TextEncoder:
        """The tower for a tokenizer of `vocab_size` tokens; it tells no sentences apart.

        Raises:
            ConfigError: It knows fewer tokens or positions than asked for.
        """
        backbone = SiglipTextModel(described(self.architecture, "siglip_text_model"))
        check_text(backbone, vocab_size, self.max_tokens)
        return _SiglipText(backbone, self, pad_id)


class _SiglipVision(PatchBackbone):
    lead = 0

    def __init__(self, backbone: Any, config: SiglipVisionConfig, channels: int) -> None:
        super().__init__(backbone, config, channels)
        self.width = backbone.config.hidden_size
        if config.checkpoint_activations:
            recompute_blocks(backbone, GradientCheckpointingLayer)

    def depths(self) -> Sequence[nn.Module]:
        """The transformer's layers."""
        layers: Sequence[nn.Module] = list(self.backbone.encoder.layers)
        return layers

    def forward(self, image: Tensor) -> ImageFeatures:
        out = self.run(image)
        grid = self.grid(image)
        last_BPD = out.last_hidden_state
        return ImageFeatures(
            pooled_BD=out.pooler_output,
            tokens_BPD=self._alone(last_BPD),
            grid=grid,
            maps=self.levels(out.hidden_states, last_BPD, grid),
        )

    def _alone(self, tokens_BPD: Tensor) -> Tensor:
        """What the pooling would make of each patch if there were no other: its attention is 1."""
        head = self.backbone.head
        value = head.attention.in_proj_weight.chunk(3)[2], head.attention.in_proj_bias.chunk(3)[2]
        pooled_BPD = head.attention.out_proj(F.linear(tokens_BPD, *value))
        alone_BPD: Tensor = pooled_BPD + head.mlp(head.layernorm(pooled_BPD))
        return alone_BPD


class _SiglipText(TextEncoder):
    def __init__(self, backbone: Any, config: SiglipTextConfig, pad_id: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.width = backbone.head.out_features
        self.max_tokens = config.max_tokens
        self._pad_id = pad_id
        if config.checkpoint_activations:
            recompute_blocks(backbone, GradientCheckpointingLayer)

    def forward(self, ids_MT: Tensor, mask_MT: Tensor) -> TextFeatures:
        count = ids_MT.shape[1]
        ids_MT = ids_MT.masked_fill(~mask_MT, self._pad_id)
        filled_MT = F.pad(ids_MT, (0, self.max_tokens - count), value=self._pad_id)
        out = self.backbone(input_ids=filled_MT)
        return TextFeatures(
            pooled_MD=out.pooler_output,
            tokens_MTD=self.backbone.head(out.last_hidden_state[:, :count]),
        )
