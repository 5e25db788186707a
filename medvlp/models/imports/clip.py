"""CLIP as transformers keeps it: a folder with ``config.json`` and safetensors."""

from __future__ import annotations

from medvlp.models.imports.contracts import CLIP_MEAN, CLIP_STD, contract, of_processor
from medvlp.models.imports.keys import left_out, scalar, to
from medvlp.models.imports.recipe import Kind, Recipe
from medvlp.models.imports.source import Source, needed, weights_of, whole
from medvlp.models.imports.towers import IMAGE, TEXT, tensor

_RULES = (
    left_out(r"(text_model|vision_model)\.embeddings\.position_ids"),
    to(r"vision_model\.(.*)", rf"{IMAGE}\1"),
    to(r"text_model\.(.*)", rf"{TEXT}\1"),
    to(r"visual_projection\.weight", "image_projection.weight"),
    to(r"text_projection\.weight", "text_projection.weight"),
    to(r"logit_scale", "log_scale", change=scalar),
)


def read(source: Source) -> Recipe:
    """The recipe for a folder of transformers' `CLIPModel`.

    Raises:
        ConfigError: Another kind of folder, or a file that cannot be read.
    """
    config = source.described("clip")
    vision, text = (needed(config, [f"{side}_config"], "config.json") for side in _SIDES)
    weights = weights_of(source)
    size = vision.get("image_size", 224)
    default = contract(
        size=size, resize="shortest", interpolation="bicubic", mean=CLIP_MEAN, std=CLIP_STD
    )
    return Recipe(
        weights=weights,
        rules=_RULES,
        preprocess=of_processor(source.description("preprocessor_config.json"), default),
        image={
            "kind": "clip-vision",
            "architecture": whole(vision, "clip_vision_model"),
        },
        text={
            "kind": "clip-text",
            "architecture": whole(text, "clip_text_model"),
            "max_tokens": text.get("max_position_embeddings", 77),
        },
        model={"embed": tensor(weights, "visual_projection.weight", 2).shape[0]},
    )


_SIDES = ("vision", "text")

KIND = Kind(
    title="CLIP in a folder of transformers (CLIPModel)",
    read=read,
    licence="OpenAI's weights: MIT; its model card rules out deployment without testing in context",
)
