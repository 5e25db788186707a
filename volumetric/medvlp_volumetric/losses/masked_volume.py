"""Masked autoencoding of volumes (MAE: He et al. 2022, arXiv:2111.06377).

Shape letters: B samples, P patches, K of them seen, M of them hidden, D the tower's width, W the
decoder's, V values of a patch (its voxels of every channel).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.data.batch import Batch
from medvlp.encoding import Encodings, Sizes
from medvlp.errors import ConfigError
from medvlp.losses.contrastive import widened
from medvlp.losses.objective import Objective, SampleObjective
from medvlp.models.patch_dropout import keeping, taken
from medvlp_volumetric.encoders.primus import RotaryBlock, patch_grid, rotary_angles

Count = Annotated[int, Field(gt=0)]
_LEAST_VARIANCE = 1e-6


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MaskedVolumeConfig:
    """The tower sees some patches of a volume, and a small decoder restores the others' voxels.

    Needs no text: every sample counts, with a report or without. After the paper, in three
    dimensions; the decoder knows where patches lie by rotary positions.
    """

    kind: Literal["masked-volume"] = "masked-volume"
    weight: float = 1.0
    hidden: Annotated[float, Field(gt=0, lt=1)] = 0.75
    """Share of the patches that the tower does not see."""

    normalise: bool = True
    """Whether a patch's voxels are restored up to their mean and standard deviation (the paper's
    better targets); else as the model input has them."""

    depth: Count = 2
    """Blocks of the decoder."""

    width: Count = 192
    """Of the decoder; a multiple of 6 times `heads`."""

    heads: Count = 4

    def __post_init__(self) -> None:
        if self.width % (6 * self.heads):
            raise ValueError(f"width {self.width}: must be a multiple of 6 * heads")

    def build(self, sizes: Sizes) -> Objective:
        """The objective with its decoder.

        Raises:
            ConfigError: The image tower knows no patches of volumes.
        """
        if len(sizes.patch) != 3:
            raise ConfigError(
                "objective masked-volume: the image tower has no patches to hide",
                remedy="set image.kind to primus or vit3d, or leave the objective out",
            )
        return MaskedVolumeObjective(self, sizes, sizes.patch)


class MaskedVolumeObjective(SampleObjective):
    """Mean over samples of the mean squared error over their hidden patches' voxels."""

    # The tower's encoding of the whole volume plays no part.
    reads: ClassVar[frozenset[str]] = frozenset({"see"})

    def __init__(self, config: MaskedVolumeConfig, sizes: Sizes, patch: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        self.patch = patch
        self.decoder = VoxelDecoder(config, sizes.image, sizes.channels * math.prod(patch))

    def targets(self, batch: Batch) -> tuple[tuple[Tensor, ...], Tensor]:
        """A fresh number of each sample, from which its hidden patches follow."""
        count = len(batch.sample)
        # How many patches there are is known when the volumes are ready.
        key_B = torch.randint(2**62, (count,))
        return (key_B,), torch.tensor(count, device=batch.text_mask_BNT.device)

    def total(self, encodings: Encodings, batch: Batch, targets: tuple[Tensor, ...]) -> Tensor:
        """The samples' errors."""
        (key_B,) = targets
        grid = patch_grid(batch.image.shape[2:], self.patch)
        seen_BK, hidden_BM = split_patches(key_B, math.prod(grid), self.config.hidden)
        seen_BK, hidden_BM = seen_BK.to(batch.image.device), hidden_BM.to(batch.image.device)
        with keeping(encodings.see, seen_BK):
            features = encodings.see(batch.image)
        restored_BMV = self.decoder(features.tokens_BPD, seen_BK, hidden_BM, grid)
        wanted_BMV = taken(patches_of(batch.image, self.patch), hidden_BM)
        if self.config.normalise:
            wanted_BMV = standardised(wanted_BMV)
        return (widened(restored_BMV) - wanted_BMV).square().mean((1, 2)).sum()


class VoxelDecoder(nn.Module):
    """From the tokens of seen patches to the voxels of hidden ones.

    Args:
        config: Sizes.
        width: D.
        values: V.
    """

    def __init__(self, config: MaskedVolumeConfig, width: int, values: int) -> None:
        super().__init__()
        self.embed = nn.Linear(width, config.width)
        self.unseen_W = nn.Parameter(0.02 * torch.randn(config.width))
        self.blocks = nn.ModuleList(
            RotaryBlock(config.width, config.heads, round(config.width * 8 / 3))
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, values)
        self._head = config.width // config.heads

    def forward(
        self, token_BKD: Tensor, seen_BK: Tensor, hidden_BM: Tensor, grid: Sequence[int]
    ) -> Tensor:
        """What is restored of the hidden patches (B,M,V).

        Args:
            token_BKD: Tokens of the seen patches.
            seen_BK: Their places in raster order.
            hidden_BM: The places of the others.
            grid: Patches along each axis.
        """
        seen_BKW = self.embed(token_BKD)
        count, patches = len(seen_BKW), math.prod(grid)
        x_BPW = self.unseen_W.to(seen_BKW.dtype).expand(count, patches, -1)
        x_BPW = x_BPW.scatter(1, seen_BK[..., None].expand_as(seen_BKW), seen_BKW)
        angle = rotary_angles(grid, self._head).to(x_BPW.device)
        for block in self.blocks:
            x_BPW = block(x_BPW, angle)
        restored_BMV: Tensor = self.out(self.norm(taken(x_BPW, hidden_BM)))
        return restored_BMV


def split_patches(key_B: Tensor, patches: int, hidden: float) -> tuple[Tensor, Tensor]:
    """Places of the patches that are seen (B,K) and hidden (B,M), each ascending, on the CPU.

    At least one is seen and one hidden; which ones follows from a sample's key alone.

    Args:
        key_B: A number of each sample.
        patches: P, at least 2.
        hidden: Share of them to hide.
    """
    seen = min(max(1, round(patches * (1 - hidden))), patches - 1)
    order_BP = torch.stack(
        [
            torch.randperm(patches, generator=torch.Generator().manual_seed(key))
            for key in key_B.tolist()
        ]
    )
    return order_BP[:, :seen].sort(1).values, order_BP[:, seen:].sort(1).values


def patches_of(image: Tensor, patch: Sequence[int]) -> Tensor:
    """(B,P,V): each patch's values, channel by channel, the voxels in raster order.

    Args:
        image: (B,C,D,H,W), made of whole patches.
        patch: Voxels of a patch along D, H and W.
    """
    (d, h, w), (depth, height, width) = patch_grid(image.shape[2:], patch), patch
    parts = image.reshape(*image.shape[:2], d, depth, h, height, w, width)
    return parts.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)


def standardised(value_BMV: Tensor) -> Tensor:
    """Each patch's values with mean 0 and variance 1; those of an even patch are 0."""
    variance, mean = torch.var_mean(value_BMV, -1, correction=0, keepdim=True)
    return (value_BMV - mean) / (variance + _LEAST_VARIANCE).sqrt()
