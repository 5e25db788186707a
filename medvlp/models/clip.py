"""CLIP's two towers (arXiv:2103.00020), from transformers.

Image: the first token after the last norm. Text: the vector of the last token, that of the text's
end, under causal attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPVisionModel
from transformers.modeling_layers import GradientCheckpointingLayer

from medvlp.config import STRICT
from medvlp.encoding import ImageEncoder, ImageFeatures, TextEncoder, TextFeatures
from medvlp.models.backbone import PatchBackbone, check_text, described
from medvlp.models.pooling import last_token, never_blank
from medvlp.models.recompute import recompute_blocks


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClipVisionConfig:
    """CLIP's vision transformer: a norm before the first layer, and QuickGELU in OpenAI's."""

    kind: Literal["clip-vision"] = "clip-vision"
    architecture: dict[str, Any]
    """As transformers describes it: the ``vision_config`` of a ``config.json``, with `model_type`
    ``clip_vision_model``."""

    checkpoint_activations: bool = False
    """As `Vit2dConfig.checkpoint_activations`."""

    def build(self, channels: int) -> ImageEncoder:
        """The tower for images of `channels` channels."""
        config = described(self.architecture, "clip_vision_model")
        return _ClipVision(CLIPVisionModel(config), self, channels)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClipTextConfig:
    """CLIP's text transformer."""

    kind: Literal["clip-text"] = "clip-text"
    architecture: dict[str, Any]
    """As transformers describes it, with `model_type` ``clip_text_model``."""

    max_tokens: int = 77
    cache: bool = False
    """As `TextTowerConfig.cache`."""

    checkpoint_activations: bool = False
    """As `TextTowerConfig.checkpoint_activations`."""

    def build(self, vocab_size: int, pad_id: int, sentence_id: int | None = None) -> TextEncoder:
        """The tower for a tokenizer of `vocab_size` tokens; it tells no sentences apart.

        Raises:
            ConfigError: It knows fewer tokens or positions than asked for.
        """
        backbone = CLIPTextModel(described(self.architecture, "clip_text_model"))
        check_text(backbone, vocab_size, self.max_tokens)
        return _ClipText(backbone, self)


class _ClipVision(PatchBackbone):
    def __init__(self, backbone: Any, config: ClipVisionConfig, channels: int) -> None:
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
        # Only the first token was trained behind this norm; patches behind it are what published
        # maps of CLIP show.
        tokens_BPD = self.backbone.post_layernorm(out.last_hidden_state[:, 1:])
        return ImageFeatures(
            pooled_BD=out.pooler_output,
            tokens_BPD=tokens_BPD,
            grid=grid,
            maps=self.levels(out.hidden_states, tokens_BPD, grid),
        )


class _ClipText(TextEncoder):
    def __init__(self, backbone: Any, config: ClipTextConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.width = backbone.config.hidden_size
        self.max_tokens = config.max_tokens
        if config.checkpoint_activations:
            recompute_blocks(backbone, GradientCheckpointingLayer)

    def forward(self, ids_MT: Tensor, mask_MT: Tensor) -> TextFeatures:
        seen_MT = never_blank(mask_MT)
        out = self.backbone(input_ids=ids_MT, attention_mask=seen_MT.long())
        tokens_MTD = out.last_hidden_state
        return TextFeatures(pooled_MD=last_token(tokens_MTD, seen_MT), tokens_MTD=tokens_MTD)
