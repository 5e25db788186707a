"""The interface of objectives: (encodings, batch) to a scalar."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from medvlp.data.batch import Batch
from medvlp.encoding import Encodings


class Objective(nn.Module):
    """One term of a method's loss; the method's YAML gives its weight."""

    scope: ClassVar[Literal["batch", "sample"]]
    """``batch``: needs every sample's embedding (contrastive: cached gradients, gathering across
    devices). ``sample``: any micro-batch will do (masked modelling, generation, labels)."""

    reads: ClassVar[frozenset[str]]
    """Names of the fields of `Encodings` and `Batch` that it reads."""

    def forward(self, encodings: Encodings, batch: Batch) -> Tensor:
        """The term's value, a scalar to be minimised."""
        raise NotImplementedError
