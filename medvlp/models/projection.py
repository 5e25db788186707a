"""How a tower's features reach the joint space."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn

from medvlp.config import STRICT
from medvlp.errors import ConfigError


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LinearProjection:
    """A matrix, with or without a bias."""

    kind: Literal["linear"] = "linear"
    bias: bool = False
    """Without one, the mean of the projected patches is the projection of their mean."""

    def build(self, width: int, embed: int) -> nn.Module:
        """From `width` features to the joint space."""
        return nn.Linear(width, embed, bias=self.bias)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MlpProjection:
    """Two matrices with an activation between them."""

    kind: Literal["mlp"] = "mlp"
    hidden: int
    """Width between the two."""

    activation: Literal["gelu", "relu"] = "gelu"
    norm: bool = False
    """Layer norm after the activation, as CXR-BERT's head has it (arXiv:2204.09817)."""

    bias: bool = True

    def build(self, width: int, embed: int) -> nn.Module:
        """From `width` features to the joint space."""
        activation = nn.GELU() if self.activation == "gelu" else nn.ReLU()
        norm = [nn.LayerNorm(self.hidden, eps=1e-12)] if self.norm else []
        return nn.Sequential(
            nn.Linear(width, self.hidden, bias=self.bias),
            activation,
            *norm,
            nn.Linear(self.hidden, embed, bias=self.bias),
        )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoProjection:
    """None: the tower itself ends in the joint space."""

    kind: Literal["none"] = "none"

    def build(self, width: int, embed: int) -> nn.Module:
        """The features as they are.

        Raises:
            ConfigError: The tower is not as wide as the joint space.
        """
        if width != embed:
            raise ConfigError(
                f"model.embed is {embed}, a tower without projection gives {width}",
                remedy=f"set model.embed to {width}, or give the tower a projection",
            )
        return nn.Identity()


Projection = Annotated[LinearProjection | MlpProjection | NoProjection, Field(discriminator="kind")]
"""Any of them, told apart by `kind`."""
