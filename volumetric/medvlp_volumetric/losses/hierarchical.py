"""Sentences and regions, words and patches: the lower levels of VELVET-Med (arXiv:2508.12108).

Two local contrasts (`medvlp.losses.local`), each between a level of the text and a map of the
image tower. The uppermost level, report and volume, is the objective `clip`.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.data.batch import Batch, TokenIds
from medvlp.encoding import Encodings, ImageFeatures, ReadText, Sizes
from medvlp.errors import ConfigError
from medvlp.losses.local import (
    Aggregate,
    Duplicates,
    Words,
    contrast_local,
    own_words,
    twin_groups,
    word_places,
)
from medvlp.losses.objective import AligningObjective, Objective
from medvlp.models.projection import LinearProjection, Projection

Weight = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HierarchicalConfig:
    """Sentence-to-region and word-to-patch contrast.

    The paper sums over a text's parts, so that a volume agrees more with longer texts; our default
    is the mean. Words are the tokenizer's tokens.
    """

    reads_tokens: ClassVar[str] = "looks at each sentence and word"

    kind: Literal["hierarchical"] = "hierarchical"
    weight: float = 1.0
    sentence: Weight = 1.0
    """Weight of the contrast of sentences and regions; 0 leaves the level out."""

    word: Weight = 1.0
    """Weight of the contrast of words and patches; 0 leaves the level out."""

    sentence_map: int = -2
    """The image tower's map of which a voxel is a region, -1 being its coarsest."""

    word_map: int = -3
    """The map of which a voxel is a patch."""

    aggregate: Aggregate = "mean"
    """Of the agreements of a text's sentences, or words, with a volume."""

    duplicates: Duplicates = "negative"
    """Texts of other samples in the same words, as studies without findings have them: negatives
    as any other, as in the paper, or left out of the sums."""

    projection: Projection = LinearProjection()
    """What takes regions, sentences, patches and words to the joint space's width, each with
    weights of its own."""

    def __post_init__(self) -> None:
        if not self.sentence + self.word:
            raise ValueError("sentence and word have no weight")

    def build(self, sizes: Sizes) -> Objective:
        """The objective with its projections.

        Raises:
            ConfigError: The towers do not give what is contrasted.
        """
        if sizes.tokens is None:
            raise ConfigError(
                "objective hierarchical: the tokenizer's special tokens are not known",
                remedy="build the objective with the run's tokenizer",
            )
        if self.sentence and (sizes.sentences is None or sizes.tokens.sentence is None):
            raise ConfigError(
                "objective hierarchical: the text tower tells no sentences apart",
                remedy="set text.kind=tribert and data.texts.mark_sentences=true, or sentence=0",
            )
        return HierarchicalObjective(self, sizes, sizes.tokens)


class HierarchicalObjective(AligningObjective):
    """The weighted sum of the levels' contrasts; see `contrast_local`."""

    scope: ClassVar[Literal["batch", "sample"]] = "batch"
    reads: ClassVar[frozenset[str]] = frozenset(
        {"image", "state_BNTD", "sentence_BNSD", "text_BNT", "text_mask_BNT"}
    )

    def __init__(self, config: HierarchicalConfig, sizes: Sizes, tokens: TokenIds) -> None:
        super().__init__()
        self.config = config
        self.tokens = tokens
        self.sentence = _Level(config, sizes, config.sentence_map) if config.sentence else None
        self.word = _Level(config, sizes, config.word_map) if config.word else None

    def forward(self, encodings: Encodings, batch: Batch) -> Tensor:
        """The loss over all ranks."""
        terms = []
        group_BN = twin_groups(batch, self.config.duplicates)
        if self.sentence is not None:
            assert encodings.sentence_BNSD is not None
            real_BNS = self._own_sentences(batch, encodings.sentence_BNSD.shape[2])
            sentences = Words.of(encodings.sentence_BNSD, real_BNS, group_BN)
            terms.append(self.config.sentence * self.sentence(encodings.image, sentences))
        if self.word is not None:
            assert encodings.state_BNTD is not None
            own_BNT = own_words(batch, self.tokens.special)
            words = Words.of(encodings.state_BNTD, own_BNT, group_BN)
            terms.append(self.config.word * self.word(encodings.image, words))
        return torch.stack(terms).sum()

    def text_places(self, features: ImageFeatures, patch_PE: Tensor, text: ReadText) -> Tensor:
        """See `AligningObjective.text_places`; by words if they were aligned, on their map."""
        if self.word is not None:
            return self.word.places(features, text.state_TD)
        assert self.sentence is not None
        assert text.sentence_SD is not None
        return self.sentence.places(features, text.sentence_SD)

    def _own_sentences(self, batch: Batch, most: int) -> Tensor:
        """Where the batch's texts have a sentence (B,N,S)."""
        assert self.tokens.sentence is not None
        mark_BNT = (batch.text_BNT == self.tokens.sentence) & batch.text_mask_BNT
        place_S = torch.arange(most, device=mark_BNT.device)
        return place_S < mark_BNT.sum(2)[..., None]


class _Level(nn.Module):
    """A level of the text against a map of the image, in a space of their own.

    Raises:
        ConfigError: The image tower has no such map.
    """

    def __init__(self, config: HierarchicalConfig, sizes: Sizes, index: int) -> None:
        super().__init__()
        if not -len(sizes.maps) <= index < len(sizes.maps):
            raise ConfigError(
                f"objective hierarchical: the image tower gives {len(sizes.maps)} maps, number "
                f"{index} is none of them",
                remedy="use a tower with maps of several scales, such as resnet3d, or change "
                "sentence_map and word_map",
            )
        self.index = index
        self.aggregate = config.aggregate
        self.image: nn.Module = config.projection.build(sizes.maps[index], sizes.embed)
        self.text: nn.Module = config.projection.build(sizes.text, sizes.embed)

    def forward(self, features: ImageFeatures, parts: Words) -> Tensor:
        """The contrast of the map's voxels with the texts' parts, as the tower gives both."""
        projected = dataclasses.replace(parts, word_KE=self.text(parts.word_KE))
        return contrast_local(self._voxels(features), projected, aggregate=self.aggregate)

    def places(self, features: ImageFeatures, part_KD: Tensor) -> Tensor:
        """Where a text's parts look in one image, on the map's grid."""
        place_P = word_places(self._voxels(features)[0], self.text(part_KD))
        return place_P.reshape(features.maps[self.index].shape[2:])

    def _voxels(self, features: ImageFeatures) -> Tensor:
        projected_BPE: Tensor = self.image(features.maps[self.index].flatten(2).transpose(1, 2))
        if features.mask_BP is None:
            return projected_BPE
        # A projection's bias would make a place of what is none.
        return projected_BPE * features.mask_BP[..., None]
