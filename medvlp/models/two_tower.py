"""The two-tower model: an image tower and a text tower that meet in one embedding space."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.data.batch import Batch, TokenIds
from medvlp.data.relations import NO_NAMES, Names
from medvlp.encoding import Encodings, ImageEncoder, ImageFeatures, Sizes, TextEncoder

MAX_SCALE = 100.0
"""Ceiling of the inverse temperature, as in CLIP (arXiv:2103.00020, section 2.5)."""


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

    def __post_init__(self) -> None:
        if not self.init_temperature >= 1 / MAX_SCALE:
            raise ValueError(f"init_temperature {self.init_temperature} is below {1 / MAX_SCALE}")


class TwoTower(nn.Module):
    """Towers, linear projections, and the scale and bias of the logits.

    Args:
        config: The joint space.
        image: The image tower.
        text: The text tower.
    """

    def __init__(self, config: TwoTowerConfig, image: ImageEncoder, text: TextEncoder) -> None:
        super().__init__()
        self.config = config
        self.image = image
        self.text = text
        # Without a bias, the mean of the projected patches is the projection of their mean.
        self.image_projection = nn.Linear(image.width, config.embed, bias=False)
        self.text_projection = nn.Linear(text.width, config.embed, bias=False)
        learn = config.learn_temperature
        start = torch.tensor(-math.log(config.init_temperature))
        self.log_scale = nn.Parameter(start, requires_grad=learn)
        self.logit_bias = nn.Parameter(torch.tensor(config.init_bias), requires_grad=learn)

    @property
    def scale(self) -> Tensor:
        """Inverse temperature, in (0, 100]."""
        return self.log_scale.clamp(max=math.log(MAX_SCALE)).exp()

    def sizes(self, names: Names = NO_NAMES, tokens: TokenIds | None = None) -> Sizes:
        """What objectives with parameters of their own need to know."""
        return Sizes(
            image=self.image.width,
            text=self.text.width,
            embed=self.config.embed,
            labels=names.labels,
            anatomies=names.anatomies,
            observations=names.observations,
            tokens=tokens,
            max_tokens=self.text.max_tokens,
        )

    def encode_image(self, image: Tensor) -> tuple[ImageFeatures, Tensor, Tensor]:
        """The tower's features, the normalised embedding (B,E) and projected patches (B,P,E)."""
        features: ImageFeatures = self.image(image)
        return self.project_image(features)

    def project_image(self, features: ImageFeatures) -> tuple[ImageFeatures, Tensor, Tensor]:
        """What `encode_image` gives for an image with these features."""
        image_BE = F.normalize(self.image_projection(features.pooled_BD).float(), dim=-1)
        return features, image_BE, self.image_projection(features.tokens_BPD).float()

    def encode_text(self, ids_MT: Tensor, mask_MT: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised embedding (M,E), zero for absent texts, and projected tokens (M,T,E)."""
        features = self.text(ids_MT, mask_MT)
        text_ME = F.normalize(self.text_projection(features.pooled_MD).float(), dim=-1)
        present_M1 = mask_MT.any(1, keepdim=True)
        return text_ME * present_M1, self.text_projection(features.tokens_MTD).float()

    def forward(self, batch: Batch) -> Encodings:
        """Encode both sides of a batch."""
        if self.training:
            self._hold_scale()
        features, image_BE, patch_BPE = self.encode_image(batch.image)
        count, texts = batch.text_BNT.shape[:2]
        text_ME, token_MTE = self.encode_text(
            batch.text_BNT.flatten(0, 1), batch.text_mask_BNT.flatten(0, 1)
        )
        return Encodings(
            image=features,
            image_BE=image_BE,
            patch_BPE=patch_BPE,
            text_BNE=text_ME.view(count, texts, -1),
            token_BNTE=token_MTE.view(count, texts, *token_MTE.shape[1:]),
            scale=self.scale,
            bias=self.logit_bias,
            see=self.image,
            read=self.text,
        )

    @torch.no_grad()
    def _hold_scale(self) -> None:
        # The parameter itself is held: past the ceiling, a clamp alone would end its gradient.
        self.log_scale.clamp_(max=math.log(MAX_SCALE))
