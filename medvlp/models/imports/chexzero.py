"""CheXzero (Tiu et al. 2022): the state of OpenAI's CLIP in its own names."""

from __future__ import annotations

import math
from typing import Any

from medvlp.models.imports.contracts import contract
from medvlp.models.imports.keys import Rule, Weights, left_out, scalar, to, transposed
from medvlp.models.imports.recipe import Kind, Recipe
from medvlp.models.imports.source import Source
from medvlp.models.imports.towers import IMAGE, TEXT, count, tensor

_HEAD = 64
_MEAN, _STD = 101.48761 / 255, 83.43944 / 255
"""Of the greys in MIMIC-CXR, as CheXzero standardises them."""


def _layers(prefix: str, tower: str) -> tuple[Rule, ...]:
    block = rf"{prefix}transformer\.resblocks\.(\d+)\."
    layer = rf"{tower}encoder.layers.\1."
    heads = [rf"{layer}self_attn.{part}_proj.\2" for part in "qkv"]
    return (
        to(rf"{block}attn\.in_proj_(weight|bias)", *heads),
        to(rf"{block}attn\.out_proj\.(.*)", rf"{layer}self_attn.out_proj.\2"),
        to(rf"{block}ln_([12])\.(.*)", rf"{layer}layer_norm\2.\3"),
        to(rf"{block}mlp\.c_fc\.(.*)", rf"{layer}mlp.fc1.\2"),
        to(rf"{block}mlp\.c_proj\.(.*)", rf"{layer}mlp.fc2.\2"),
    )


_RULES = (
    left_out(r"input_resolution|context_length|vocab_size"),
    *_layers(r"visual\.", IMAGE),
    *_layers("", TEXT),
    to(r"visual\.conv1\.weight", f"{IMAGE}embeddings.patch_embedding.weight"),
    to(r"visual\.class_embedding", f"{IMAGE}embeddings.class_embedding"),
    to(r"visual\.positional_embedding", f"{IMAGE}embeddings.position_embedding.weight"),
    to(r"visual\.ln_pre\.(.*)", rf"{IMAGE}pre_layrnorm.\1"),
    to(r"visual\.ln_post\.(.*)", rf"{IMAGE}post_layernorm.\1"),
    to(r"visual\.proj", "image_projection.weight", change=transposed),
    to(r"token_embedding\.weight", f"{TEXT}embeddings.token_embedding.weight"),
    to(r"positional_embedding", f"{TEXT}embeddings.position_embedding.weight"),
    to(r"ln_final\.(.*)", rf"{TEXT}final_layer_norm.\1"),
    to(r"text_projection", "text_projection.weight", change=transposed),
    to(r"logit_scale", "log_scale", change=scalar),
)


def read(source: Source) -> Recipe:
    """The recipe for a file of CheXzero's, or of any CLIP with a vision transformer of OpenAI's.

    Raises:
        ConfigError: Another kind of file, or one that cannot be read.
    """
    weights = source.tensors("model.safetensors", "chexzero.pt")
    image = _image(weights)
    return Recipe(
        weights=weights,
        rules=_RULES,
        preprocess=contract(
            size=image["architecture"]["image_size"],
            resize="letterbox",
            interpolation="bicubic",
            mean=_MEAN,
            std=_STD,
        ),
        image=image,
        text=_text(weights),
        model={"embed": tensor(weights, "visual.proj", 2).shape[1]},
    )


def _image(weights: Weights) -> dict[str, Any]:
    patch = tensor(weights, "visual.conv1.weight", 4)
    places = tensor(weights, "visual.positional_embedding", 2)
    architecture = {
        "model_type": "clip_vision_model",
        "image_size": math.isqrt(places.shape[0] - 1) * patch.shape[2],
        "patch_size": patch.shape[2],
        "num_channels": patch.shape[1],
        **_transformer(weights, "visual.transformer."),
    }
    return {"kind": "clip-vision", "architecture": architecture}


def _text(weights: Weights) -> dict[str, Any]:
    places = tensor(weights, "positional_embedding", 2).shape[0]
    architecture = {
        "model_type": "clip_text_model",
        "vocab_size": tensor(weights, "token_embedding.weight", 2).shape[0],
        "max_position_embeddings": places,
        **_transformer(weights, "transformer."),
    }
    return {"kind": "clip-text", "architecture": architecture, "max_tokens": places}


def _transformer(weights: Weights, prefix: str) -> dict[str, Any]:
    inner, width = tensor(weights, f"{prefix}resblocks.0.mlp.c_fc.weight", 2).shape
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_attention_heads": max(1, width // _HEAD),
        "num_hidden_layers": count(weights, rf"{prefix}resblocks\.(\d{{1,4}})\..*"),
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }


KIND = Kind(
    title="CheXzero, or another CLIP with OpenAI's own names",
    read=read,
    licence="CheXzero's code: MIT; the weights come from MIMIC-CXR, whose data are credentialed",
)
