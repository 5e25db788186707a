"""2D image towers: a ResNet and a vision transformer of our own sizes, and all kinds there are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetModel, ViTConfig, ViTModel
from transformers.models.resnet.modeling_resnet import ResNetBasicLayer, ResNetBottleNeckLayer
from transformers.models.vit.modeling_vit import ViTLayer

from medvlp.config import STRICT
from medvlp.encoding import Alter, ImageEncoder, ImageFeatures
from medvlp.errors import ConfigError
from medvlp.models.backbone import Backbone, PatchBackbone
from medvlp.models.clip import ClipVisionConfig
from medvlp.models.no_image import NoImageEncoderConfig
from medvlp.models.patch_dropout import DropRate, PatchDropout, scattered
from medvlp.models.pretrained import from_description, load_pretrained
from medvlp.models.recompute import recompute_blocks
from medvlp.models.siglip import SiglipVisionConfig
from medvlp.models.swin import SwinConfig


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ResNet2dConfig:
    """A residual network (arXiv:1512.03385); the grid is 1/(4·2^(stages-1)) of the image."""

    kind: Literal["resnet"] = "resnet"
    depths: tuple[int, ...] = (2, 2, 2, 2)
    """Blocks of each stage; (2, 2, 2, 2) of basic blocks is ResNet-18."""

    widths: tuple[int, ...] = (64, 128, 256, 512)
    """Channels of each stage; the last is the tower's width."""

    block: Literal["basic", "bottleneck"] = "basic"
    stem: int = 64
    """Channels after the first convolution."""

    enlarge_to: int | None = None
    """Side to which images are brought first, bilinear with aligned corners, as GLoRIA does."""

    token_stage: int = -1
    """The stage that gives the tokens, -1 being the last. Others have another width: the tokens
    then need a projection of their own (``model.patch_projection``)."""

    norm: Literal["batch", "group"] = "batch"
    """``group`` depends on one sample alone, so that several devices compute what one would."""

    checkpoint_activations: bool = False
    """In training, keep each block's input alone and compute the block twice: less memory, about
    a third more time, the same gradient (arXiv:1604.06174)."""

    pretrained: str | None = None
    """A local folder of transformers' `ResNetModel`; it then decides the architecture."""

    architecture: dict[str, Any] | None = None
    """What `pretrained` decided; a bundle carries it in place of the folder's name."""

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.widths):
            raise ValueError(f"{len(self.depths)} depths but {len(self.widths)} widths")
        if self.norm == "group" and self.pretrained:
            raise ValueError("pretrained weights come with batch norm; set norm to batch")

    def build(self, channels: int) -> ImageEncoder:
        """The tower for images of `channels` channels."""
        if self.pretrained:
            return _ResNet2d(load_pretrained(ResNetModel, self.pretrained), self, channels)
        own: dict[str, Any] = {
            "num_channels": channels,
            "embedding_size": self.stem,
            "hidden_sizes": list(self.widths),
            "depths": list(self.depths),
            "layer_type": self.block,
        }
        config = from_description(self.architecture) if self.architecture else ResNetConfig(**own)
        backbone = ResNetModel(config)
        if self.norm == "group":
            group_norm(backbone)
        return _ResNet2d(backbone, self, channels)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Vit2dConfig:
    """A vision transformer (arXiv:2010.11929); positions are interpolated for other sizes."""

    kind: Literal["vit"] = "vit"
    size: int = 224
    """Side of the images it is made for, in pixels."""

    patch: int = 16
    width: int = 384
    depth: int = 12
    heads: int = 6
    pool: Literal["mean", "cls"] = "mean"
    """The mean of the patches, or the vector of the first token."""

    patch_dropout: DropRate = 0.0
    """Share of each image's patches that a training step leaves out, chosen anew each time;
    evaluation sees them all (arXiv:2212.00794)."""

    checkpoint_activations: bool = False
    """In training, keep each block's input alone and compute the block twice: less memory, about
    a third more time, the same gradient (arXiv:1604.06174)."""

    pretrained: str | None = None
    """A local folder of transformers' `ViTModel`; it then decides the architecture."""

    architecture: dict[str, Any] | None = None
    """What `pretrained` decided; a bundle carries it in place of the folder's name."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of {self.heads} heads")
        if self.size % self.patch:
            raise ValueError(f"size {self.size} is no multiple of patch {self.patch}")
        if self.pool == "cls" and self.patch_dropout:
            raise ValueError("pool cls with patch_dropout: what is dropped are patches; set mean")

    def build(self, channels: int) -> ImageEncoder:
        """The tower for images of `channels` channels."""
        if self.pretrained:
            backbone = load_pretrained(ViTModel, self.pretrained, add_pooling_layer=False)
            return _Vit2d(backbone, self, channels)
        own: dict[str, Any] = {
            "image_size": self.size,
            "patch_size": self.patch,
            "num_channels": channels,
            "hidden_size": self.width,
            "num_hidden_layers": self.depth,
            "num_attention_heads": self.heads,
            "intermediate_size": 4 * self.width,
        }
        config = from_description(self.architecture) if self.architecture else ViTConfig(**own)
        return _Vit2d(ViTModel(config, add_pooling_layer=False), self, channels)


CORE_ENCODERS: dict[str, type] = {
    "clip-vision": ClipVisionConfig,
    "none": NoImageEncoderConfig,
    "resnet": ResNet2dConfig,
    "siglip-vision": SiglipVisionConfig,
    "swin": SwinConfig,
    "vit": Vit2dConfig,
}
"""The core's image towers by `kind`; a domain brings more."""


