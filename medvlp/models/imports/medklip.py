"""MedKLIP (Wu et al. 2023, arXiv:2301.02228): its image tower alone.

MedKLIP has no joint space of images and texts: it answers 75 fixed questions by a decoder whose
queries are BERT's vectors of descriptions, which its file does not hold. What is imported is what
the decoder reads: the ResNet's third stage behind two layers, patch by patch. There are no text and
no label scores; probes, fine-tuning and search by image work.
"""

from __future__ import annotations

from medvlp.models.imports.contracts import contract
from medvlp.models.imports.keys import left_out, renamed, to
from medvlp.models.imports.recipe import Kind, Recipe
from medvlp.models.imports.source import Source
from medvlp.models.imports.towers import resnet, resnet_rules, tensor

_IMAGE = "image."
_NAMES = {
    r"^res_features\.0\.": f"{_IMAGE}conv1.",
    r"^res_features\.1\.": f"{_IMAGE}bn1.",
    r"^res_features\.4\.": f"{_IMAGE}layer1.",
    r"^res_features\.5\.": f"{_IMAGE}layer2.",
    r"^res_features\.6\.": f"{_IMAGE}layer3.",
}
"""MedKLIP numbers the parts of torchvision's network."""

_RULES = (
    left_out(r"(decoder|classifier|cl_fc|disease_embedding_layer|bert_model)\..*"),
    *resnet_rules(_IMAGE),
    to(r"res_l1\.(weight|bias)", r"image_projection.0.\1"),
    to(r"res_l2\.(weight|bias)", r"image_projection.2.\1"),
)


def read(source: Source) -> Recipe:
    """The recipe for a checkpoint of MedKLIP's.

    Raises:
        ConfigError: A file is missing or another model's.
    """
    weights = renamed(source.tensors("checkpoint_final.pth", "model.safetensors"), _NAMES)
    embed = tensor(weights, "res_l2.weight", 2).shape[0]
    return Recipe(
        weights=weights,
        rules=_RULES,
        own=("log_scale", "logit_bias"),
        preprocess=contract(
            size=224,
            resize="squash",
            interpolation="bicubic",
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        ),
        image=resnet(weights, _IMAGE),
        text={"kind": "none", "width": embed},
        model={
            "embed": embed,
            "image_projection": {
                "kind": "mlp",
                "hidden": tensor(weights, "res_l1.weight", 2).shape[0],
                "activation": "relu",
            },
            "text_projection": {"kind": "none"},
            "project_patches_first": True,
        },
        notes=(
            "image tower alone: the query decoder is left out, since its queries are not in the "
            "file; texts are refused, and there are no label scores",
        ),
    )


KIND = Kind(
    title="MedKLIP: the image tower alone",
    read=read,
    licence="no licence file; trained on MIMIC-CXR, credentialed data",
)
