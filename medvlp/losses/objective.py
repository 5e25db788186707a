"""The interface of objectives: (encodings, batch) to a scalar."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from medvlp.data.batch import Batch
from medvlp.encoding import Encodings, ImageFeatures, ReadText, TextFeatures
from medvlp.losses.gather import global_sum, world


class Objective(nn.Module):
    """One term of a method's loss; the method's YAML gives its weight."""

    scope: ClassVar[Literal["batch", "sample"]]
    """``batch``: needs every sample's embedding (contrastive: cached gradients, gathering across
    devices). ``sample``: any micro-batch will do (masked modelling, generation, labels); such an
    objective is a `SampleObjective`."""

    reads: ClassVar[frozenset[str]]
    """Names of the fields of `Encodings` and `Batch` that it reads. A side of the batch of which no
    field is read is not encoded."""

    def forward(self, encodings: Encodings, batch: Batch) -> Tensor:
        """The term's value, a scalar to be minimised."""
        raise NotImplementedError

    def settle(self, read: Callable[[Tensor, Tensor], TextFeatures]) -> None:
        """Take in what the finished text tower makes of texts of the objective's own; nothing here.

        Called once when training has ended, before a bundle is written.
        """


class AligningObjective(Objective):
    """An objective that was trained to align the words of texts with places in images."""

    def text_places(self, features: ImageFeatures, patch_PE: Tensor, text: ReadText) -> Tensor:
        """Where a text looks in one image, on a grid of the objective's own; not negative.

        Args:
            features: The image's.
            patch_PE: Its patches in the joint space, not normalised.
            text: As the same model reads it.
        """
        raise NotImplementedError


class SampleObjective(Objective):
    """A mean over terms (known labels, hidden tokens), each of which depends on one sample.

    What is drawn at random, and over how many terms the mean goes, is settled for the whole batch
    before anything is encoded. The sum over the terms may then be taken in parts of any size,
    and the mean over all ranks' terms stays what it is. An objective may be a sum of several such
    means: it then gives as many counts and totals, in one tensor each.
    """

    scope: ClassVar[Literal["batch", "sample"]] = "sample"

    def targets(self, batch: Batch) -> tuple[tuple[Tensor, ...], Tensor]:
        """What is to be predicted: tensors of B rows each, and the number of terms (or several)."""
        raise NotImplementedError

    def total(self, encodings: Encodings, batch: Batch, targets: tuple[Tensor, ...]) -> Tensor:
        """The sum (or sums) of the terms of a batch, or of a part with its rows of `targets`."""
        raise NotImplementedError

    def forward(self, encodings: Encodings, batch: Batch) -> Tensor:
        """The mean over all ranks' terms."""
        targets, count = self.targets(batch)
        return (share(count) * self.total(encodings, batch, targets)).sum()


class AnsweringObjective(SampleObjective):
    """An objective whose trained head answers by itself whether something is in an image."""

    answers: tuple[str, ...]
    """What it can be asked for, by name."""

    def scores(self, features: ImageFeatures) -> Tensor:
        """Logit of each of `answers` (B,L), in float32."""
        raise NotImplementedError

    def places(self, features: ImageFeatures) -> Tensor | None:
        """Where each of `answers` is seen (B,L,P), P in the grid's raster order, not negative.

        None if the head sees images as a whole.
        """
        return None

    @property
    def points(self) -> bool:
        """Whether the head says where."""
        return type(self).places is not AnsweringObjective.places


def activation_map(scores: Callable[[ImageFeatures], Tensor], features: ImageFeatures) -> Tensor:
    """Class activation map of a head on pooled features (arXiv:1512.04150), (B,L,P) in [0,1].

    The probability that each patch alone would give; of a linear head, the mean of the patches'
    logits is the image's.

    Args:
        scores: Logits (B,L) of features, of which it reads `pooled_BD` alone.
        features: The images'.
    """
    count, patches = features.tokens_BPD.shape[:2]
    token_KD = features.tokens_BPD.flatten(0, 1)
    alone = ImageFeatures(pooled_BD=token_KD, tokens_BPD=token_KD[:, None], grid=(1,), maps=())
    return scores(alone).sigmoid().view(count, patches, -1).transpose(1, 2)


class RelatingObjective(AnsweringObjective):
    """An answering objective that also says at which anatomy it sees something."""

    anatomies: tuple[str, ...]
    """What it tells apart; names may begin with ``left`` or ``right``."""

    def relation_logits(self, features: ImageFeatures) -> Tensor:
        """Logit of each of `answers` at each of `anatomies` (B,A,L), in float32."""
        raise NotImplementedError


def reads_of(objectives: Iterable[Objective]) -> frozenset[str]:
    """All that some objectives read."""
    return frozenset[str]().union(*(objective.reads for objective in objectives))


Which = Literal["all", "first", "rest"]
"""Of a sample's texts: every one, the one in the first place, or those behind it."""


def chosen_texts(batch: Batch, which: Which = "all") -> Tensor:
    """Which of the batch's texts are there and wanted (B,N)."""
    present_BN = batch.text_mask_BNT.any(2)
    if which == "all":
        return present_BN
    first_N = torch.arange(present_BN.shape[1], device=present_BN.device) == 0
    return present_BN & (first_N if which == "first" else ~first_N)


def present_texts(
    encodings: Encodings, batch: Batch, which: Which = "all"
) -> tuple[Tensor, Tensor]:
    """The batch's texts without the absent ones (M,E), and the sample each belongs to (M,)."""
    present_BN = chosen_texts(batch, which)
    return encodings.text_BNE[present_BN], present_BN.nonzero()[:, 0]


def share(count: Tensor) -> Tensor:
    """What a rank's sum over its `count` terms is multiplied by, elementwise.

    The mean over ranks of the product is the mean over all ranks' terms.
    """
    return world()[1] / global_sum(count).clamp(min=1)
