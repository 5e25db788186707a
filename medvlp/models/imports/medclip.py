"""MedCLIP (Wang et al. 2022, arXiv:2210.10163): Swin-T or ResNet-50, and a BERT.

A text's embedding is the mean over the tokens of three layers: first, second and last.
"""

from __future__ import annotations

from medvlp.models.imports.contracts import contract
from medvlp.models.imports.keys import scalar, to
from medvlp.models.imports.recipe import Kind, Recipe
from medvlp.models.imports.source import Source
from medvlp.models.imports.towers import (
    bert,
    bert_rules,
    resnet,
    resnet_rules,
    swin,
    swin_rules,
    tensor,
)

_IMAGE, _TEXT = "vision_model.model.", "text_model.model."
_SIZE = 224

_RULES = (
    to(r"vision_model\.model\.fc\.weight", "image_projection.weight"),
    to(r"vision_model\.projection_head\.weight", "image_projection.weight"),
    to(r"text_model\.projection_head\.weight", "text_projection.weight"),
    to(r"logit_scale", "log_scale", change=scalar),
    *bert_rules(_TEXT),
)


def read(source: Source) -> Recipe:
    """The recipe for a file of MedCLIP's, ``pytorch_model.bin``.

    Raises:
        ConfigError: A file is missing or another model's.
    """
    weights = source.tensors("pytorch_model.bin", "model.safetensors")
    convolutional = f"{_IMAGE}conv1.weight" in weights
    rules = resnet_rules(_IMAGE) if convolutional else swin_rules(_IMAGE)
    image = resnet(weights, _IMAGE) if convolutional else swin(weights, _IMAGE, _SIZE)
    return Recipe(
        weights=weights,
        texts="lower",
        rules=(*_RULES, *rules),
        preprocess=contract(
            size=_SIZE,
            resize="letterbox",
            interpolation="bicubic",
            mean=0.5862785803043838,
            std=0.27950088968644304,
        ),
        image=image,
        text=bert(weights, _TEXT, pool="mean", layers=(1, 2, -1), longest=77),
        model={"embed": tensor(weights, "text_model.projection_head.weight", 2).shape[0]},
        notes=(
            "a text is averaged over its own tokens; MedCLIP's code averages over padding, too, so "
            "that there a text's embedding depends on the longest text beside it",
        ),
    )


KIND = Kind(
    title="MedCLIP: Swin-T or ResNet-50, and Bio_ClinicalBERT",
    read=read,
    licence="no licence file; trained on MIMIC-CXR and CheXpert, whose data are restricted",
)
