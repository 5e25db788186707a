"""Knowledge alignment: image and text each tell which entities of a small graph they show.

Shape letters: B batch, N texts of a sample, Q observations, A anatomies, K entities (observations
and what they are tied to), W width, H heads, C a head's width.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.data.batch import Batch
from medvlp.data.presence import PRESENT
from medvlp.encoding import Encodings, ImageFeatures, Sizes
from medvlp.errors import ConfigError
from medvlp.losses.contrastive import widened
from medvlp.losses.objective import AnsweringObjective, Objective
from medvlp.losses.told import known, strongest

Count = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class KnowledgeConfig:
    """What is told, from images and from texts, against embeddings of the observations.

    Binary cross-entropies, with embeddings that a graph has refined (ARL, arXiv:2209.07118).
    Departures: the graph is given here, such as a vocabulary's own ``kind_of``, ``at`` and
    ``part_of``; ARL's comes from UMLS, whose licence does not let it travel with a model. Entities
    start from random vectors, not from TransE; layers have residuals; the entities do not enter
    the fusion of image and text.
    """

    kind: Literal["knowledge"] = "knowledge"
    weight: float = 1.0
    edges: tuple[tuple[str, str], ...] = ()
    """Pairs of names that are tied, in either order: observations of data.entities, and names that
    they share, such as their place."""

    width: Count = 128
    heads: Count = 4
    depth: Annotated[int, Field(ge=0)] = 2
    """Layers of attention over the graph; 0 takes each observation alone."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")

    def build(self, sizes: Sizes) -> Objective:
        """The objective with its entities.

        Raises:
            ConfigError: The data brings no observation, or the edges none of them.
        """
        if not sizes.observations:
            raise ConfigError(
                "objective knowledge: the data has no observations",
                remedy="name some in data.entities.observations",
            )
        if self.edges and not {n for edge in self.edges for n in edge} & set(sizes.observations):
            raise ConfigError(
                "objective knowledge: no edge holds an observation of data.entities",
                remedy="write the names as they stand in data.entities.observations",
            )
        return KnowledgeObjective(self, sizes)


class KnowledgeObjective(AnsweringObjective):
    """Two means: over what is known of images, and over what texts tell.

    Uncertain and untold observations are no terms. A text is known by itself; an image by
    everything that is told of its sample, of which the most affirmative word counts.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"image", "text_BNE", "relations_BAQ", "told_BNQ"})

    def __init__(self, config: KnowledgeConfig, sizes: Sizes) -> None:
        super().__init__()
        self.answers = sizes.observations
        self.entities = Entities(config, sizes.observations)
        self.image = nn.Linear(sizes.image, config.width)
        self.text = nn.Linear(sizes.embed, config.width)
        self.bias_2Q = nn.Parameter(torch.zeros(2, len(sizes.observations)))

    def scores(self, features: ImageFeatures) -> Tensor:
        """Logit of each observation (B,Q), in float32 or better."""
        return self._logits(self.image(features.pooled_BD), 0)

    def targets(self, batch: Batch) -> tuple[tuple[Tensor, ...], Tensor]:
        """What is known of images and told by texts, and their values.

        Raises:
            ValueError: The batch has no relations.
        """
        if batch.relations_BAQ is None or batch.told_BNQ is None:
            raise ValueError("knowledge: the batch has no relations")
        told_BXQ = torch.cat([batch.relations_BAQ, batch.told_BNQ], 1).long()
        known_BQ, image_BQ = _binary(strongest(told_BXQ, 1))
        told_BNQ, text_BNQ = _binary(batch.told_BNQ.long())
        count_2 = torch.stack([known_BQ.sum(), told_BNQ.sum()])
        return (known_BQ, image_BQ, told_BNQ, text_BNQ), count_2

    def total(self, encodings: Encodings, batch: Batch, targets: tuple[Tensor, ...]) -> Tensor:
        """The cross-entropies of images and of texts."""
        known_BQ, image_BQ, told_BNQ, text_BNQ = targets
        text_logits_BNQ = self._logits(self.text(encodings.text_BNE), 1)
        return torch.stack(
            [
                _cross_entropies(self.scores(encodings.image), image_BQ, known_BQ),
                _cross_entropies(text_logits_BNQ, text_BNQ, told_BNQ),
            ]
        )

    def _logits(self, seen_XW: Tensor, side: int) -> Tensor:
        entity_QW = widened(self.entities())
        logits_XQ = widened(seen_XW) @ entity_QW.T / math.sqrt(entity_QW.shape[1])
        return logits_XQ + self.bias_2Q[side]


class Entities(nn.Module):
    """Embeddings of the observations, refined by their neighbours in the graph.

    Args:
        config: Edges and sizes.
        observations: Their names.
    """

    near_KK: Tensor

    def __init__(self, config: KnowledgeConfig, observations: tuple[str, ...]) -> None:
        super().__init__()
        others = sorted({name for edge in config.edges for name in edge} - set(observations))
        number = {name: k for k, name in enumerate((*observations, *others))}
        self._count = len(observations)
        self.start_KW = nn.Parameter(torch.randn(len(number), config.width))
        self.layers = nn.ModuleList(
            GraphAttention(config.width, config.heads) for _ in range(config.depth)
        )
        near_KK = torch.eye(len(number), dtype=torch.bool)
        for one, other in config.edges:
            near_KK[number[one], number[other]] = near_KK[number[other], number[one]] = True
        # It follows from the configuration: no weight.
        self.register_buffer("near_KK", near_KK, persistent=False)

    def forward(self) -> Tensor:
        """(Q,W)."""
        entity_KW: Tensor = self.start_KW
        for layer in self.layers:
            entity_KW = layer(entity_KW, self.near_KK)
        return entity_KW[: self._count]


class GraphAttention(nn.Module):
    """A layer of graph attention (arXiv:1710.10903, equations 1 to 5) with a residual.

    Args:
        width: Of the vectors, before and after.
        heads: Attention heads, of equal shares of the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.value = nn.Linear(width, width, bias=False)
        self.own_HC = nn.Parameter(torch.randn(heads, width // heads) / math.sqrt(width // heads))
        self.other_HC = nn.Parameter(torch.randn(heads, width // heads) / math.sqrt(width // heads))

    def forward(self, node_KW: Tensor, near_KK: Tensor) -> Tensor:
        """Nodes that have taken in their neighbours.

        Args:
            node_KW: The vectors.
            near_KK: True where row takes in column; each node is its own neighbour.
        """
        value_HKC = self.value(node_KW).unflatten(1, self.own_HC.shape).transpose(0, 1)
        own_HK1 = value_HKC @ self.own_HC[..., None]
        other_HK1 = value_HKC @ self.other_HC[..., None]
        logit_HKK = F.leaky_relu(own_HK1 + other_HK1.transpose(1, 2), 0.2)
        weight_HKK = logit_HKK.masked_fill(~near_KK, -torch.inf).softmax(2)
        return node_KW + F.elu((weight_HKK @ value_HKC).transpose(0, 1).flatten(1))


def _binary(told: Tensor) -> tuple[Tensor, Tensor]:
    """Where something is affirmed or denied, and 1 where it is affirmed."""
    return known(told), told == PRESENT


def _cross_entropies(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Their sum over what is known."""
    loss = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
    return torch.where(known, loss, 0.0).sum()
