"""What an image tower learns from volumes alone: views, turns, and what was cut out.

The three objectives of SwinUNETR's pre-training (Tang et al., CVPR 2022, arXiv:2111.14791, section
3.2), which VELVET-Med (arXiv:2508.12108) takes over as its visual part, over the same two views.

Shape letters as in `medvlp_volumetric.losses.views`; E width of the contrast.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.data.batch import Batch
from medvlp.encoding import Encodings, ImageFeatures, Sizes
from medvlp.errors import ConfigError
from medvlp.losses.contrastive import widened
from medvlp.losses.gather import contrast_views
from medvlp.losses.objective import Objective, share
from medvlp_volumetric.losses.views import LEAST_BLOCK, TURNS, Views, two_views

Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VolumeSslConfig:
    """Contrast of views, their quarter turns, and restoring blocks that were cut out of them.

    The tower sees each volume twice more. Departures: turn and contrast are read off the tower's
    pooled vector, not off two of its tokens; holes hold noise, never another volume's voxels, so
    that no sample depends on which others share its device.
    """

    NEEDS_GRID: ClassVar[str] = "turns, crops and restores voxels"

    kind: Literal["volume-ssl"] = "volume-ssl"
    weight: float = 1.0
    contrast: Weight = 1.0
    """Weight of telling a volume's two views from all other volumes' views."""

    rotation: Weight = 1.0
    """Weight of telling how many quarter turns about the head-feet axis a view has made."""

    inpaint: Weight = 1.0
    """Weight of the mean absolute error of the restored views."""

    shape: tuple[Count, Count, Count] | None = None
    """D, H and W of the views, a crop at a place drawn anew; whole volumes if not given."""

    temperature: Annotated[float, Field(gt=0)] = 0.5
    embed: Count = 512
    """Width of the contrast's projection."""

    max_drop: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Largest share of a view that is cut out."""

    max_block: Annotated[float, Field(ge=LEAST_BLOCK, le=1)] = 0.25
    """Largest side of a block that is cut out, as a share of the view's."""

    stages: Count = 5
    """Steps of the decoder from the tower's last map to the view's voxels; it halves its width
    with each."""

    def __post_init__(self) -> None:
        if not self.contrast + self.rotation + self.inpaint:
            raise ValueError("contrast, rotation and inpaint have no weight")

    def build(self, sizes: Sizes) -> Objective:
        """The objective with its heads."""
        return VolumeSslObjective(self, sizes)


class VolumeSslObjective(Objective):
    """The weighted sum of three means: over views, over views, over views' voxels."""

    scope: ClassVar[Literal["batch", "sample"]] = "batch"
    # The tower's encoding of the whole volume plays no part.
    reads: ClassVar[frozenset[str]] = frozenset({"see"})

    def __init__(self, config: VolumeSslConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config = config
        self.contrast = nn.Linear(sizes.image, config.embed) if config.contrast else None
        self.rotation = nn.Linear(sizes.image, TURNS) if config.rotation else None
        self.inpaint = None
        if config.inpaint:
            self.inpaint = MapDecoder(sizes.image, sizes.channels, config.stages)

    def forward(self, encodings: Encodings, batch: Batch) -> Tensor:
        """The value over all ranks.

        Raises:
            ConfigError: Views that the volumes cannot give, or a tower without a map.
        """
        config = self.config
        views = self._views(batch)
        features = encodings.see(views.cut())
        loss = 0.0 * widened(features.pooled_BD).sum()
        if self.contrast is not None:
            one_BE, other_BE = self.contrast(features.pooled_BD).chunk(2)
            loss = loss + config.contrast * contrast_views(one_BE, other_BE, 1 / config.temperature)
        if self.rotation is not None:
            logit_V4 = widened(self.rotation(features.pooled_BD))
            loss_V = F.cross_entropy(logit_V4, views.turn_V, reduction="none")
            loss = loss + config.rotation * _mean(loss_V)
        if self.inpaint is not None:
            loss = loss + config.inpaint * _mean(self._errors(self.inpaint, features, views))
        return loss

    def _views(self, batch: Batch) -> Views:
        config = self.config
        try:
            return two_views(
                batch.image,
                config.shape,
                turns=self.rotation is not None,
                most=config.max_drop,
                block=config.max_block,
            )
        except ValueError as error:
            raise ConfigError(
                f"objective volume-ssl: {error}",
                remedy="set the objective's shape to a crop with H and W alike, or rotation to 0",
            ) from error

    def _errors(self, decoder: MapDecoder, features: ImageFeatures, views: Views) -> Tensor:
        """Each view's mean absolute error (V,)."""
        if not features.maps:
            raise ConfigError(
                "objective volume-ssl: the image tower leaves patches out, and gives no map to "
                "restore views from",
                remedy="set image.patch_dropout to 0, or the objective's inpaint",
            )
        whole_VCDHW = views.whole_VCDHW
        restored_VCDHW = decoder(features.maps[-1], whole_VCDHW.shape[2:])
        return (widened(restored_VCDHW) - whole_VCDHW).abs().flatten(1).mean(1)


class MapDecoder(nn.Module):
    """From a coarse map to the voxels that it was made of, whatever the tower's strides.

    Each stage enlarges to the nearest voxel, then comes a convolution, a norm over the sample and
    an activation; sizes go in equal ratios from the map's to the volume's.

    Args:
        width: Channels of the map.
        channels: Channels of the volume.
        stages: Number of stages.
    """

    def __init__(self, width: int, channels: int, stages: int) -> None:
        super().__init__()
        widths = [max(width >> k, 1) for k in range(stages + 1)]
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(before, after, 3, padding=1), nn.GroupNorm(1, after), nn.LeakyReLU(0.01)
            )
            for before, after in itertools.pairwise(widths)
        )
        self.out = nn.Conv3d(widths[-1], channels, 1)

    def forward(self, map_BCDHW: Tensor, shape: Sequence[int]) -> Tensor:
        """(B,C,*shape)."""
        start, count = map_BCDHW.shape[2:], len(self.stages)
        x = map_BCDHW
        for k, stage in enumerate(self.stages, 1):
            size = [round(a * (b / a) ** (k / count)) for a, b in zip(start, shape, strict=True)]
            x = stage(F.interpolate(x, size, mode="nearest"))
        volume: Tensor = self.out(x)
        return volume


def _mean(loss_V: Tensor) -> Tensor:
    """The mean over all ranks' terms, once it is averaged over ranks."""
    return share(torch.tensor(len(loss_V), device=loss_V.device)) * loss_V.sum()
