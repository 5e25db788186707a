"""The core's objectives: configuration classes and the thin modules that they build."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.data.batch import Batch
from medvlp.data.tables import LEVELS
from medvlp.data.text_policy import Level
from medvlp.encoding import Encodings, ImageFeatures, Sizes
from medvlp.errors import ConfigError
from medvlp.losses.fusion.objective import FusionConfig
from medvlp.losses.gather import contrast_clip, contrast_siglip
from medvlp.losses.knowledge import KnowledgeConfig
from medvlp.losses.label_targets import Uncertain, known_labels
from medvlp.losses.label_text import LabelTextConfig
from medvlp.losses.local import LocalConfig
from medvlp.losses.masked_text import MaskedTextConfig
from medvlp.losses.medslip.objective import MedslipConfig
from medvlp.losses.multi_text import MultiTextConfig
from medvlp.losses.objective import (
    AnsweringObjective,
    Objective,
    Which,
    activation_map,
    chosen_texts,
    present_texts,
)
from medvlp.losses.opposite_sentence import OppositeSentenceConfig
from medvlp.losses.prompt_pool import PromptPoolConfig
from medvlp.losses.ties import Ties, text_groups
from medvlp.losses.unicl import UniclConfig


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NegativesConfig:
    """Options of contrasts: which pairs are no negatives."""

    same_patient: Literal["negative", "leave-out"] = "negative"
    """Images and texts of other samples of one patient: negatives, or left out of the sums."""

    same_recording: Literal["negative", "leave-out"] = "negative"
    """The same of one recording, of which samples are spans."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PairsConfig(NegativesConfig):
    """Options of the contrastive objectives: which texts there are, and what each weighs."""

    texts: Which = "all"
    """Of each sample: every text; the ``first``; or the ``rest`` behind it, such as those that
    `data.texts.along` adds."""

    duplicates: Literal["negative", "leave-out", "share"] = "negative"
    """Texts of other samples in the same words (same tokens): negatives as any other; left out of
    the sums; or further positives, which share the text's target mass (clip) or count in full
    (siglip)."""

    level_weights: dict[Level, Annotated[float, Field(ge=0)]] = field(default_factory=dict)
    """Weight of a text by its level, such as ``{sentence: 0.5}``; 1 where none is given."""

    least_weight: Annotated[float, Field(ge=0, le=1)] | None = None
    """Weight w of a text whose source is not sure of it at all: one of confidence c weighs
    ``w + (1 - w)·c``, and so does its image in ``clip`` (the mean over several). Confidences count
    for nothing if not given. SurgLIME takes 0.1."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClipConfig(PairsConfig):
    """Symmetric InfoNCE (arXiv:2103.00020); several texts of a sample are all its positives."""

    kind: Literal["clip"] = "clip"
    weight: float = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target mass that goes evenly to all pairs in the sums (arXiv:1512.00567,
    section 7)."""

    to_texts: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the direction from images to texts, the rest being that from texts to images."""

    def build(self, sizes: Sizes) -> Objective:
        """The objective; `sizes` plays no part."""
        return ClipObjective(self)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SigLipConfig(PairsConfig):
    """Pairwise sigmoid loss (arXiv:2303.15343); several texts of a sample are all its positives.

    The paper starts the model at `init_temperature` 0.1 and `init_bias` -10.
    """

    kind: Literal["siglip"] = "siglip"
    weight: float = 1.0

    def build(self, sizes: Sizes) -> Objective:
        """The objective; `sizes` plays no part."""
        return SigLipObjective(self)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LabelsConfig:
    """Binary cross-entropy of each label from a linear head on the pooled image features."""

    kind: Literal["labels"] = "labels"
    weight: float = 1.0
    uncertain: Uncertain = "ignore"

    def build(self, sizes: Sizes) -> Objective:
        """The objective with its head.

        Raises:
            ConfigError: The data brings no label.
        """
        if not sizes.labels:
            raise ConfigError(
                "objective labels: the data has no labels", remedy="name some in data.labels"
            )
        return LabelsObjective(self, sizes)


CORE_OBJECTIVES: dict[str, type] = {
    "clip": ClipConfig,
    "siglip": SigLipConfig,
    "labels": LabelsConfig,
    "masked-text": MaskedTextConfig,
    "fusion": FusionConfig,
    "knowledge": KnowledgeConfig,
    "local": LocalConfig,
    "multi-text": MultiTextConfig,
    "label-text": LabelTextConfig,
    "unicl": UniclConfig,
    "prompt-pool": PromptPoolConfig,
    "medslip": MedslipConfig,
    "opposite-sentence": OppositeSentenceConfig,
}
"""The core's objectives by `kind`; a domain brings more."""

LABEL_HEADS = ("labels", "label-text")
"""Kinds that need no text (``label-text`` with learned prototypes): the supervised control's."""


PAIR_FIELDS = frozenset(
    {
        *("image_BE", "text_BNE", "scale", "text_BNT", "text_mask_BNT", "level_BN"),
        *("patient_B", "recording_B", "confidence_BN"),
    }
)
"""What a contrast under a `PairsConfig` reads."""


