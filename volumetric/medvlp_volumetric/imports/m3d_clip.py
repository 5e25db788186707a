"""M3D-CLIP (Bai et al. 2024, arXiv:2404.00578): MONAI's vision transformer and a BERT.

The image is the token in front, the text its first token, each through a matrix with a bias. The
published loss multiplies cosines by the parameter that starts at ln(1/0.07), without an exponent.
"""

from __future__ import annotations

from torch import Tensor

from medvlp.models.imports.keys import to
from medvlp.models.imports.recipe import Kind, Recipe
from medvlp.models.imports.source import Source, weights_of
from medvlp.models.imports.towers import bert, bert_rules, tensor
from medvlp_volumetric.imports.known import VOLUME
from medvlp_volumetric.imports.monai_vit import grid_of, monai_vit, monai_vit_rules, sizes_of

_IMAGE, _TEXT = "vision_encoder.", "language_encoder."
_SHAPE, _PATCH = (32, 256, 256), (4, 16, 16)


def _log(value: Tensor) -> Tensor:
    return value.reshape(()).log()


_RULES = (
    *monai_vit_rules(_IMAGE, "image.encoder."),
    *bert_rules(_TEXT),
    to(r"mm_vision_proj\.(weight|bias)", r"image_projection.\1"),
    to(r"mm_language_proj\.(weight|bias)", r"text_projection.\1"),
    to(r"logit_scale", "log_scale", change=_log),
)


def read(source: Source) -> Recipe:
    """The recipe for a folder of M3D-CLIP's.

    Raises:
        ConfigError: A file is missing or another model's.
    """
    config = source.description("config.json")
    shape, patch = sizes_of(config, "img_size", _SHAPE), sizes_of(config, "patch_size", _PATCH)
    weights, tower = monai_vit(weights_of(source), _IMAGE, patch, grid_of(shape, patch))
    return Recipe(
        weights=weights,
        rules=_RULES,
        preprocess={
            "kind": "ct",
            "shape": shape,
            "fit": "resize",
            "stretch": True,
            "scale_to": (0.0, 1.0),
            "antialias": False,
        },
        image={"kind": "turned", "axes": "IPL", "encoder": tower},
        text=bert(weights, _TEXT, pool="cls"),
        model={
            "embed": tensor(weights, "mm_vision_proj.weight", 2).shape[0],
            "image_projection": {"kind": "linear", "bias": True},
            "text_projection": {"kind": "linear", "bias": True},
        },
        notes=(
            "it was trained on pictures of web pages, of which it is assumed that their slices run "
            "from the head to the feet; if yours say otherwise, set image.axes=SPL",
            "the original cuts away the black border of a volume first, and this contract does not",
            "its scale multiplies cosines as it is, without an exponent, as in training",
        ),
    )


KIND = Kind(
    title="M3D-CLIP: ViT-B of patches 4x16x16, and a BERT",
    read=read,
    licence="Apache-2.0; trained on M3D-Cap, whose pictures are Radiopaedia's (CC BY-NC-SA)",
    domain="volumetric",
    known=VOLUME,
)
