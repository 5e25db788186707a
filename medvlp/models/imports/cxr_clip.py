"""CXR-CLIP (You et al. 2023, arXiv:2310.13292): ResNet-50 or Swin-T, and a BERT.

A text's embedding is that of its last token; a Swin transformer's, that of its first place.
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

_RESNET, _SWIN = "image_encoder.resnet.", "image_encoder.image_encoder."
_TEXT = "text_encoder.text_encoder."
_SIZE = 224

_RULES = (
    to(r"image_projection\.projection\.(weight|bias)", r"image_projection.\1"),
    to(r"text_projection\.projection\.(weight|bias)", r"text_projection.\1"),
    to(r"logit_scale", "log_scale", change=scalar),
    *bert_rules(_TEXT),
    *resnet_rules(_RESNET),
    *swin_rules(_SWIN),
)


def read(source: Source) -> Recipe:
    """The recipe for a checkpoint of CXR-CLIP's.

    Raises:
        ConfigError: A file is missing or another model's.
    """
    weights = source.tensors("model.safetensors", "r50_mcc.tar", "swint_mcc.tar")
    convolutional = f"{_RESNET}conv1.weight" in weights
    image = resnet(weights, _RESNET) if convolutional else swin(weights, _SWIN, _SIZE, pool="first")
    projections = {
        f"{side}_projection": {
            "kind": "linear",
            "bias": f"{side}_projection.projection.bias" in weights,
        }
        for side in ("image", "text")
    }
    embed = tensor(weights, "image_projection.projection.weight", 2).shape[0]
    return Recipe(
        weights=weights,
        texts="lower",
        rules=_RULES,
        preprocess=contract(size=_SIZE, resize="shortest", mean=0.5, std=0.5),
        image=image,
        text=bert(weights, _TEXT, pool="last", longest=256),
        model={"embed": embed, **projections},
        notes=()
        if convolutional
        else (
            "a Swin transformer's first place stands for the image, as we remember the original to "
            "do it; compare with the original, or set image.pool=mean",
        ),
    )


KIND = Kind(
    title="CXR-CLIP: ResNet-50 or Swin-T, and Bio_ClinicalBERT",
    read=read,
    licence="CC BY-NC-SA: no commercial use, and what is made of it under the same licence",
)
