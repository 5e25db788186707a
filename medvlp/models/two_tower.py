"""The two-tower model: an image tower and a text tower that meet in one embedding space."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.data.batch import Batch, TokenIds
from medvlp.data.prompts import PromptSet
from medvlp.data.relations import NO_NAMES, Names
from medvlp.encoding import (
    OF_IMAGE,
    OF_TEXT,
    Encodings,
    ImageEncoder,
    ImageFeatures,
    Sizes,
    TextEncoder,
    TextFeatures,
)
from medvlp.errors import ConfigError
from medvlp.models.projection import LinearProjection, Projection
from medvlp.models.recompute import SecondLook

MAX_SCALE = 100.0
"""The usual ceiling of the inverse temperature, as in CLIP (arXiv:2103.00020, section 2.5)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TwoTowerConfig:
    """The joint embedding space."""

    embed: int = 128
    """Width of the joint embedding."""

    init_temperature: float = 0.07
    """Start of the softmax temperature; the scale is its inverse. SigLIP starts at 0.1."""

    init_bias: float = 0.0
    """Start of the logit bias; SigLIP starts at -10 (arXiv:2303.15343)."""

    learn_temperature: bool = True
    max_scale: float = MAX_SCALE
    """Ceiling of the inverse temperature; weights that others trained may have gone beyond ours."""

    image_projection: Projection = LinearProjection()
    text_projection: Projection = LinearProjection()
    patch_projection: Projection | None = None
    """Of the image's patches, where theirs is not the whole image's."""

    token_projection: Projection | None = None
    """Of a text's tokens, where theirs is not the whole text's."""

    project_patches_first: bool = False
    """The image's embedding is the mean of its projected patches, not the projection of their
    mean: they differ where the projection is no linear map (BioViL, arXiv:2204.09817)."""

    image_mean: Literal["features", "units"] = "features"
    """Of an image tower that gives vectors of parts (frames). ``features``: the embedding is their
    mean, projected and normalised. ``units``: each is projected and normalised, and the embedding
    is the mean of these, as it is: its product with a text is the mean of the parts' cosines with
    it (SurgCLIP)."""

    def __post_init__(self) -> None:
        if not self.init_temperature >= 1 / self.max_scale:
            raise ValueError(
                f"init_temperature {self.init_temperature} is below {1 / self.max_scale}"
            )
        if self.image_mean == "units" and self.project_patches_first:
            raise ValueError("image_mean units averages parts, project_patches_first patches")


