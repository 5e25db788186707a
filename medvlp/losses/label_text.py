"""A label head of prototypes: the supervised term of DLILP, also by itself the unimodal baseline.

DLILP (arXiv:2504.05227) adds it to a contrast of images and texts of a tenth of its weight; alone,
it is the baseline with which that paper asks what texts are good for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.data.batch import Batch
from medvlp.encoding import Encodings, ImageFeatures, Sizes, TextFeatures
from medvlp.errors import ConfigError
from medvlp.losses.contrastive import widened
from medvlp.losses.label_targets import Uncertain, known_labels
from medvlp.losses.objective import AnsweringObjective, Objective, activation_map

MAX_SCALE = 100.0
"""Ceiling of the head's inverse temperature."""

Read = Callable[[Tensor, Tensor], TextFeatures]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LabelTextConfig:
    """Cross-entropy of labels from cosines with prototypes (DLILP, arXiv:2504.05227)."""

    kind: Literal["label-text"] = "label-text"
    weight: float = 1.0
    prototypes: Literal["learned", "text"] = "learned"
    """``learned``: a free vector for each label, no text. ``text``: what the text tower makes of
    the label's name, read anew in every step."""

    uncertain: Uncertain = "ignore"
    init_temperature: Annotated[float, Field(ge=1 / MAX_SCALE)] = 0.07
    """Start of the head's own temperature, the inverse of its scale."""

    def build(self, sizes: Sizes) -> Objective:
        """The objective with its head.

        Raises:
            ConfigError: The data brings no label, or label names cannot be read.
        """
        if not sizes.labels:
            raise ConfigError(
                "objective label-text: the data has no labels", remedy="name some in data.labels"
            )
        if self.prototypes == "learned":
            return LearnedLabels(self, sizes)
        if sizes.tokens is None or sizes.tokens.encode is None:
            raise ConfigError(
                "objective label-text: there is no tokenizer to read the labels' names",
                remedy="set prototypes to learned",
            )
        ids_LT, mask_LT = sizes.tokens.encode([phrase(name) for name in sizes.labels])
        return NamedLabels(self, sizes, ids_LT, mask_LT)


def phrase(label: str) -> str:
    """A label's name as words.

    >>> phrase("pleural_effusion")
    'pleural effusion'
    """
    return " ".join(label.replace("_", " ").split())


def prototype_logits(image_BE: Tensor, prototype_LE: Tensor, scale: Tensor | float) -> Tensor:
    """``s·cos(x_i, c_k)``, (B,L), in float32 or better; neither needs to be normalised."""
    with torch.autocast(image_BE.device.type, enabled=False):
        image_BE = F.normalize(widened(image_BE), dim=1)
        return scale * image_BE @ F.normalize(widened(prototype_LE), dim=1).T


def label_losses(logit_BL: Tensor, known_BL: Tensor, target_BL: Tensor) -> Tensor:
    """Each sample's mean cross-entropy over its known labels, (B,); 0 where none is known.

    ``Σ_k m_k·BCE_k / (Σ_k m_k + 10⁻³)``, as published.
    """
    loss_BL = F.binary_cross_entropy_with_logits(logit_BL, target_BL, reduction="none")
    return torch.where(known_BL, loss_BL, 0.0).sum(1) / (known_BL.sum(1) + 1e-3)


class LabelTextObjective(AnsweringObjective):
    """The head and its loss, averaged over the samples of which some label is known.

    Published is the mean over all samples, whose share without a label would change the weight.
    """

    def __init__(self, config: LabelTextConfig, sizes: Sizes, width: int) -> None:
        super().__init__()
        self.uncertain: Uncertain = config.uncertain
        self.answers = sizes.labels
        self.projection = nn.Linear(sizes.image, width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.init_temperature)))

    def prototypes(self, read: Read | None) -> Tensor:
        """A vector of each label; `read` is the text tower in training, else None."""
        raise NotImplementedError

    def scores(self, features: ImageFeatures) -> Tensor:
        """Logit of each label (B,L), in float32."""
        return self._logits(features, None).float()

    def places(self, features: ImageFeatures) -> Tensor:
        """The class activation map."""
        return activation_map(self.scores, features)

    def targets(self, batch: Batch) -> tuple[tuple[Tensor, ...], Tensor]:
        """Which labels are known, and their values; as many terms as samples with one."""
        known_BL, target_BL = known_labels(batch.labels_BL, self.uncertain)
        return (known_BL, target_BL), known_BL.any(1).sum()

    def total(self, encodings: Encodings, batch: Batch, targets: tuple[Tensor, ...]) -> Tensor:
        """The samples' cross-entropies."""
        if self.training:
            self._hold_scale()
        known_BL, target_BL = targets
        logit_BL = self._logits(encodings.image, encodings.read)
        return label_losses(logit_BL, known_BL, target_BL.to(logit_BL.dtype)).sum()

    def _logits(self, features: ImageFeatures, read: Read | None) -> Tensor:
        image_BE = self.projection(features.pooled_BD)
        return prototype_logits(image_BE, self.prototypes(read), self.log_scale.exp())

    @torch.no_grad()
    def _hold_scale(self) -> None:
        self.log_scale.clamp_(max=math.log(MAX_SCALE))


class LearnedLabels(LabelTextObjective):
    """Free prototypes, in a space as wide as the joint embedding."""

    reads: ClassVar[frozenset[str]] = frozenset({"image", "labels_BL"})

    def __init__(self, config: LabelTextConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes, sizes.embed)
        start_LE = nn.init.kaiming_normal_(torch.empty(len(sizes.labels), sizes.embed))
        self.prototype_LE = nn.Parameter(start_LE)

    def prototypes(self, read: Read | None) -> Tensor:
        """The learned ones."""
        return self.prototype_LE


class NamedLabels(LabelTextObjective):
    """What the text tower makes of the labels' names; a bundle holds its last reading."""

    reads: ClassVar[frozenset[str]] = frozenset({"image", "labels_BL", "read"})

    def __init__(
        self, config: LabelTextConfig, sizes: Sizes, ids_LT: Tensor, mask_LT: Tensor
    ) -> None:
        super().__init__(config, sizes, sizes.text)
        self.ids_LT: Tensor
        self.mask_LT: Tensor
        self.prototype_LD: Tensor
        self.register_buffer("ids_LT", ids_LT, persistent=False)
        self.register_buffer("mask_LT", mask_LT, persistent=False)
        self.register_buffer("prototype_LD", torch.zeros(len(sizes.labels), sizes.text))

    def prototypes(self, read: Read | None) -> Tensor:
        """The names as the text tower reads them; without it, its last reading."""
        if read is None:
            return self.prototype_LD
        return read(self.ids_LT, self.mask_LT).pooled_MD

    @torch.no_grad()
    def settle(self, read: Read) -> None:
        """Keep what the trained text tower makes of the names."""
        self.prototype_LD.copy_(self.prototypes(read))
