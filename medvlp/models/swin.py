"""The Swin transformer (arXiv:2103.14030), from transformers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic.dataclasses import dataclass
from torch import Tensor
from transformers import SwinModel
from transformers.modeling_layers import GradientCheckpointingLayer

from medvlp.config import STRICT
from medvlp.encoding import ImageEncoder, ImageFeatures
from medvlp.models.backbone import Backbone, described
from medvlp.models.recompute import recompute_blocks


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SwinConfig:
    """Attention within windows that are shifted from layer to layer; the grid is 1/32."""

    kind: Literal["swin"] = "swin"
    architecture: dict[str, Any]
    """As transformers describes it, with `model_type` ``swin``."""

    pool: Literal["mean", "first"] = "mean"
    """The mean of the last map, or its first place (top left)."""

    checkpoint_activations: bool = False
    """As `Vit2dConfig.checkpoint_activations`."""

    def build(self, channels: int) -> ImageEncoder:
        """The tower for images of `channels` channels."""
        config = described(self.architecture, "swin")
        return _Swin(SwinModel(config, add_pooling_layer=False), self, channels)


class _Swin(Backbone):
    def __init__(self, backbone: Any, config: SwinConfig, channels: int) -> None:
        super().__init__(backbone, config, channels)
        self.width = backbone.num_features
        self._pool = config.pool
        if config.checkpoint_activations:
            recompute_blocks(backbone, GradientCheckpointingLayer)

    def forward(self, image: Tensor) -> ImageFeatures:
        out = self.backbone(self._input(image), output_hidden_states=True)
        tokens_BPD = out.last_hidden_state
        maps = out.reshaped_hidden_states
        grid = tuple(maps[-1].shape[2:])
        last = tokens_BPD.transpose(1, 2).reshape(len(tokens_BPD), -1, *grid)
        return ImageFeatures(
            pooled_BD=tokens_BPD[:, 0] if self._pool == "first" else tokens_BPD.mean(1),
            tokens_BPD=tokens_BPD,
            grid=grid,
            maps=(*maps[:-2], last),
        )
