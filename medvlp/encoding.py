"""What towers return and what objectives read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from medvlp.data.batch import TokenIds
from medvlp.data.prompts import PromptSet

Alter = Callable[[Tensor, tuple[int, ...]], Tensor]
"""(B,P,C) tokens and their grid to other tokens of the same shape."""


@dataclass(frozen=True, kw_only=True)
class ImageFeatures:
    """An image tower's output, whatever the input's number of dimensions.

    In training under patch dropout, the tokens are those that each sample keeps, still in raster
    order: `grid` then counts them, as (P,), or (f,P) for clips, and there are no `maps`.
    """

    pooled_BD: Tensor
    tokens_BPD: Tensor
    """Patch tokens in raster order; P is the product of `grid`."""

    grid: tuple[int, ...]
    """(h,w), (d,h,w) or (f,h,w)."""

    maps: tuple[Tensor, ...]
    """Multi-scale maps, fine to coarse, each (B,C,*grid)."""

    mask_BP: Tensor | None = None
    """True where a token stands for a place; those that do not are zero. None where all do: only
    volumes of different depth, in one batch, have others."""

    share_BD: Tensor | None = None
    """Share of each slice in `pooled_BD`, which sum to 1, from towers that weigh slices."""

    part_BGD: Tensor | None = None
    """Vectors of G parts (frames) of which `pooled_BD` is the mean, from towers that say
    `ImageEncoder.gives_parts`."""

    def rows(self, index_K: Tensor) -> ImageFeatures:
        """The features of some of the batch's samples."""
        return ImageFeatures(
            pooled_BD=self.pooled_BD[index_K],
            tokens_BPD=self.tokens_BPD[index_K],
            grid=self.grid,
            maps=tuple(level[index_K] for level in self.maps),
            mask_BP=None if self.mask_BP is None else self.mask_BP[index_K],
            share_BD=None if self.share_BD is None else self.share_BD[index_K],
            part_BGD=None if self.part_BGD is None else self.part_BGD[index_K],
        )


class ImageEncoder(nn.Module):
    """Base class of image towers."""

    width: int
    """D of `pooled_BD` and `tokens_BPD`."""

    token_width: int | None = None
    """D of `tokens_BPD`, where it is another one; the patches then need a projection of their
    own."""

    map_widths: tuple[int, ...] = ()
    """C of each of `ImageFeatures.maps`, fine to coarse; empty where the tower does not say."""

    patch: tuple[int, ...] = ()
    """Pixels or voxels of a patch along each axis, where each token starts as one patch and some
    patches may be hidden (`medvlp.models.patch_dropout.keeping`); empty elsewhere."""

    gives_parts: bool = False
    """Whether it gives `ImageFeatures.part_BGD`."""

    within: str | None = None
    """Attribute that holds the tower which this one applies to parts of its input, slice by slice
    or frame by frame, if it does: weights that were trained without this one belong there."""

    portable: Any = None
    """A configuration that rebuilds this tower without the files that its first weights came
    from; None where the tower's own configuration already does."""

    def forward(self, image: Tensor) -> ImageFeatures:
        """Encode (B,C,H,W), (B,C,D,H,W) or (B,F,C,H,W)."""
        raise NotImplementedError

    def depths(self) -> Sequence[nn.Module]:
        """The blocks, shallow to deep, whose output `forward_altered` can alter; none here."""
        return ()

    def forward_altered(self, image: Tensor, depth: int, alter: Alter) -> ImageFeatures:
        """`forward`, but that `alter` changes what block `depth` gives to the next one.

        Args:
            image: As for `forward`.
            depth: Index into `depths`.
            alter: From the block's (B,P,C) tokens in raster order, and their grid, to others of
                the same shape.
        """
        block = self.depths()[depth]
        handle = block.register_forward_hook(lambda _, __, out: self._alter(image, out, alter))
        try:
            features: ImageFeatures = self(image)
        finally:
            handle.remove()
        return features

    def _alter(self, image: Tensor, out: Any, alter: Alter) -> Any:
        """The altered output of a block; a tower with `depths` knows how its blocks lay it out."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class TextFeatures:
    """A text tower's output for (M,T) token ids."""

    pooled_MD: Tensor
    tokens_MTD: Tensor
    sentence_MSD: Tensor | None = None
    """Sentences in reading order (`sentence_numbers`), S for every text; rows of those that a text
    does not have are zero. None from towers that tell none apart."""


