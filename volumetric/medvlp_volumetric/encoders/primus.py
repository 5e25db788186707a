"""Primus: a 3D vision transformer with rotary positions, and a pooler that looks by attention.

Shape letters: B batch, C channels, D H W spatial, P tokens, K tokens that are kept, E width, N
heads, R pairs of a head's channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.encoding import ImageEncoder, ImageFeatures
from medvlp.losses.contrastive import widened
from medvlp.models.patch_dropout import DropRate, PatchDropout, taken
from medvlp.models.pooling import AttentionPool, split_heads
from medvlp.models.recompute import recompute_blocks

Count = Annotated[int, Ge(1)]
ROTARY_BASE = 10_000.0
"""Of the rates at which positions turn (arXiv:2104.09864, section 3.2.2)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PrimusConfig:
    """A transformer over cubes of voxels whose attention alone knows where they lie.

    Primus (arXiv:2503.01835) as in COLIPRI (arXiv:2510.15042), whose sizes are the defaults;
    blocks as in EVA-02 (arXiv:2303.11331, section 2). COLIPRI's published weights have
    `norm_attended` and `project` besides.
    """

    kind: Literal["primus"] = "primus"
    patch: tuple[Count, Count, Count] = (8, 8, 8)
    """Voxels of a patch along D, H and W; the input's shape must be a multiple."""
    width: Count = 864
    """A multiple of 6 times `heads`: each axis turns pairs of a head's channels."""
    depth: Count = 16
    heads: Count = 12
    mlp_ratio: Annotated[float, Gt(0)] = 8 / 3
    """Hidden width of the gated perceptrons over `width`."""
    drop_path: Annotated[float, Ge(0), Lt(1)] = 0.2
    """Probability with which training leaves out a sample's last block (stochastic depth,
    arXiv:1603.09382); earlier blocks less, in a straight line from 0."""
    layer_scale: Annotated[float, Gt(0)] = 0.1
    """Start of the factors on what a block adds (arXiv:2103.17239, section 2)."""
    norm_attended: bool = False
    """A further layer norm in each block, of what attention found before its output matrix."""
    project: Count | None = None
    """Channels that a linear layer gives each patch before the pooler, a multiple of `heads`; the
    tower's width then."""
    pool: Literal["attention", "mean"] = "attention"
    """``attention``: the mean token asks all tokens. ``mean``: the mean of the tokens."""
    patch_dropout: DropRate = 0.0
    """Share of each image's patches that a training step leaves out, chosen anew each time;
    evaluation sees them all (arXiv:2212.00794)."""
    checkpoint_activations: bool = False
    """In training, keep each block's input alone and compute the block twice: less memory, about
    a third more time, the same gradient (arXiv:1604.06174)."""

    def __post_init__(self) -> None:
        if self.width % (6 * self.heads):
            raise ValueError(f"width {self.width}: must be a multiple of 6 * heads")
        if self.project is not None and self.project % self.heads:
            raise ValueError(f"project {self.project}: must be a multiple of heads")

    def build(self, channels: int) -> ImageEncoder:
        """The tower for inputs of `channels` channels."""
        return Primus(self, channels)


class Primus(ImageEncoder):
    """Patch embedding, rotary blocks, layer norm, pooler.

    With ``pool: attention``, the tokens that it gives are what the pooler takes of each patch: a
    pooled vector is a mean of them (head by head), and so is comparable with each. The map holds
    the tokens as they were before the pooler.
    """

    def __init__(self, config: PrimusConfig, channels: int) -> None:
        super().__init__()
        self.width = config.project or config.width
        self.map_widths = (config.width,)
        self.patch: tuple[int, int, int] = config.patch
        self.embed = nn.Conv3d(channels, config.width, config.patch, stride=config.patch)
        steps = max(1, config.depth - 1)
        self.blocks = nn.ModuleList(
            RotaryBlock(
                config.width,
                config.heads,
                round(config.width * config.mlp_ratio),
                layer_scale=config.layer_scale,
                drop_path=config.drop_path * k / steps,
                norm_attended=config.norm_attended,
            )
            for k in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)
        attention = config.pool == "attention"
        project = config.project
        self.project = nn.Linear(config.width, project) if project else nn.Identity()
        self.pool = AttentionPool(self.width, config.heads) if attention else MeanPool()
        self.patch_dropout = PatchDropout(config.patch_dropout)
        self._head = config.width // config.heads
        if config.checkpoint_activations:
            recompute_blocks(self.blocks, RotaryBlock)

    def forward(self, image: Tensor) -> ImageFeatures:
        """Encode (B,C,D,H,W).

        Raises:
            ValueError: The volume is not made of whole patches.
        """
        grid = patch_grid(image.shape[2:], self.patch)
        x_BPE = self.embed(image).flatten(2).transpose(1, 2)
        angle = rotary_angles(grid, self._head).to(x_BPE.device)
        kept_BK = self.patch_dropout.kept(x_BPE)
        if kept_BK is not None:
            x_BPE, angle = taken(x_BPE, kept_BK), angle[kept_BK][:, None]
        for block in self.blocks:
            x_BPE = block(x_BPE, angle)
        x_BPE = self.norm(x_BPE)
        pooled_BE, tokens_BPE = self.pool(self.project(x_BPE))
        maps: tuple[Tensor, ...] = ()
        if kept_BK is None:
            maps = (x_BPE.transpose(1, 2).reshape(*x_BPE.shape[::2], *grid),)
        return ImageFeatures(
            pooled_BD=pooled_BE,
            tokens_BPD=tokens_BPE,
            grid=grid if maps else (x_BPE.shape[1],),
            maps=maps,
        )


