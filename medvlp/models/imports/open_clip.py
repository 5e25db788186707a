"""OpenCLIP's custom text CLIP with a timm vision transformer and a BERT, such as BiomedCLIP."""

from __future__ import annotations

from typing import Any

from medvlp.errors import ConfigError
from medvlp.models.imports.contracts import CLIP_MEAN, CLIP_STD, contract
from medvlp.models.imports.keys import Weights, scalar, to
from medvlp.models.imports.recipe import Kind, Recipe
from medvlp.models.imports.source import Source, needed
from medvlp.models.imports.towers import bert, bert_rules, tensor, timm_vit, timm_vit_rules

_POOLS = {"cls_last_hidden_state_pooler": "cls", "mean_pooler": "mean"}
_FITS = {"shortest": "shortest", "longest": "letterbox", "squash": "squash"}

_RULES = (
    *timm_vit_rules("visual.trunk."),
    *bert_rules("text.transformer."),
    to(r"visual\.head\.proj\.(weight|bias)", r"image_projection.\1"),
    to(r"text\.proj\.weight", "text_projection.weight"),
    to(r"text\.proj\.([02])\.weight", r"text_projection.\1.weight"),
    to(r"logit_scale", "log_scale", change=scalar),
    to(r"logit_bias", "logit_bias", change=scalar),
)


def read(source: Source) -> Recipe:
    """The recipe for a folder of OpenCLIP: ``open_clip_config.json`` and its weights.

    Raises:
        ConfigError: Another kind of folder, or a file that cannot be read.
    """
    config = source.description("open_clip_config.json")
    model = needed(config, ["model_cfg"], "open_clip_config.json")
    vision, text = (needed(model, [f"{side}_cfg"], "model_cfg") for side in ("vision", "text"))
    if "timm_model_name" not in vision or "hf_model_name" not in text:
        raise ConfigError(
            "import: the folder's model is no timm image tower with a text tower of transformers",
            remedy="for CLIP of OpenAI's own structure use --as clip or chexzero",
        )
    pool = _POOLS.get(text.get("hf_pooler_type", "mean_pooler"))
    if pool is None or vision.get("timm_pool") not in (None, "", "token"):
        raise ConfigError("import: the model pools in a way that is not known", remedy=_OTHER)
    weights = source.tensors("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    length = text.get("context_length", model.get("context_length", 77))
    image = timm_vit(weights, "visual.trunk.")
    return Recipe(
        weights=weights,
        rules=_RULES,
        preprocess=_contract(config, image["architecture"]["image_size"]),
        image=image,
        text=bert(weights, "text.transformer.", pool=pool, longest=length),
        model={
            "embed": tensor(weights, "visual.head.proj.weight", 2).shape[0],
            "image_projection": {"kind": "linear", "bias": "visual.head.proj.bias" in weights},
            "text_projection": _text_projection(weights),
        },
    )


def _text_projection(weights: Weights) -> dict[str, Any]:
    if "text.proj.weight" in weights:
        return {"kind": "linear"}
    hidden = tensor(weights, "text.proj.0.weight", 2).shape[0]
    return {"kind": "mlp", "hidden": hidden, "activation": "gelu", "bias": False}


def _contract(config: dict[str, Any], size: int) -> dict[str, Any]:
    stated = config.get("preprocess_cfg") or {}
    mode = stated.get("resize_mode", "shortest")
    if mode not in _FITS:
        raise ConfigError(f"import: resize_mode {str(mode)[:20]} is not known", remedy=_OTHER)
    return contract(
        size=size,
        resize=_FITS[mode],
        interpolation=stated.get("interpolation", "bicubic"),
        mean=tuple(stated.get("mean", CLIP_MEAN)),
        std=tuple(stated.get("std", CLIP_STD)),
    )


_OTHER = "export the model with its default pooling and preprocessing"

KIND = Kind(
    title="OpenCLIP with a timm vision transformer and a BERT, such as BiomedCLIP",
    read=read,
    licence="BiomedCLIP: MIT; its model card restricts it to research, no clinical use",
)