class TextEncoder(nn.Module):
    """Base class of text towers."""

    width: int
    """D of `pooled_MD` and `tokens_MTD`."""

    max_tokens: int
    """The longest text that it takes, in tokens."""

    max_sentences: int | None = None
    """S of `sentence_MSD`, the most sentences that it takes; None where it tells none apart."""

    portable: Any = None
    """As `ImageEncoder.portable`."""

    def forward(self, ids_MT: Tensor, mask_MT: Tensor) -> TextFeatures:
        """Encode token ids; rows that `mask_MT` blanks out wholly give finite, meaningless rows."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ReadText:
    """One text as its tower gives it, with its own words alone."""

    state_TD: Tensor
    """Words, without special tokens; all tokens if there are no others."""

    word_TE: Tensor
    """The same in the joint space, not normalised."""

    sentence_SD: Tensor | None
    """Its sentences; None from towers that tell none apart."""


def sentence_numbers(ids_MT: Tensor, mask_MT: Tensor, sentence_id: int) -> Tensor:
    """The sentence that each token belongs to, from 1 on (M,T); 0 before the first and in padding.

    Args:
        ids_MT: Token ids.
        mask_MT: True where a token is real.
        sentence_id: The id with which each sentence begins.
    """
    return ((ids_MT == sentence_id) & mask_MT).cumsum(1) * mask_MT


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What an objective with parameters of its own needs to know of model and data."""

    image: int
    text: int
    embed: int
    channels: int = 1
    """Channels of an image."""

    patch: tuple[int, ...] = ()
    """As `ImageEncoder.patch`."""

    labels: tuple[str, ...] = ()
    """Names of the columns of `Batch.labels_BL`."""

    anatomies: tuple[str, ...] = ()
    """What A counts in `Batch.relations_BAQ`."""

    observations: tuple[str, ...] = ()
    """What Q counts there."""

    regions: tuple[str, ...] = ()
    """What R counts in `Batch.cover_BRDHW`."""

    mean: float | tuple[float, ...] = 0.0
    """What the preprocessing subtracts from pictures in 0 to 1, or from each of their channels, if
    its contract says so."""

    std: float | tuple[float, ...] = 1.0
    """And what it then divides by."""

    tokens: TokenIds | None = None
    max_tokens: int | None = None
    """The longest text that the text tower takes."""

    maps: tuple[int, ...] = ()
    """`ImageEncoder.map_widths`."""

    sentences: int | None = None
    """`TextEncoder.max_sentences`."""

    prompts: PromptSet | None = None
    """The experiment's, which travels in the bundle."""


OF_IMAGE = frozenset({"image", "image_BE", "image_raw_BE", "patch_BPE"})
OF_TEXT = frozenset({"text_BNE", "text_raw_BNE", "token_BNTE", "state_BNTD", "sentence_BNSD"})
"""Fields of `Encodings` that take a pass of the image tower, or of the text tower."""


def _no_space(*_: object) -> Tensor:
    raise AssertionError("these encodings know no way into the joint space")


@dataclass(frozen=True, kw_only=True)
class Encodings:
    """Both towers' output for a batch, as objectives see it."""

    image: ImageFeatures
    image_BE: Tensor
    """Joint embedding, of length 1; shorter where it is a mean of the parts' unit vectors
    (``model.image_mean: units``)."""

    patch_BPE: Tensor
    """Patch tokens through the image projection, not normalised: their mean, normalised, is
    `image_BE` wherever the tower pools by the mean. Zero where a token stands for no place."""

    text_BNE: Tensor
    """L2-normalised; rows of absent texts are zero."""

    token_BNTE: Tensor
    """Text tokens through the text projection, not normalised."""

    scale: Tensor
    """Inverse temperature, a positive scalar that the model owns."""

    bias: Tensor
    """Logit bias (SigLIP), a scalar."""

    see: Callable[[Tensor], ImageFeatures]
    """The image tower itself, for objectives that look at altered images (masked modelling,
    further views). In a run that encodes images themselves, in whatever step, batch norm's running
    statistics are of these alone."""

    read: Callable[[Tensor, Tensor], TextFeatures]
    """The text tower itself, for objectives that read altered texts."""

    state_BNTD: Tensor | None = None
    """Text tokens as the tower gives them, for objectives with a projection of their own."""

    sentence_BNSD: Tensor | None = None
    """`TextFeatures.sentence_MSD`."""

    region_BRE: Tensor | None = None
    """What is said of each region (`Batch.region_text_BRT`), L2-normalised; zero where nothing is.
    Only where it is asked for by name."""

    image_raw_BE: Tensor | None = None
    """`image_BE` before it is normalised. Only where it is asked for by name."""

    text_raw_BNE: Tensor | None = None
    """`text_BNE` before it is normalised; zero where absent. Only where it is asked for by name."""

    embed: Callable[[Tensor, Tensor], Tensor] = _no_space
    """From token ids and mask to the joint space (M,E), normalised, for objectives with words of
    their own."""

    place: Callable[[ImageFeatures], Tensor] = _no_space
    """From what `see` gives to the joint space (B,E), not normalised."""

    def rows(self, index_K: Tensor) -> Encodings:
        """The encodings of some of the batch's samples."""
        # By the shape that the name tells, so that none is forgotten.
        taken: dict[str, Any] = {
            field.name: value[index_K]
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
            and field.name.rpartition("_")[2].startswith("B")
        }
        return dataclasses.replace(self, image=self.image.rows(index_K), **taken)
