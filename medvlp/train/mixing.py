"""MedCutMix (arXiv:2509.16673): sentences and the places they speak of, exchanged between samples.

The paper's idea: a diagnostic sentence of one report takes the place of one of another, and
attention between sentence and image says which part of the image goes with it, within the tower
(a manifold mix). Its formulas could not be read. What stands here is ours:

- The attention of a sentence is the softmax over patches of their cosines with it, in the joint
  space (`medvlp.models.heatmap` shows the same); it is no path of the gradient.
- The mask is the part of the grid where the attention is highest, in every sample the same share λ
  of it, which each step draws. At a block of the tower that each step draws, the tokens under
  the mask are those of the other sample at the same positions, so that left stays left.
- The targets are mixed by λ, as in CutMix (arXiv:1905.04899, section 3.1): the objectives see the
  mixed images with the report as it was, with weight 1-λ, and with the exchanged report, labels
  and relations, with weight λ. That is a mixed target for whatever objective is linear in its
  targets, and defined for all others.

A batch in which nothing is exchanged gives the plain loss. Objectives that look at the image again
(`Encodings.see`, `Batch.image`) see it as it is, not mixed. Batch norm's running statistics
count plain images alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from medvlp.config import STRICT
from medvlp.data.batch import Batch
from medvlp.data.randomness import generator
from medvlp.data.relations import LEFT, RIGHT, Names
from medvlp.encoding import Encodings, ImageEncoder
from medvlp.errors import ConfigError
from medvlp.losses.gather import global_sum, world
from medvlp.models.recompute import uncounted
from medvlp.models.two_tower import TwoTower
from medvlp.train.exchange import Exchange, draw_exchange, exchange_texts, exchange_truth

Share = Annotated[float, Field(gt=0, le=1)]

FIGURES = ("mixed_loss", "mixed", "refused_contradiction", "refused_side")
"""What a step that mixes tells: the loss on mixed images, and shares of the batch's samples."""

