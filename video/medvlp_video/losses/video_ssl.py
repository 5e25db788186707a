"""What a tower learns from two views of each clip: SimCLR and SimSiam, and views' own texts."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.data.batch import Batch
from medvlp.encoding import OF_IMAGE, Encodings, Sizes
from medvlp.losses.contrastive import widened
from medvlp.losses.gather import contrast_views
from medvlp.losses.objective import Objective, share
from medvlp.losses.objectives import PAIR_FIELDS, ClipConfig, SigLipConfig
from medvlp_video.losses.ego_nce import EgoNceConfig
from medvlp_video.losses.mil_nce import MilNceConfig
from medvlp_video.losses.views import Reach, draw_looks, look_at

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(gt=0)]
OfClips = Annotated[
    ClipConfig | SigLipConfig | MilNceConfig | EgoNceConfig, Field(discriminator="kind")
]
"""Contrasts of whole clips with texts."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VideoSslConfig:
    """Two views of each clip: told from other clips' (SimCLR), predicted from each other (SimSiam).

    The tower sees each clip twice more. What PeskaVLP's code calls SimSiam is SimCLR's loss; both
    are here. Departures from its views: nothing is flipped unless `flip` says so, hues stay, and a
    clip's frames are made alike unless `per` says so; from SimSiam: layer norm in place of batch
    norm, so that no sample depends on which others share its device.
    """

    kind: Literal["video-ssl"] = "video-ssl"
    weight: float = 1.0
    contrast: Weight = 1.0
    """Weight of NT-Xent (arXiv:2002.05709): the other view against both views of all others."""

    temperature: Annotated[float, Field(gt=0)] = 0.1
    siamese: Weight = 0.0
    """Weight of one minus the cosine of each view's prediction with the other view, which has no
    gradient (arXiv:2011.10566)."""

    embed: Count | None = None
    """Width of a projection of its own for both; without it, they look at the joint space, as
    PeskaVLP does."""

    on_views: tuple[OfClips, ...] = ()
    """Objectives on clips and texts that are also computed for each of the two views, by weight:
    the value is the sum over both views."""

    per: Literal["clip", "frame"] = "clip"
    """Whether a view's frames are cropped and coloured alike, or each anew, as published."""

    least_crop: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Smallest share of the area that a crop keeps; published: 0.08."""

    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.4
    """Brightness, contrast and saturation change by up to this fraction."""

    jittered: Share = 0.8
    """Probability that they do."""

    grey: Share = 0.2
    """Probability that the colours go."""

    blur: Share = 0.5
    """Probability of a blur."""

    flip: Share = 0.0
    """Probability that left and right change places; published: 0.5. Texts that name a side are
    then wrong."""

    def __post_init__(self) -> None:
        if not self.contrast + self.siamese and not self.on_views:
            raise ValueError("contrast and siamese have no weight, and on_views names nothing")

    def build(self, sizes: Sizes) -> Objective:
        """The objective with its heads."""
        return (ViewsAndTextsObjective if self.on_views else VideoSslObjective)(self, sizes)


class VideoSslObjective(Objective):
    """The weighted sum over all ranks; two views of each clip follow from its seed."""

    scope: ClassVar[Literal["batch", "sample"]] = "batch"
    # The tower's encoding of the clip itself plays no part.
    reads: ClassVar[frozenset[str]] = frozenset({"see", "place", "seed_B"})

    def __init__(self, config: VideoSslConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config = config
        self.normal = sizes.mean, sizes.std
        width = sizes.embed if config.embed is None else config.embed
        self.projection = None if config.embed is None else _mlp(sizes.image, sizes.image, width)
        self.predictor = _mlp(width, max(1, width // 4), width) if config.siamese else None
        self.on_views = nn.ModuleList(each.build(sizes) for each in config.on_views)

    def forward(self, encodings: Encodings, batch: Batch) -> Tensor:
        """The value over all ranks.

        Raises:
            ValueError: The batch has no seeds.
        """
        config = self.config
        features = encodings.see(torch.cat(self._views(batch)))
        placed_VE = encodings.place(features)
        vector_VE = placed_VE if self.projection is None else self.projection(features.pooled_BD)
        one_BE, other_BE = vector_VE.chunk(2)
        loss = 0.0 * widened(placed_VE).sum()
        if config.contrast:
            views = contrast_views(one_BE, other_BE, 1 / config.temperature)
            loss = loss + config.contrast * views
        if self.predictor is not None:
            ahead_BE, back_BE = self.predictor(vector_VE).chunk(2)
            apart_B = (unlike(ahead_BE, other_BE) + unlike(back_BE, one_BE)) / 2
            count = torch.tensor(len(apart_B), device=apart_B.device)
            loss = loss + config.siamese * share(count) * apart_B.sum()
        for image_BE in placed_VE.chunk(2) if self.on_views else ():
            seen = dataclasses.replace(
                encodings, image_BE=F.normalize(image_BE, dim=1), image_raw_BE=image_BE
            )
            for each, objective in zip(config.on_views, self.on_views, strict=True):
                loss = loss + each.weight * objective(seen, batch)
        return loss

    def _views(self, batch: Batch) -> list[Tensor]:
        if batch.seed_B is None:
            raise ValueError("video-ssl: the batch has no seed_B")
        config = self.config
        reach = Reach(
            least_crop=config.least_crop,
            jitter=config.jitter,
            jittered=config.jittered,
            grey=config.grey,
            blur=config.blur,
            flip=config.flip,
        )
        looks = (
            draw_looks(reach, batch.seed_B, batch.image.shape[1], config.per, number)
            for number in range(2)
        )
        return [look_at(batch.image, look_BFK, *self.normal) for look_BFK in looks]


class ViewsAndTextsObjective(VideoSslObjective):
    """The same with objectives that read texts."""

    reads: ClassVar[frozenset[str]] = (
        VideoSslObjective.reads | PAIR_FIELDS | {"text_raw_BNE", "labels_BL", "bias"}
    ) - OF_IMAGE


def unlike(predicted_BE: Tensor, seen_BE: Tensor) -> Tensor:
    """One minus the cosine of each pair (B,), in float32 or better; the second has no gradient."""
    with torch.autocast(predicted_BE.device.type, enabled=False):
        return 1 - F.cosine_similarity(widened(predicted_BE), widened(seen_BE).detach())


def _mlp(width: int, hidden: int, out: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, out)
    )
