"""The space-time tower: a vision transformer whose patches also look along time.

Shape letters: B batch, F frames, C channels, H W pixels, P patches of a frame, S its tokens (one in
front of the patches), D width.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel
from transformers.models.vit.modeling_vit import ViTAttention, ViTLayer

from medvlp.config import STRICT
from medvlp.encoding import ImageEncoder, ImageFeatures
from medvlp.errors import ConfigError
from medvlp.models.backbone import described, portable
from medvlp.models.pretrained import load_pretrained
from medvlp.models.recompute import recompute_blocks
from medvlp_video.encoders import at_fractions

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TimesformerConfig:
    """TimeSformer with divided attention (Bertasius et al. 2021, arXiv:2102.05095, section 3).

    In each block a patch looks at the same place in all frames, then, with the token that stands
    for the clip, at its own frame. The output of the first is zero before training, so that the
    tower starts as the vision transformer on each frame.
    """

    kind: Literal["timesformer"] = "timesformer"
    frames: Count = 16
    """Rows of the table of times; for clips of another length it is read by interpolation. A clip
    of one frame has no times."""

    size: Count = 224
    """Side of the frames it is made for, in pixels; positions are interpolated for others."""

    patch: Count = 16
    width: Count = 768
    depth: Count = 12
    heads: Count = 12
    pool: Literal["mean", "cls"] = "mean"
    """``cls``: the token that stands for the clip, as in the paper. ``mean``: of all patches."""

    as_surgclip: bool = False
    """Compute what SurgCLIP's released code does (package surgclip 0.1.0), since its weights know
    no other way. In every block a frame's token in front is its first patch, of which only twice
    what attention found is kept; the learned token is lost. At the end the tokens, place by place
    and within a place frame by frame, are cut into F runs of S; each run but its first token is
    averaged and normalised once more. These F vectors, not those of frames, are the clip's
    parts."""

    checkpoint_activations: bool = False
    """In training, keep each block's input alone and compute the block twice: less memory, about
    a third more time, the same gradient (arXiv:1604.06174)."""

    pretrained: str | None = None
    """A local folder of transformers' `ViTModel`, where the weights within frames come from; it
    then decides their architecture."""

    architecture: dict[str, Any] | None = None
    """What `pretrained` decided; a bundle carries it in place of the folder's name."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of {self.heads} heads")
        if self.size % self.patch:
            raise ValueError(f"size {self.size} is no multiple of patch {self.patch}")
        if self.as_surgclip and self.pool != "mean":
            raise ValueError("as_surgclip: the token for the clip is lost; set pool to mean")

    def build(self, channels: int) -> ImageEncoder:
        """The tower for clips (B,F,`channels`,H,W).

        Raises:
            ConfigError: A pretrained folder that cannot be used, or of other channels.
        """
        if self.pretrained:
            return Timesformer(
                load_pretrained(ViTModel, self.pretrained, add_pooling_layer=False), self, channels
            )
        own = ViTConfig(
            image_size=self.size,
            patch_size=self.patch,
            num_channels=channels,
            hidden_size=self.width,
            num_hidden_layers=self.depth,
            num_attention_heads=self.heads,
            intermediate_size=4 * self.width,
        )
        config = described(self.architecture, "vit") if self.architecture else own
        return Timesformer(ViTModel(config, add_pooling_layer=False), self, channels)


