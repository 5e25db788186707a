"""SigLIP and MedSigLIP as transformers keeps them: ``config.json`` and safetensors."""

from __future__ import annotations

from medvlp.models.imports.contracts import contract, of_processor
from medvlp.models.imports.keys import left_out, scalar, to
from medvlp.models.imports.recipe import Kind, Recipe
from medvlp.models.imports.source import Source, needed, weights_of, whole
from medvlp.models.imports.towers import IMAGE, TEXT, tensor

_RULES = (
    left_out(r"(text_model|vision_model)\.embeddings\.position_ids"),
    to(r"vision_model\.(.*)", rf"{IMAGE}\1"),
    to(r"text_model\.(.*)", rf"{TEXT}\1"),
    to(r"logit_scale", "log_scale", change=scalar),
    to(r"logit_bias", "logit_bias", change=scalar),
)

_CEILING = 1000.0
"""SigLIP's own scale has none, and published ones lie above 100."""


def read(source: Source) -> Recipe:
    """The recipe for a folder of transformers' `SiglipModel`.

    Raises:
        ConfigError: Another kind of folder, or a file that cannot be read.
    """
    config = source.described("siglip")
    vision, text = (needed(config, [f"{side}_config"], "config.json") for side in _SIDES)
    weights = weights_of(source)
    default = contract(
        size=vision.get("image_size", 224),
        resize="squash",
        interpolation="bicubic",
        mean=0.5,
        std=0.5,
    )
    return Recipe(
        weights=weights,
        rules=_RULES,
        own=(),
        preprocess=of_processor(source.description("preprocessor_config.json"), default),
        image={
            "kind": "siglip-vision",
            "architecture": whole(vision, "siglip_vision_model"),
        },
        text={
            "kind": "siglip-text",
            "architecture": whole(text, "siglip_text_model"),
            "max_tokens": text.get("max_position_embeddings", 64),
        },
        model={
            "embed": tensor(weights, "text_model.head.weight", 2).shape[0],
            "max_scale": _CEILING,
            "image_projection": {"kind": "none"},
            "text_projection": {"kind": "none"},
        },
        texts="canonical",
    )


_SIDES = ("vision", "text")

KIND = Kind(
    title="SigLIP in a folder of transformers (SiglipModel), such as MedSigLIP",
    read=read,
    licence="SigLIP: Apache-2.0; MedSigLIP: Google's Health AI Developer Foundations terms of use",
)