class TwoTower(nn.Module):
    """Towers, projections, and the scale and bias of the logits.

    Args:
        config: The joint space.
        image: The image tower.
        text: The text tower.

    Raises:
        ConfigError: A tower without projection is not as wide as the joint space, or one without
            parts is asked for the mean of theirs.
    """

    def __init__(self, config: TwoTowerConfig, image: ImageEncoder, text: TextEncoder) -> None:
        super().__init__()
        if config.image_mean == "units" and not image.gives_parts:
            raise ConfigError(
                "model.image_mean: units, and the image tower gives one vector for the whole",
                remedy="set model.image_mean to features, or let the tower pool by the mean",
            )
        self.config = config
        self.image = image
        self.text = text
        self.image_projection: nn.Module = config.image_projection.build(image.width, config.embed)
        self.text_projection: nn.Module = config.text_projection.build(text.width, config.embed)
        if config.patch_projection is not None:
            width = image.token_width or image.width
            self.patch_projection: nn.Module = config.patch_projection.build(width, config.embed)
        if config.token_projection is not None:
            self.token_projection: nn.Module = config.token_projection.build(
                text.width, config.embed
            )
        learn = config.learn_temperature
        start = torch.tensor(-math.log(config.init_temperature))
        self.log_scale = nn.Parameter(start, requires_grad=learn)
        self.logit_bias = nn.Parameter(torch.tensor(config.init_bias), requires_grad=learn)

    @property
    def scale(self) -> Tensor:
        """Inverse temperature, above 0 and at most `max_scale`."""
        return self.log_scale.clamp(max=math.log(self.config.max_scale)).exp()

    def sizes(
        self,
        names: Names = NO_NAMES,
        tokens: TokenIds | None = None,
        *,
        channels: int = 1,
        mean: float | tuple[float, ...] = 0.0,
        std: float | tuple[float, ...] = 1.0,
        prompts: PromptSet | None = None,
    ) -> Sizes:
        """What objectives with parameters of their own need to know."""
        return Sizes(
            image=self.image.width,
            text=self.text.width,
            embed=self.config.embed,
            channels=channels,
            patch=self.image.patch,
            labels=names.labels,
            anatomies=names.anatomies,
            observations=names.observations,
            regions=names.regions,
            mean=mean,
            std=std,
            tokens=tokens,
            max_tokens=self.text.max_tokens,
            maps=self.image.map_widths,
            sentences=self.text.max_sentences,
            prompts=prompts,
        )

    def encode_image(self, image: Tensor) -> tuple[ImageFeatures, Tensor, Tensor]:
        """The tower's features, the embedding (B,E) and projected patches (B,P,E)."""
        features: ImageFeatures = self.image(image)
        return self.project_image(features)

    def project_image(self, features: ImageFeatures) -> tuple[ImageFeatures, Tensor, Tensor]:
        """What `encode_image` gives for an image with these features."""
        patch_BPE = self._project_patches(features)
        placed_BE = self.place_image(features, patch_BPE)
        if self.config.image_mean == "units":
            return features, placed_BE, patch_BPE
        return features, F.normalize(placed_BE, dim=-1), patch_BPE

    def place_image(self, features: ImageFeatures, patch_BPE: Tensor | None = None) -> Tensor:
        """Where an image with these features lies in the joint space (B,E), not normalised.

        With ``image_mean: units`` it is the mean of unit vectors, which is the embedding itself.

        Args:
            features: Its features.
            patch_BPE: Its projected patches, if they are at hand.
        """
        if self.config.project_patches_first:
            return (self._project_patches(features) if patch_BPE is None else patch_BPE).mean(1)
        if self.config.image_mean == "units":
            unit_BGE = F.normalize(self.image_projection(features.part_BGD).float(), dim=-1)
            return unit_BGE.mean(1)
        placed_BE: Tensor = self.image_projection(features.pooled_BD).float()
        return placed_BE

    def _project_patches(self, features: ImageFeatures) -> Tensor:
        own = self.config.patch_projection is not None
        project = self.patch_projection if own else self.image_projection
        patch_BPE: Tensor = project(features.tokens_BPD).float()
        if features.mask_BP is not None:
            # A bias would make something of tokens that stand for nothing. What weighs patches by
            # their products with a text passes over zeros, and a mean's direction knows none.
            patch_BPE = patch_BPE * features.mask_BP[..., None]
        return patch_BPE

    def embed_pooled(self, pooled_BD: Tensor) -> Tensor:
        """The normalised embedding (B,E) of pooled features, of a model that projects those."""
        return F.normalize(self.image_projection(pooled_BD).float(), dim=-1)

    def encode_text(self, ids_MT: Tensor, mask_MT: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised embedding (M,E), zero for absent texts, and projected tokens (M,T,E)."""
        return self.project_text(self.text(ids_MT, mask_MT), mask_MT)

    def project_text(self, features: TextFeatures, mask_MT: Tensor) -> tuple[Tensor, Tensor]:
        """What `encode_text` gives for texts with these features."""
        text_ME = F.normalize(self.text_projection(features.pooled_MD).float(), dim=-1)
        present_M1 = mask_MT.any(1, keepdim=True)
        return text_ME * present_M1, self.project_tokens(features.tokens_MTD).float()

    def embed_text(self, ids_MT: Tensor, mask_MT: Tensor) -> Tensor:
        """The normalised embedding (M,E), zero for absent texts."""
        return self.encode_text(ids_MT, mask_MT)[0]

    def project_tokens(self, tokens_MTD: Tensor) -> Tensor:
        """A text's tokens in the joint space, not normalised."""
        own = self.config.token_projection is not None
        projected: Tensor = (self.token_projection if own else self.text_projection)(tokens_MTD)
        return projected

    def forward(
        self, batch: Batch, reads: Collection[str] | None = None, *, whole: bool = True
    ) -> Encodings:
        """Encode both sides of a batch.

        Args:
            batch: The batch, ready.
            reads: Fields of the result that are wanted; None for all. A side of which none is
                wanted is not encoded: its fields are NaN, one for each sample.
            whole: Whether images themselves are encoded, in this step or in another of the run.
        """
        if self.training:
            self._hold_scale()
        unread_B = batch.labels_BL.new_full((len(batch.sample),), torch.nan)
        image = ImageFeatures(pooled_BD=unread_B, tokens_BPD=unread_B, grid=(), maps=())
        image_BE = patch_BPE = text_BNE = token_BNTE = state_BNTD = unread_B
        sentence_BNSD = image_raw_BE = text_raw_BNE = None
        if reads is None or not OF_IMAGE.isdisjoint(reads):
            image, image_BE, patch_BPE = self.encode_image(batch.image)
            if reads and "image_raw_BE" in reads:
                image_raw_BE = self.place_image(image, patch_BPE)
        if reads is None or not OF_TEXT.isdisjoint(reads):
            shape = batch.text_BNT.shape[:2]
            mask_MT = batch.text_mask_BNT.flatten(0, 1)
            told: TextFeatures = self.text(batch.text_BNT.flatten(0, 1), mask_MT)
            text_ME, token_MTE = self.project_text(told, mask_MT)
            text_BNE = text_ME.view(*shape, -1)
            token_BNTE = token_MTE.view(*shape, *token_MTE.shape[1:])
            state_BNTD = told.tokens_MTD.view(*shape, *told.tokens_MTD.shape[1:])
            if reads and "text_raw_BNE" in reads:
                placed_ME = self.text_projection(told.pooled_MD).float() * mask_MT.any(1)[:, None]
                text_raw_BNE = placed_ME.view(*shape, -1)
            if told.sentence_MSD is not None:
                sentence_BNSD = told.sentence_MSD.view(*shape, *told.sentence_MSD.shape[1:])
        return Encodings(
            image=image,
            image_BE=image_BE,
            patch_BPE=patch_BPE,
            text_BNE=text_BNE,
            token_BNTE=token_BNTE,
            scale=self.scale,
            bias=self.logit_bias,
            see=SecondLook(self.image) if whole else self.image,
            read=self.text,
            state_BNTD=state_BNTD,
            sentence_BNSD=sentence_BNSD,
            region_BRE=self._regions(batch) if reads and "region_BRE" in reads else None,
            image_raw_BE=image_raw_BE,
            text_raw_BNE=text_raw_BNE,
            embed=self.embed_text,
            place=self.place_image,
        )

    def _regions(self, batch: Batch) -> Tensor:
        """What is said of regions, each text read once: many are said of many regions alike."""
        assert batch.region_text_BRT is not None
        assert batch.region_mask_BRT is not None
        ids_MT, mask_MT = batch.region_text_BRT.flatten(0, 1), batch.region_mask_BRT.flatten(0, 1)
        own_M = torch.unique(ids_MT.where(mask_MT, -1), dim=0, return_inverse=True)[1]
        order_M = torch.arange(len(own_M), device=own_M.device)
        first_K = own_M.new_zeros(int(own_M.max()) + 1).scatter(0, own_M, order_M)
        text_KE = self.embed_text(ids_MT[first_K], mask_MT[first_K])
        return text_KE[own_M].view(*batch.region_text_BRT.shape[:2], -1)

    @torch.no_grad()
    def _hold_scale(self) -> None:
        # The parameter itself is held: past the ceiling, a clamp alone would end its gradient.
        self.log_scale.clamp_(max=math.log(self.config.max_scale))