class Timesformer(ImageEncoder):
    """(B,F,C,H,W) to features with tokens of all frames, grid (F,h,w), frame by frame.

    With ``pool: mean``, the clip's parts are its frames. The tokens of ``as_surgclip`` are each
    normalised as a part would be; their mean is not exactly the pooled vector.
    """

    def __init__(self, vit: Any, config: TimesformerConfig, channels: int) -> None:
        super().__init__()
        sizes = vit.config
        if sizes.num_channels != channels:
            raise ConfigError(
                f"encoder takes {sizes.num_channels} channels, the preprocessing gives {channels}",
                remedy="choose weights and a preprocessing contract of equal channels",
            )
        self.width: int = sizes.hidden_size
        self.map_widths = (self.width,)
        self.gives_parts = config.pool == "mean"
        self.portable = portable(config, vit)
        self._cls = config.pool == "cls"
        self._size, self._patch = sizes.image_size, sizes.patch_size
        self.time_FD = nn.Parameter(torch.zeros(config.frames, self.width))
        self.embeddings = vit.embeddings
        self.blocks = nn.ModuleList(
            SpaceTimeBlock(layer, sizes, first_patch_leads=config.as_surgclip)
            for layer in vit.layers
        )
        self.norm = vit.layernorm
        if config.as_surgclip:
            self.pool_norm = nn.LayerNorm(self.width, eps=sizes.layer_norm_eps)
        self._runs = config.as_surgclip
        if config.checkpoint_activations:
            recompute_blocks(self.blocks, SpaceTimeBlock)

    def forward(self, image: Tensor) -> ImageFeatures:
        """Encode (B,F,C,H,W)."""
        batch, frames = image.shape[:2]
        grid = (frames, image.shape[3] // self._patch, image.shape[4] // self._patch)
        x_BFSD = self._embed(image)
        for block in self.blocks:
            x_BFSD = block(x_BFSD)
        x_BFSD = self.norm(x_BFSD)
        patch_BFPD = x_BFSD[:, :, 1:]
        if self._runs:
            part_BGD: Tensor | None = self.pool_norm(_runs_mean(x_BFSD))
            patch_BFPD = self.pool_norm(patch_BFPD)
        else:
            part_BGD = None if self._cls else patch_BFPD.mean(2)
        pooled_BD = x_BFSD[:, 0, 0] if part_BGD is None else part_BGD.mean(1)
        tokens_BPD = patch_BFPD.flatten(1, 2)
        return ImageFeatures(
            pooled_BD=pooled_BD,
            tokens_BPD=tokens_BPD,
            grid=grid,
            maps=(tokens_BPD.transpose(1, 2).reshape(batch, self.width, *grid),),
            part_BGD=part_BGD,
        )

    def _embed(self, image: Tensor) -> Tensor:
        """Tokens with their places, the patches' with their times, (B,F,S,D)."""
        batch, frames = image.shape[:2]
        other = tuple(image.shape[3:]) != (self._size, self._size)
        x_BSD: Tensor = self.embeddings(image.flatten(0, 1), interpolate_pos_encoding=other)
        x_BFSD = x_BSD.view(batch, frames, *x_BSD.shape[1:])
        if frames == 1:
            return x_BFSD
        time_F1D = at_fractions(self.time_FD, frames)[:, None]
        return torch.cat([x_BFSD[:, :, :1], x_BFSD[:, :, 1:] + time_F1D], 2)


class SpaceTimeBlock(nn.Module):
    """A layer of a vision transformer, before which patches look along time.

    With s the token in front and z the patches: ``z + out(attention over frames(norm(z)))``, then
    the layer on each frame's (s, z). What the frames add to s is averaged, so that all keep one s.

    Args:
        layer: A layer of transformers' ViT.
        sizes: Its configuration.
        first_patch_leads: The frame's first patch, as it comes in, takes the place of s, and twice
            what is added to it is what stays in front.
    """

    def __init__(self, layer: ViTLayer, sizes: ViTConfig, *, first_patch_leads: bool) -> None:
        super().__init__()
        self.layer = layer
        self.time_norm = nn.LayerNorm(sizes.hidden_size, eps=sizes.layer_norm_eps)
        self.time_attention = ViTAttention(sizes)
        self.time_out = nn.Linear(sizes.hidden_size, sizes.hidden_size)
        self._first_patch_leads = first_patch_leads
        for module in self.time_attention.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=sizes.initializer_range)
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.time_out.weight)
        nn.init.zeros_(self.time_out.bias)

    def forward(self, x_BFSD: Tensor) -> Tensor:
        """The tokens after the block."""
        lead_BF1D, patch_BFPD = x_BFSD[:, :, :1], x_BFSD[:, :, 1:]
        if self._first_patch_leads:
            lead_BF1D = patch_BFPD[:, :, :1]
        patch_BFPD = patch_BFPD + self._along_time(patch_BFPD)
        found_BFSD = self._within_frames(torch.cat([lead_BF1D, patch_BFPD], 2))
        found_BF1D = found_BFSD[:, :, :1]
        if self._first_patch_leads:
            lead_BF1D = 2 * found_BF1D
        else:
            lead_BF1D = lead_BF1D + found_BF1D.mean(1, keepdim=True)
        x_BFSD = torch.cat([lead_BF1D, patch_BFPD + found_BFSD[:, :, 1:]], 2)
        added_BFSD = self.layer.mlp(self.layer.layernorm_after(x_BFSD))
        after_BFSD: Tensor = x_BFSD + self.layer.dropout(added_BFSD)
        return after_BFSD

    def _along_time(self, patch_BFPD: Tensor) -> Tensor:
        place_BPFD: Tensor = self.time_norm(patch_BFPD).transpose(1, 2)
        found_BFD: Tensor = self.time_out(self.time_attention(place_BPFD.flatten(0, 1))[0])
        return found_BFD.view(place_BPFD.shape).transpose(1, 2)

    def _within_frames(self, x_BFSD: Tensor) -> Tensor:
        frame_BSD = self.layer.layernorm_before(x_BFSD).flatten(0, 1)
        found_BSD: Tensor = self.layer.dropout(self.layer.attention(frame_BSD)[0])
        return found_BSD.view(x_BFSD.shape)


def _runs_mean(x_BFSD: Tensor) -> Tensor:
    """(B,F,D): means of the runs that `TimesformerConfig.as_surgclip` describes.

    >>> _runs_mean(torch.arange(6.0).view(1, 2, 3, 1)).flatten()  # tokens 0 3 1, 4 2 5
    tensor([2.0000, 3.5000])
    """
    frames, tokens = x_BFSD.shape[1:3]
    flat_BPD = x_BFSD.transpose(1, 2).flatten(1, 2)
    return flat_BPD.view(-1, frames, tokens, flat_BPD.shape[2])[:, :, 1:].mean(2)