def group_norm(model: nn.Module) -> None:
    """Put `nn.GroupNorm` (arXiv:1803.08494) in the place of every batch norm, in place."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d):
                width = child.num_features
                groups = (
                    math.gcd(width, 32) if width >= 128 else math.gcd(width, max(1, width // 4))
                )
                setattr(module, name, nn.GroupNorm(groups, width))


class _ResNet2d(Backbone):
    def __init__(self, backbone: Any, config: ResNet2dConfig, channels: int) -> None:
        super().__init__(backbone, config, channels)
        widths = backbone.config.hidden_sizes
        if not -len(widths) <= config.token_stage < 0:
            raise ConfigError(
                f"image.token_stage is {config.token_stage}, the tower has {len(widths)} stages",
                remedy="count stages from the last, which is -1",
            )
        self.width = widths[-1]
        self.map_widths = tuple(widths)
        self.token_width = widths[config.token_stage]
        self._token_stage = config.token_stage
        self._enlarge = config.enlarge_to
        if config.checkpoint_activations:
            recompute_blocks(backbone, ResNetBasicLayer, ResNetBottleNeckLayer)

    def depths(self) -> Sequence[nn.Module]:
        """The stages."""
        stages: Sequence[nn.Module] = list(self.backbone.encoder.stages)
        return stages

    def _alter(self, image: Tensor, out: Any, alter: Alter) -> Any:
        grid = tuple(out.shape[2:])
        return alter(out.flatten(2).transpose(1, 2), grid).transpose(1, 2).reshape(out.shape)

    def forward(self, image: Tensor) -> ImageFeatures:
        if self._enlarge is not None:
            size = (self._enlarge, self._enlarge)
            image = F.interpolate(image, size, mode="bilinear", align_corners=True)
        out = self.backbone(self._input(image), output_hidden_states=True)
        last_BPD = out.last_hidden_state.flatten(2).transpose(1, 2)
        shown = out.hidden_states[self._token_stage]
        return ImageFeatures(
            pooled_BD=last_BPD.mean(1),
            tokens_BPD=shown.flatten(2).transpose(1, 2),
            grid=tuple(shown.shape[2:]),
            maps=tuple(out.hidden_states[1:]),
        )


class _Vit2d(PatchBackbone):
    def __init__(self, backbone: Any, config: Vit2dConfig, channels: int) -> None:
        super().__init__(backbone, config, channels)
        self.width = backbone.config.hidden_size
        self._pool = config.pool
        self.patch_dropout = PatchDropout(config.patch_dropout, lead=1)
        backbone.embeddings.register_forward_hook(self._drop)
        if config.checkpoint_activations:
            recompute_blocks(backbone, ViTLayer)

    def depths(self) -> Sequence[nn.Module]:
        """The transformer's layers."""
        layers: Sequence[nn.Module] = list(self.backbone.layers)
        return layers

    def _drop(self, embeddings: nn.Module, inputs: Any, tokens_BPD: Tensor) -> Tensor:
        kept_BPD: Tensor = self.patch_dropout(tokens_BPD)
        return kept_BPD

    def forward(self, image: Tensor) -> ImageFeatures:
        out = self.run(image)
        grid = self.grid(image)
        tokens_BPD = out.last_hidden_state[:, 1:]
        if self.patch_dropout.active:
            return scattered(tokens_BPD)
        first = self._pool == "cls"
        return ImageFeatures(
            pooled_BD=out.last_hidden_state[:, 0] if first else tokens_BPD.mean(1),
            tokens_BPD=tokens_BPD,
            grid=grid,
            maps=self.levels(out.hidden_states, tokens_BPD, grid),
        )
