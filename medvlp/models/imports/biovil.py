"""BioViL (Boecking et al. 2022, arXiv:2204.09817): a ResNet-50 and CXR-BERT.

The projection acts on every patch, and the image's embedding is the mean of the projected patches.
"""

from __future__ import annotations

from medvlp.models.imports.contracts import contract
from medvlp.models.imports.keys import Weights, folded, left_out, renamed, to
from medvlp.models.imports.recipe import Kind, Recipe
from medvlp.models.imports.source import Source, weights_of
from medvlp.models.imports.towers import bert, bert_rules, resnet, resnet_rules, tensor

_IMAGE, _TEXT = "image/encoder.encoder.", "text/bert."
_HEAD = "text/cls_projection_head."

_RULES = (
    left_out(r"text/cls\..*"),
    *resnet_rules(_IMAGE),
    *bert_rules(_TEXT),
    to(r"image/projector\.model\.0\.(weight|bias)", r"image_projection.0.\1"),
    to(r"image/projector\.model\.3\.(weight|bias)", r"image_projection.2.\1"),
    to(rf"{_HEAD}dense_to_hidden\.(.*)", r"text_projection.0.\1"),
    to(rf"{_HEAD}LayerNorm\.(.*)", r"text_projection.2.\1"),
    to(rf"{_HEAD}dense_to_output\.(.*)", r"text_projection.3.\1"),
)


def read(source: Source) -> Recipe:
    """The recipe for a folder with CXR-BERT's files and the image model's ``.pt``.

    Raises:
        ConfigError: A file is missing or another model's.
    """
    weights = _image(source) | renamed(weights_of(source), {"^": "text/"})
    hidden = tensor(weights, f"{_HEAD}dense_to_hidden.weight", 2).shape[0]
    inner, _ = tensor(weights, "image/projector.model.0.weight", 2).shape
    return Recipe(
        weights=weights,
        rules=_RULES,
        own=("log_scale", "logit_bias"),
        preprocess=contract(size=480, resize="shortest", resize_to=512, mean=0.0, std=1.0),
        image=resnet(weights, _IMAGE),
        text=bert(weights, _TEXT, pool="cls"),
        model={
            "embed": tensor(weights, "image/projector.model.3.weight", 2).shape[0],
            "image_projection": {"kind": "mlp", "hidden": inner, "activation": "relu"},
            "text_projection": {"kind": "mlp", "hidden": hidden, "norm": True},
            "project_patches_first": True,
        },
        notes=("the files hold no temperature: probabilities are those of the default one",),
    )


def _image(source: Source) -> Weights:
    raw = renamed(source.matching("*.pt"), {"^": "image/"})
    weights = folded(raw, "image/projector.model.0", "image/projector.model.1")
    last = "image/projector.model.3.weight"
    return weights | {last: tensor(weights, last, 4).flatten(1)}


KIND = Kind(
    title="BioViL: ResNet-50 and CXR-BERT (specialized)",
    read=read,
    licence="MIT; the model card restricts it to research, no clinical use",
)
