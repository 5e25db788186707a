"""Slice pooling: a 2D tower on every slice of a volume, and attention along the slices.

RadCLIP (arXiv:2403.09948) writes V = MHSA(I + PE(P)) for the slices' embeddings I and positions P.
Its heads, layers and pooling could not be read; the residual, the norms and the learned weights of
slices are ours.

Shape letters: B batch, C channels, D H W spatial, S slices of all volumes, K tokens of a slice, P
tokens of a volume, E width.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.encoding import ImageEncoder, ImageFeatures
from medvlp.errors import ConfigError
from medvlp.models.clip import ClipVisionConfig
from medvlp.models.image2d import ResNet2dConfig, Vit2dConfig
from medvlp.models.siglip import SiglipVisionConfig
from medvlp.models.swin import SwinConfig

Count = Annotated[int, Ge(1)]
Encoder2d = Annotated[
    ClipVisionConfig | ResNet2dConfig | SiglipVisionConfig | SwinConfig | Vit2dConfig,
    Field(discriminator="kind"),
]

SHORTEST_MM = 10.0
LONGEST_MM = 2000.0
"""Wavelengths of the sinusoids: from two thick slices to a whole body."""

_MLP_MM = 100.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SlicesConfig:
    """A 2D tower applied slice by slice, and how slices become one vector (RadCLIP).

    Needs a preprocessing contract of slices (``ct-slices``). Parts of the model: ``image.stem`` is
    the 2D tower, ``image.layers`` the attention along slices.
    """

    TAKES_ABSENT: ClassVar[bool] = True

    kind: Literal["slices"] = "slices"
    encoder: Encoder2d = Field(default_factory=ResNet2dConfig)
    """The 2D tower: any of the core's."""
    pool: Literal["attention", "mean"] = "attention"
    """``attention``: RadCLIP's. ``mean``: the plain mean of the slices' vectors, the baseline that
    it is measured against; positions, depth and heads then have no effect."""
    positions: Literal["sinusoidal", "mlp", "none"] = "sinusoidal"
    """What is added to a slice's vector for its place in mm from the middle of the volume: fixed
    sines and cosines, a small learned perceptron of the mm, or nothing."""
    depth: Count = 1
    """Layers of self-attention along the slices."""
    heads: Count = 8
    """A divisor of the 2D tower's width."""
    tokens: Literal["patch", "slice"] = "patch"
    """``patch``: the 2D tower's tokens of all slices, for heatmaps within slices. ``slice``: one
    token a slice, which takes little memory; heatmaps then tell slices apart alone."""
    at_once: Count | None = 64
    """Slices that go through the 2D tower together where it does not learn; it bounds the memory
    of batches of large volumes, and changes nothing else. None for all of a batch."""

    def build(self, channels: int) -> ImageEncoder:
        """The tower for inputs of `channels` channels, the last of which holds places.

        Raises:
            ConfigError: `heads` does not divide the 2D tower's width, or its tokens have another.
        """
        return SlicePooling(self, channels)


