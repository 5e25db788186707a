"""A 3D tower that sees volumes along other axes than ours, as weights of others were trained.

Shape letters: B batch, C channels, D H W spatial, P tokens, E width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from medvlp.config import STRICT
from medvlp.encoding import ImageEncoder, ImageFeatures
from medvlp_volumetric.encoders.ctvit import CtvitConfig
from medvlp_volumetric.encoders.i3d import I3dConfig
from medvlp_volumetric.encoders.primus import PrimusConfig
from medvlp_volumetric.encoders.resnet3d import ResNet3dConfig
from medvlp_volumetric.encoders.swin3d import Swin3dConfig
from medvlp_volumetric.encoders.vit3d import Vit3dConfig

Encoder3d = Annotated[
    CtvitConfig | I3dConfig | PrimusConfig | ResNet3dConfig | Swin3dConfig | Vit3dConfig,
    Field(discriminator="kind"),
]

_WAYS = {"S": (0, False), "I": (0, True), "P": (1, False), "A": (1, True), "L": (2, False),
         "R": (2, True)}  # fmt: skip
"""Letter -> our axis that runs along it, and whether it runs the other way: D runs to the head
(superior), H to the back (posterior), W to the left."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TurnedConfig:
    """A 3D tower whose input has its axes turned; what it gives is turned back.

    Parts of the model: ``image.encoder`` is the tower itself, whose weights know nothing of it. Its
    patches cannot be hidden for masked modelling.
    """

    kind: Literal["turned"] = "turned"
    axes: Annotated[str, Field(pattern="^[SIPALR]{3}$")] = "SPL"
    """Where the tower's three axes run to, first to last: superior or inferior, posterior or
    anterior, left or right. ``SPL`` is ours."""
    encoder: Encoder3d = Field(default_factory=PrimusConfig)

    def __post_init__(self) -> None:
        if {_WAYS[letter][0] for letter in self.axes} != {0, 1, 2}:
            raise ValueError(f"axes {self.axes}: one letter of each of SI, PA and LR")

    def build(self, channels: int) -> ImageEncoder:
        """The tower for inputs of `channels` channels."""
        return Turned(self, channels)


class Turned(ImageEncoder):
    """Turns the input, applies the tower, and turns its tokens and maps back."""

    within = "encoder"

    def __init__(self, config: TurnedConfig, channels: int) -> None:
        super().__init__()
        self.encoder = config.encoder.build(channels)
        self.width = self.encoder.width
        self.token_width = self.encoder.token_width
        self.map_widths = self.encoder.map_widths
        ways = [_WAYS[letter] for letter in config.axes]
        self._order = [axis for axis, _ in ways]
        self._flipped = [axis for axis, flipped in ways if flipped]

    def forward(self, image: Tensor) -> ImageFeatures:
        """Encode (B,C,D,H,W)."""
        spatial = (2, 3, 4)
        turned = image.flip([spatial[k] for k in self._flipped])
        features: ImageFeatures = self.encoder(
            turned.permute(0, 1, *(spatial[k] for k in self._order)).contiguous()
        )
        if not features.maps:  # patches were left out in training, and fill no grid
            return features
        tokens_BPE = features.tokens_BPD
        map_BEDHW = self._back(tokens_BPE.mT.reshape(*tokens_BPE.shape[::2], *features.grid))
        return replace(
            features,
            tokens_BPD=map_BEDHW.flatten(2).transpose(1, 2),
            grid=tuple(map_BEDHW.shape[2:]),
            maps=tuple(self._back(level) for level in features.maps),
        )

    def _back(self, map_BE3: Tensor) -> Tensor:
        places = [2 + self._order.index(axis) for axis in range(3)]
        return map_BE3.permute(0, 1, *places).flip([2 + k for k in self._flipped])