class ClipObjective(Objective):
    """`medvlp.losses.gather.contrast_clip` of a batch."""

    scope: ClassVar[Literal["batch", "sample"]] = "batch"
    reads: ClassVar[frozenset[str]] = PAIR_FIELDS

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, encodings: Encodings, batch: Batch) -> Tensor:
        """The loss over all ranks."""
        text_ME, owner_M = present_texts(encodings, batch, self.config.texts)
        return contrast_clip(
            encodings.image_BE,
            text_ME,
            owner_M,
            encodings.scale,
            image_ties(self.config, batch),
            smoothing=self.config.label_smoothing,
            to_texts=self.config.to_texts,
        )


class SigLipObjective(Objective):
    """`medvlp.losses.gather.contrast_siglip` of a batch."""

    scope: ClassVar[Literal["batch", "sample"]] = "batch"
    reads: ClassVar[frozenset[str]] = PAIR_FIELDS | {"bias"}

    def __init__(self, config: SigLipConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, encodings: Encodings, batch: Batch) -> Tensor:
        """The loss over all ranks."""
        text_ME, owner_M = present_texts(encodings, batch, self.config.texts)
        ties = batch_ties(self.config, batch)
        return contrast_siglip(
            encodings.image_BE, text_ME, owner_M, encodings.scale, encodings.bias, ties
        )


class LabelsObjective(AnsweringObjective):
    """A linear head and its masked binary cross-entropy, averaged over the known labels."""

    reads: ClassVar[frozenset[str]] = frozenset({"image", "labels_BL"})

    def __init__(self, config: LabelsConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config = config
        self.answers = sizes.labels
        self.head = nn.Linear(sizes.image, len(sizes.labels))

    def scores(self, features: ImageFeatures) -> Tensor:
        """Logit of each label (B,L), in float32."""
        logits_BL: Tensor = self.head(features.pooled_BD)
        return logits_BL.float()

    def places(self, features: ImageFeatures) -> Tensor:
        """The class activation map."""
        return activation_map(self.scores, features)

    def targets(self, batch: Batch) -> tuple[tuple[Tensor, ...], Tensor]:
        """Which labels are known, and their values."""
        known_BL, target_BL = known_labels(batch.labels_BL, self.config.uncertain)
        return (known_BL, target_BL), known_BL.sum()

    def total(self, encodings: Encodings, batch: Batch, targets: tuple[Tensor, ...]) -> Tensor:
        """The cross-entropies of the known labels."""
        known_BL, target_BL = targets
        loss_BL = F.binary_cross_entropy_with_logits(
            self.scores(encodings.image), target_BL, reduction="none"
        )
        return torch.where(known_BL, loss_BL, 0.0).sum()


def negative_ties(config: NegativesConfig, batch: Batch) -> Ties:
    """What options about negatives make of a batch.

    Raises:
        ValueError: They ask for patients or recordings, and the batch has none.
    """
    asked = {
        name: getattr(batch, f"{name}_B")
        for name in ("patient", "recording")
        if getattr(config, f"same_{name}") == "leave-out"
    }
    for name, found in asked.items():
        if found is None:
            raise ValueError(f"same_{name}=leave-out: the batch has no {name}_B")
    return Ties(patient_B=asked.get("patient"), recording_B=asked.get("recording"))


def batch_ties(config: PairsConfig, batch: Batch) -> Ties:
    """What a contrastive objective's options make of the batch's texts.

    Raises:
        ValueError: They ask for patients, recordings or confidences, and the batch has none.
    """
    present_BN = chosen_texts(batch, config.texts)
    group_M = weight_M = None
    if config.duplicates != "negative":
        group_M = text_groups(batch.text_BNT[present_BN], batch.text_mask_BNT[present_BN])
    if config.level_weights:
        known = {str(level): weight for level, weight in config.level_weights.items()}
        weights = [known.get(level, 1.0) for level in LEVELS]
        weight_M = torch.tensor(weights, device=present_BN.device)[batch.level_BN[present_BN]]
    if config.least_weight is not None:
        sure_M = _sure(config.least_weight, batch)[present_BN]
        weight_M = sure_M if weight_M is None else weight_M * sure_M
    return dataclasses.replace(
        negative_ties(config, batch),
        weight_M=weight_M,
        group_M=group_M,
        share=config.duplicates == "share",
    )


def image_ties(config: PairsConfig, batch: Batch) -> Ties:
    """`batch_ties`, with the weights of images where confidences give them some."""
    ties = batch_ties(config, batch)
    if config.least_weight is None:
        return ties
    present_BN = chosen_texts(batch, config.texts)
    sure_BN = _sure(config.least_weight, batch) * present_BN
    return dataclasses.replace(ties, weight_B=sure_BN.sum(1) / present_BN.sum(1).clamp(min=1))


def _sure(least: float, batch: Batch) -> Tensor:
    """The weight that its confidence gives to each text (B,N)."""
    if batch.confidence_BN is None:
        raise ValueError("least_weight: the batch has no confidence_BN")
    return least + (1 - least) * batch.confidence_BN