class RotaryBlock(nn.Module):
    """Pre-norm attention with rotary positions, then a gated perceptron, each scaled and skippable.

    ``x + drop(γ₁ · attention(norm(x)))`` and ``x + drop(γ₂ · mlp(norm(x)))``, where mlp is SwiGLU
    (arXiv:2002.05202) with a layer norm before its second matrix.

    Args:
        width: E, a multiple of 6 times `heads`.
        heads: N.
        hidden: Hidden width of the perceptron.
        layer_scale: Start of γ.
        drop_path: Probability with which training leaves out what a sample would be given.
        norm_attended: Whether what attention found is normalised before its output matrix.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        layer_scale: float = 1.0,
        drop_path: float = 0.0,
        norm_attended: bool = False,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.drop_path = drop_path
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attended_norm = nn.LayerNorm(width) if norm_attended else nn.Identity()
        self.attention_out = nn.Linear(width, width)
        self.attention_scale = nn.Parameter(torch.full((width,), layer_scale))
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 2 * hidden)
        self.hidden_norm = nn.LayerNorm(hidden)
        self.mlp_out = nn.Linear(hidden, width)
        self.mlp_scale = nn.Parameter(torch.full((width,), layer_scale))
        for module in self.children():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x_BPE: Tensor, angle: Tensor) -> Tensor:
        """The tokens after the block.

        Args:
            x_BPE: Tokens.
            angle: Of their positions, (P,R), or (B,1,P,R) where samples have other positions.
        """
        x_BPE = x_BPE + self._skipped(self.attention_scale * self._attend(x_BPE, angle))
        gate, value = self.mlp_in(self.mlp_norm(x_BPE)).chunk(2, -1)
        added_BPE = self.mlp_out(self.hidden_norm(F.silu(gate) * value))
        return x_BPE + self._skipped(self.mlp_scale * added_BPE)

    def _attend(self, x_BPE: Tensor, angle: Tensor) -> Tensor:
        query_key_value = self.query_key_value(self.attention_norm(x_BPE))
        query, key, value = (split_heads(part, self.heads) for part in query_key_value.chunk(3, -1))
        found = F.scaled_dot_product_attention(turned(query, angle), turned(key, angle), value)
        found_BPE = self.attended_norm(found.transpose(1, 2).flatten(2))
        out_BPE: Tensor = self.attention_out(found_BPE)
        return out_BPE

    def _skipped(self, added_BPE: Tensor) -> Tensor:
        if not (self.training and self.drop_path):
            return added_BPE
        draw_B11 = torch.rand(len(added_BPE), 1, 1, device=added_BPE.device)
        # What stays is enlarged, so that evaluation adds what training adds on the average.
        return added_BPE * (draw_B11 >= self.drop_path).to(added_BPE.dtype) / (1 - self.drop_path)


class MeanPool(nn.Module):
    """The mean of the tokens, which stay as they are."""

    def forward(self, x_BPE: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled vector (B,E) and the tokens."""
        return x_BPE.mean(1), x_BPE


def patch_grid(shape: Sequence[int], patch: Sequence[int]) -> tuple[int, ...]:
    """Patches along each axis.

    Raises:
        ValueError: The volume is not made of whole patches.
    """
    if any(n % p for n, p in zip(shape, patch, strict=True)):
        raise ValueError(f"volume {tuple(shape)}: must be a multiple of the patch {tuple(patch)}")
    return tuple(n // p for n, p in zip(shape, patch, strict=True))


def rotary_angles(grid: Sequence[int], head: int, base: float = ROTARY_BASE) -> Tensor:
    """Angles (P,R) by which a position turns the R pairs of a head's channels.

    Each axis of the grid turns a third of them (Su et al., arXiv:2104.09864, in three dimensions):
    pair r of an axis by its coordinate, in patches, times ``base^(-r / (R/3))``. Computed for the
    grid at hand, so that one tower takes volumes of any shape.

    Args:
        grid: Patches along D, H and W.
        head: Channels of a head, a multiple of 6.
        base: Of the rates.
    """
    pairs = head // 6
    rates = base ** -(torch.arange(pairs, dtype=torch.float32) / pairs)
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in grid), indexing="ij")
    return torch.cat([axis.reshape(-1, 1) * rates for axis in axes], dim=1)


def turned(x_BNPC: Tensor, angle: Tensor) -> Tensor:
    """Queries or keys with each pair of channels (2r, 2r+1) turned by its angle.

    The product of a query and a key that are turned so depends on their positions through the
    difference of these alone.

    Args:
        x_BNPC: Of each head and token.
        angle: (P,R) or (B,1,P,R), in radians.
    """
    x_BNPR2 = widened(x_BNPC).reshape(*x_BNPC.shape[:-1], -1, 2)
    even, odd = x_BNPR2.unbind(-1)
    cos, sin = angle.cos(), angle.sin()
    pairs = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1)
    return pairs.flatten(-2).to(x_BNPC.dtype)
