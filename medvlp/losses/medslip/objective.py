"""MeDSLIP (arXiv:2403.10635): anatomies and observations in streams of their own.

A patch x is split by a mask that is computed from it, x_p = m⊙x for observations and
x_a = (1−m)⊙x for anatomies. In each stream, queries by name look at the patches. Three losses:
whether each name is there (existence); whether what an observation's query found is nearer to the
places where it is present than to others, and the other way round (prototypes); and whether what
a place's query and an observation's query found belong together (relations).

Where this departs from the paper: each loss is one mean over both streams' known terms; what is
uncertain is neither known nor a negative, and makes nothing absent; what a report does not speak
of is a negative only if `negatives` says so; queries are read by the run's own text tower, which
may be the one in training. Left and right are anatomies of their own: no image may be mirrored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.data.batch import Batch
from medvlp.encoding import Encodings, ImageFeatures, Sizes
from medvlp.errors import ConfigError
from medvlp.losses.contrastive import widened
from medvlp.losses.medslip.books import Book, LearnedBook, Read, TextBook
from medvlp.losses.medslip.decoder import Stream, grid_positions
from medvlp.losses.medslip.terms import (
    draw_negatives,
    existence_total,
    products,
    prototype_terms,
    prototype_total,
    relation_total,
)
from medvlp.losses.objective import Objective, RelatingObjective
from medvlp.losses.told import known, strongest

Share = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MedslipConfig:
    """Two streams of queries by name and their three losses."""

    NEEDS_GRID: ClassVar[str] = "attends to patches"

    kind: Literal["medslip"] = "medslip"
    weight: float = 1.0
    existence: Share = 1.0
    """Weight of existence within the objective."""

    prototype: Share = 1.0
    """Weight of prototypes."""

    relation: Share = 1.0
    """Weight of relations."""

    width: Count = 256
    """d, the width of the decoders."""

    depth: Count = 4
    """Layers of each decoder."""

    heads: Count = 4
    hidden: Count = 1024
    """Width of the perceptrons in the decoders."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    gate: Literal["none", "sigmoid"] = "none"
    """What the mask goes through. The paper's is any number, so that a stream may hold more than
    all of a patch; a sigmoid shares the patch out."""

    position: Literal["none", "sine"] = "none"
    """What tells a decoder where a patch lies. The paper adds nothing, since a deep ResNet knows
    from the padding at its edges; ``sine`` adds sinusoids of the place to the patches' keys, for
    towers that do not."""

    queries: Literal["text", "learned"] = "text"
    """``text``: the run's own text tower reads the names. ``learned``: vectors of the objective's
    own, of the text tower's width."""

    anatomy_text: str = "It is located at {name}."
    """What is read for an anatomy; underscores of the name become blanks."""

    observation_text: str = "There is {name}."
    """What is read for an observation."""

    wordings: dict[str, str] = field(default_factory=dict)
    """Other texts for some names, such as definitions, in full."""

    learn_text: bool = False
    """Whether the text tower learns from this objective; the paper's is frozen."""

    negatives: Literal["denied", "unmentioned"] = "denied"
    """What a prototype is contrasted with. ``denied``: places where the report says the observation
    is absent (and observations that it denies at the place). ``unmentioned``: also those of which
    it does not speak, as in the paper."""

    count: Count = 7
    """Negatives of a query, at most."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of {self.heads} heads")
        for name in ("anatomy_text", "observation_text"):
            if "{name}" not in getattr(self, name):
                raise ValueError(f"{name} does not hold {{name}}")

    def build(self, sizes: Sizes) -> Objective:
        """The objective with its streams.

        Raises:
            ConfigError: The data brings no anatomies or observations, or a query is too long.
        """
        if not sizes.anatomies or not sizes.observations:
            raise ConfigError(
                "objective medslip: the data has no relations",
                remedy="name data.entities.anatomies and data.entities.observations",
            )
        return MedslipObjective(self, sizes)

    def texts(self, names: Sequence[str], template: str) -> list[str]:
        """What is read for each name."""
        return [
            self.wordings.get(name, template.format(name=name.replace("_", " "))) for name in names
        ]


class MedslipObjective(RelatingObjective):
    """The weighted sum of three means: existence, prototypes, relations."""

    reads: ClassVar[frozenset[str]] = frozenset({"image", "read", "relations_BAQ"})

    def __init__(self, config: MedslipConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config = config
        self.anatomies, self.answers = sizes.anatomies, sizes.observations
        self.mask = nn.Linear(sizes.image, sizes.image)
        self.book = self._book(sizes)
        self.query = nn.Linear(sizes.text, config.width)
        self.anatomy, self.observation = (
            Stream(
                tower=sizes.image, book=sizes.text, width=config.width, depth=config.depth,
                heads=config.heads, hidden=config.hidden, dropout=config.dropout,
            )
            for _ in range(2)
        )  # fmt: skip

    def settle(self, read: Read) -> None:
        """Read the names with the tower as it is now."""
        self.book.outdate()
        with torch.no_grad():
            self.book.vectors(read)

    def scores(self, features: ImageFeatures) -> Tensor:
        """Logit of each observation (B,Q): the difference of the two-way logits."""
        found_BQd = self.observation(*self._asked(features))
        logits_BQ2: Tensor = self.observation.exist(found_BQd).float()
        return logits_BQ2[..., 1] - logits_BQ2[..., 0]

    def places(self, features: ImageFeatures) -> Tensor:
        """Mean attention of the decoder's layers over the patches, (B,Q,P); rows sum to 1."""
        return self.observation.looks(*self._asked(features)).float()

    def relation_logits(self, features: ImageFeatures) -> Tensor:
        """Logit of each observation at each anatomy (B,A,Q)."""
        return products(*(x.float() for x in self._found(features, self._books())))

    def targets(self, batch: Batch) -> tuple[tuple[Tensor, ...], Tensor]:
        """The negatives of both streams, and the numbers of terms of the three means."""
        self.book.outdate()
        relations_BAQ = _relations(batch)
        drawn: list[Tensor] = []
        counts = torch.zeros(3, dtype=torch.long, device=relations_BAQ.device)
        for relations_BMN in (relations_BAQ, relations_BAQ.transpose(1, 2)):
            index_BMK, real_BMK = draw_negatives(
                relations_BMN,
                self.config.count,
                unmentioned=self.config.negatives == "unmentioned",
            )
            drawn += [index_BMK, real_BMK]
            counts[0] += known(strongest(relations_BMN, 2)).sum()
            counts[1] += prototype_terms(relations_BMN, real_BMK).sum()
        counts[2] = known(relations_BAQ).sum()
        return tuple(drawn), counts

    def total(self, encodings: Encodings, batch: Batch, targets: tuple[Tensor, ...]) -> Tensor:
        """The three sums, weighted."""
        books = self._books(encodings.read)
        found = self._found(encodings.image, books)
        with torch.autocast(found[0].device.type, enabled=False):
            return self._totals(_relations(batch), found, books, targets)

    def _totals(
        self,
        relations_BAQ: Tensor,
        found: tuple[Tensor, Tensor],
        books: tuple[Tensor, Tensor],
        targets: tuple[Tensor, ...],
    ) -> Tensor:
        anatomy_BAd, observation_BQd = (widened(x) for x in found)
        anatomy_AD, observation_QD = (widened(x) for x in books)
        sides = (
            (self.anatomy, anatomy_BAd, observation_QD, relations_BAQ, targets[:2]),
            (self.observation, observation_BQd, anatomy_AD, relations_BAQ.mT, targets[2:]),
        )
        existence, prototype = anatomy_BAd.new_zeros(()), anatomy_BAd.new_zeros(())
        for stream, found_BMd, book_ND, relations_BMN, (index_BMK, real_BMK) in sides:
            logits_BM2 = stream.exist(found_BMd)
            existence = existence + existence_total(logits_BM2, strongest(relations_BMN, 2))
            head = stream.prototype
            prototype = prototype + prototype_total(
                stream.drop(found_BMd), head.weight, head.bias, book_ND, relations_BMN,
                (index_BMK, real_BMK),
            )  # fmt: skip
        relation = relation_total(products(anatomy_BAd, observation_BQd), relations_BAQ)
        c = self.config
        weighted = (c.existence * existence, c.prototype * prototype, c.relation * relation)
        return torch.stack(weighted)

    def _book(self, sizes: Sizes) -> Book:
        c = self.config
        if c.queries == "learned":
            return LearnedBook(len(sizes.anatomies) + len(sizes.observations), sizes.text)
        texts = c.texts(sizes.anatomies, c.anatomy_text)
        texts += c.texts(sizes.observations, c.observation_text)
        return TextBook(texts, sizes.tokens, sizes.text, sizes.max_tokens, learn=c.learn_text)

    def _books(self, read: Read | None = None) -> tuple[Tensor, Tensor]:
        book_MD, count = self.book.vectors(read), len(self.anatomies)
        return book_MD[:count], book_MD[count:]

    def _streams(self, patch_BPD: Tensor) -> tuple[Tensor, Tensor]:
        """The anatomies' part of each patch, and the observations'."""
        mask_BPD = self.mask(patch_BPD)
        if self.config.gate == "sigmoid":
            mask_BPD = mask_BPD.sigmoid()
        observed_BPD = mask_BPD * patch_BPD
        return patch_BPD - observed_BPD, observed_BPD

    def _asked(self, features: ImageFeatures) -> tuple[Tensor, Tensor, Tensor | None]:
        """The observations' part of the patches, their queries, and the patches' places."""
        observed_BPD = self._streams(features.tokens_BPD)[1]
        return observed_BPD, self.query(self._books()[1]), self._positions(features)

    def _found(
        self, features: ImageFeatures, books: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """What the anatomies' queries found (B,A,d), and the observations' (B,Q,d)."""
        place_Pd = self._positions(features)
        streams = (self.anatomy, self.observation)
        parts = self._streams(features.tokens_BPD)
        anatomy_BAd, observation_BQd = (
            stream(part_BPD, self.query(book_MD), place_Pd)
            for stream, part_BPD, book_MD in zip(streams, parts, books, strict=True)
        )
        return anatomy_BAd, observation_BQd

    def _positions(self, features: ImageFeatures) -> Tensor | None:
        if self.config.position == "none":
            return None
        if not features.maps:
            raise ConfigError(
                "objective medslip: under patch dropout nobody knows where a patch lies",
                remedy="set the objective's position to none, or train without patch dropout",
            )
        return grid_positions(features.grid, self.config.width, features.tokens_BPD)


def _relations(batch: Batch) -> Tensor:
    if batch.relations_BAQ is None:
        raise ValueError("objective medslip: the batch has no relations")
    return batch.relations_BAQ