Value = Callable[[Encodings, Batch], Tensor]
"""The weighted sum of the objectives."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MedCutMixConfig:
    """How much is mixed, where, and what is refused.

    Only sentences are exchanged, only between different patients. A sample whose drawn sentence is
    refused stays as it is. Needs entities, and two sentences or more of each sample.
    """

    kind: Literal["medcutmix"] = "medcutmix"
    weight: Share = 0.5
    """Part of the loss that is computed on mixed images; the rest is the plain loss."""

    share: Share = 1.0
    """Probability with which a sample takes part in a step's mixing."""

    area: tuple[Share, Share] = (0.1, 0.4)
    """Smallest and largest λ, the share of the patch grid that is pasted; drawn for each step."""

    depths: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Blocks of the image tower (a ResNet's stages, a transformer's layers, from 0) of which each
    step draws one; every block if not given."""

    targets: Literal["area", "whole"] = "area"
    """``area``: weight λ for the exchanged report, 1-λ for the one that it was. ``whole``: the
    exchanged report alone, for whoever holds that a finding is present however small it is."""

    side_mass: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """A sentence that names one side is refused unless more than this share of its mask lies in
    that half of the image; the patient's left is at the larger columns."""

    deny_all: tuple[str, ...] = ()
    """Observations whose denial denies every other one, such as ``abnormality``: beside "No acute
    abnormality" nothing is pasted."""

    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The observations that a label tells of, such as ``Edema: [edema, heart_failure]``. A label
    that is not named here tells of the observation of its own name, if there is one. In mixed
    images, a label that tells of none is unknown."""

    def __post_init__(self) -> None:
        if self.area[0] > self.area[1]:
            raise ValueError(f"area: {self.area[0]} exceeds {self.area[1]}")

    def faults(self, names: Names) -> Iterator[str]:
        """What names something that the data do not have."""
        told = {name for group in self.labels.values() for name in group}
        for key, wanted, known, where in (
            ("labels", set(self.labels), names.labels, "data.labels"),
            ("labels", told, names.observations, "data.entities.observations"),
            ("deny_all", set(self.deny_all), names.observations, "data.entities.observations"),
        ):
            if missing := sorted(wanted - set(known)):
                yield f"mixing.{key}: {', '.join(missing)} is not in {where}"


@plain_dataclass(frozen=True, kw_only=True)
class Mixed:
    """A batch and its encodings after mixing."""

    views: tuple[tuple[float, Encodings, Batch], ...]
    """What the objectives are computed on, with weights that sum to 1; none if no rank has mixed
    anything."""

    shares: dict[str, Tensor]
    """The last of `FIGURES`."""


class Mixer:
    """Makes mixed batches; every draw follows from the seed, the step and the rank.

    Args:
        config: How.
        names: The columns of labels and relations.
        image: The image tower.
        seed: The run's seed.

    Raises:
        ConfigError: The tower has no such block.
    """

    def __init__(
        self, config: MedCutMixConfig, names: Names, image: ImageEncoder, seed: int
    ) -> None:
        count = len(image.depths())
        self.depths = tuple(range(count)) if config.depths is None else config.depths
        if not self.depths or max(self.depths) >= count:
            raise ConfigError(
                f"mixing.depths: the image tower has {count} blocks that can be mixed",
                remedy="name blocks from 0 on, or choose an image tower such as resnet or vit",
            )
        self.config = config
        self.seed = seed
        self.deny_all = [names.observations.index(name) for name in config.deny_all]
        self.tells_LQ = _tells(config, names)

    def mix(self, model: TwoTower, batch: Batch, encodings: Encodings, step: int) -> Mixed:
        """The mixed batch of a step; the image tower runs once more.

        Args:
            model: The model.
            batch: The plain batch, ready.
            encodings: The model's, of the plain batch.
            step: Number of the batch in the run.
        """
        # Depth and λ are the same on all ranks: their losses are one loss.
        common = generator(self.seed, step, "all ranks", "mixing")
        depth = int(common.choice(self.depths))
        grid = encodings.image.grid
        patches = math.prod(grid)
        pasted = min(patches, max(1, round(float(common.uniform(*self.config.area)) * patches)))
        mask_BNP = attention_masks(encodings.text_BNE, encodings.patch_BPE, pasted)
        exchange = self._exchange(batch, mask_BNP, grid, step)
        shares = {
            name: column_B.float().mean()
            for name, column_B in zip(
                FIGURES[1:],
                (exchange.mixed_B, exchange.contradicted_B, exchange.wrong_side_B),
                strict=True,
            )
        }
        if not global_sum(exchange.mixed_B.sum()):
            return Mixed(views=(), shares=shares)
        mask_BP = mask_BNP[exchange.donor_B, exchange.source_B] & exchange.mixed_B[:, None]
        pasting = partial(paste, donor_B=exchange.donor_B, mask_BP=mask_BP, grid=grid)
        with uncounted(model.image):
            features = model.image.forward_altered(batch.image, depth, pasting)
        features, image_BE, patch_BPE = model.project_image(features)
        seen = dataclasses.replace(
            encodings, image=features, image_BE=image_BE, patch_BPE=patch_BPE
        )
        truth = exchange_truth(batch, exchange, self.tells_LQ.to(mask_BP.device))
        told = exchange_texts(seen, exchange), exchange_texts(truth, exchange)
        if self.config.targets == "whole":
            return Mixed(views=((1.0, *told),), shares=shares)
        part = pasted / patches
        return Mixed(views=((1 - part, seen, batch), (part, *told)), shares=shares)

    def loss(self, plain: Tensor, mixed: Mixed, value: Value) -> dict[str, Tensor]:
        """The loss and `FIGURES`.

        Args:
            plain: The loss of the plain batch.
            mixed: What `mix` gave.
            value: The weighted sum of the objectives.
        """
        if not mixed.views:
            return {"loss": plain, "mixed_loss": plain.detach(), **mixed.shares}
        terms = [part * value(encodings, batch) for part, encodings, batch in mixed.views]
        mixed_loss = torch.stack(terms).sum()
        weight = self.config.weight
        loss = (1 - weight) * plain + weight * mixed_loss
        return {"loss": loss, "mixed_loss": mixed_loss, **mixed.shares}

    def _exchange(
        self, batch: Batch, mask_BNP: Tensor, grid: tuple[int, ...], step: int
    ) -> Exchange:
        own = generator(self.seed, step, f"rank {world()[0]}", "mixing")
        draw_KB = torch.from_numpy(own.random((3, len(mask_BNP)))).to(mask_BNP.device)
        on_side_BN = (
            mask_BNP.new_ones(mask_BNP.shape[:2])
            if batch.side_BN is None
            else lies_on_side(mask_BNP, grid, batch.side_BN, self.config.side_mass)
        )
        return draw_exchange(
            batch, on_side_BN, share=self.config.share, draw_KB=draw_KB, deny_all=self.deny_all
        )


@torch.no_grad()
def attention_masks(text_BNE: Tensor, patch_BPE: Tensor, count: int) -> Tensor:
    """(B,N,P): the `count` patches of its own image to which each text attends most.

    The softmax of the cosines keeps their order, so that it need not be taken.
    """
    with torch.autocast(patch_BPE.device.type, enabled=False):
        unit_BPE = F.normalize(patch_BPE.float(), dim=-1)
        cosine_BNP = torch.einsum("bne,bpe->bnp", text_BNE.float(), unit_BPE)
    mask_BNP = torch.zeros_like(cosine_BNP, dtype=torch.bool)
    return mask_BNP.scatter(2, cosine_BNP.topk(count, dim=2).indices, value=True)


def lies_on_side(mask_BNP: Tensor, grid: tuple[int, ...], side_BN: Tensor, least: float) -> Tensor:
    """(B,N): whether more than `least` of a text's mask is on the one side that the text names.

    The grid's last axis runs from the patient's right to the left; a column in the middle is half
    on either side. True for texts that name no side, or both.
    """
    width = grid[-1]
    edge_W = torch.arange(1, width + 1, device=mask_BNP.device)
    left_W = (edge_W - width / 2).clamp(0, 1)
    mass_BNW = mask_BNP.view(*mask_BNP.shape[:2], -1, width).sum(2).float()
    left_BN = (mass_BNW @ left_W) / mass_BNW.sum(2).clamp(min=1)
    on_BN = torch.where(side_BN == LEFT, left_BN, 1 - left_BN) > least
    return on_BN | ((side_BN != LEFT) & (side_BN != RIGHT))


def paste(
    tokens_BPC: Tensor,
    at: tuple[int, ...],
    *,
    donor_B: Tensor,
    mask_BP: Tensor,
    grid: tuple[int, ...],
) -> Tensor:
    """A block's tokens with those of each sample's donor under its mask, position by position.

    Args:
        tokens_BPC: The block's tokens.
        at: The block's grid.
        donor_B: Rows of the batch.
        mask_BP: On the grid `grid`, whose nearest position decides.
        grid: The tower's last.
    """
    spread = F.interpolate(mask_BP.float().view(-1, 1, *grid), at, mode="nearest-exact")
    return torch.where(spread.flatten(1)[..., None] > 0, tokens_BPC[donor_B], tokens_BPC)


def _tells(config: MedCutMixConfig, names: Names) -> Tensor:
    """(L,Q): which observations each label tells of."""
    told = [config.labels.get(label, (label,)) for label in names.labels]
    rows = [[name in group for name in names.observations] for group in told]
    return torch.tensor(rows, dtype=torch.bool).view(len(rows), len(names.observations))