class SlicePooling(ImageEncoder):
    """(B,C+1,D,H,W) with places in mm in the last channel to features with a grid (D,h,w).

    Slices that are not there (NaN) cost nothing: only the real slices of all volumes go through the
    2D tower, as one batch, and no other slice or volume changes what a volume gives. The order of
    slices means nothing beyond their places.

    The vector of a volume is ``Σ_s a_s·y_s``, with y the slices' vectors after attention and a
    `share_BD`, equal shares with ``pool: mean``. A patch's token is the 2D tower's, plus what
    attention changed in its slice: where that tower pools by the mean, the mean of a slice's tokens
    is y_s, so that the whole volume's similarity to a text is the mean of its patches', each
    weighed by its slice's share.
    """

    within = "encoder"

    def __init__(self, config: SlicesConfig, channels: int) -> None:
        super().__init__()
        self.encoder = config.encoder.build(channels - 1)
        self.width = self.encoder.width
        self._tokens, self._at_once = config.tokens, config.at_once
        _check(config, self.encoder)
        self.map_widths = (self.width,)
        if self.encoder.portable is not None:
            self.portable = dataclasses.replace(config, encoder=self.encoder.portable)
        looks = config.pool == "attention"
        self.layers = nn.ModuleList(
            SliceAttention(self.width, config.heads) for _ in range(config.depth * looks)
        )
        self.place = _positions(config.positions, self.width) if looks else None
        weigh = nn.Linear(self.width, 1, bias=False)
        nn.init.zeros_(weigh.weight)  # all slices weigh the same at the start
        self.score = nn.Sequential(nn.LayerNorm(self.width), weigh) if looks else None

    def forward(self, image: Tensor) -> ImageFeatures:
        """Encode (B,C+1,D,H,W)."""
        place_BD = image[:, -1, :, 0, 0]
        real_BD = ~place_BD.isnan()
        at = real_BD.nonzero(as_tuple=True)
        slice_SE, token_SKE, grid = self._encode(image[:, :-1].transpose(1, 2)[at])
        x_BDE = _spread(slice_SE, at, real_BD)
        if self.place is not None:
            x_BDE = x_BDE + self.place(place_BD.masked_fill(~real_BD, 0))
        for layer in self.layers:
            x_BDE = layer(x_BDE, ~real_BD)
        score_BD = x_BDE[..., 0] * 0 if self.score is None else self.score(x_BDE)[..., 0]
        share_BD = score_BD.masked_fill(~real_BD, -torch.inf).softmax(1)
        token_SKE = token_SKE + (x_BDE[at] - slice_SE)[:, None]
        tokens_BPE = _spread(token_SKE, at, real_BD).flatten(1, 2)
        whole = (real_BD.shape[1], *grid)
        map_BEP = tokens_BPE.transpose(1, 2)
        return ImageFeatures(
            pooled_BD=(share_BD[..., None] * x_BDE).sum(1),
            tokens_BPD=tokens_BPE,
            grid=whole,
            # Patches that were left out in training fill no grid.
            maps=(map_BEP.reshape(len(image), -1, *whole),) if len(whole) == 3 else (),
            mask_BP=real_BD.repeat_interleave(token_SKE.shape[1], 1),
            share_BD=share_BD,
        )

    def _encode(self, slice_SCHW: Tensor) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """Vectors (S,E) of slices, their tokens (S,K,E) and these tokens' grid."""
        # Not whether a graph is kept: both passes of gradient caching must draw the same.
        learns = self.encoder.training and any(p.requires_grad for p in self.encoder.parameters())
        size = None if learns else self._at_once
        seen = [self._see(part) for part in torch.split(slice_SCHW, size or len(slice_SCHW))]
        pooled, tokens, grids = zip(*seen, strict=True)
        return torch.cat(pooled), torch.cat(tokens), grids[0]

    def _see(self, slice_SCHW: Tensor) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        features = self.encoder(slice_SCHW)
        if self._tokens == "slice":
            return features.pooled_BD, features.pooled_BD[:, None], (1, 1)
        return features.pooled_BD, features.tokens_BPD, features.grid


class SliceAttention(nn.Module):
    """Masked multi-head self-attention along slices, of normalised vectors, with a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x_BDE: Tensor, absent_BD: Tensor) -> Tensor:
        """(B,D,E); what it gives for absent slices means nothing."""
        y_BDE = self.norm(x_BDE)
        told_BDE: Tensor = self.attention(
            y_BDE, y_BDE, y_BDE, key_padding_mask=absent_BD, need_weights=False
        )[0]
        return x_BDE + told_BDE


class Sinusoids(nn.Module):
    """A sine and a cosine of places in mm at each of E/2 geometrically spaced wavelengths."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, place_BD: Tensor) -> Tensor:
        """(B,D,E) of places (B,D) in mm."""
        count = self.width // 2
        order = torch.arange(count, device=place_BD.device, dtype=place_BD.dtype)
        spread = (LONGEST_MM / SHORTEST_MM) ** (order / max(1, count - 1))
        angle = 2 * math.pi / SHORTEST_MM * place_BD[..., None] / spread
        return torch.cat([angle.sin(), angle.cos()], -1)


class Perceptron(nn.Module):
    """Two layers from a place, in units of 100 mm, to a vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, place_BD: Tensor) -> Tensor:
        """(B,D,E) of places (B,D) in mm."""
        vector_BDE: Tensor = self.layers(place_BD[..., None] / _MLP_MM)
        return vector_BDE


def _positions(kind: str, width: int) -> nn.Module | None:
    made = {"sinusoidal": Sinusoids, "mlp": Perceptron}
    return made[kind](width) if kind in made else None


def _spread(row_S: Tensor, at: tuple[Tensor, ...], real_BD: Tensor) -> Tensor:
    """One row a slice as (B,D,...), zero where there is no slice."""
    return row_S.new_zeros(*real_BD.shape, *row_S.shape[1:]).index_put(at, row_S)


def _check(config: SlicesConfig, encoder: ImageEncoder) -> None:
    width = encoder.width
    if width % config.heads:
        raise ConfigError(
            f"image.heads: {config.heads} does not divide the width {width}",
            remedy="choose a number of heads that divides the 2D tower's width",
        )
    if config.tokens == "patch" and encoder.token_width not in (None, width):
        raise ConfigError(
            f"image.encoder: its tokens have width {encoder.token_width}, its vectors {width}",
            remedy="take the tokens of its last stage, or set image.tokens=slice",
        )
