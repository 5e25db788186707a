"""SurgCLIP (Perez et al. 2025, arXiv:2509.10555): a TimeSformer and a BERT.

The similarity of a clip and a text is the mean of the cosines of the clip's vectors, one for each
of its frames by count; what these average is said in `TimesformerConfig.as_surgclip`.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from medvlp.errors import ConfigError
from medvlp.models.imports.keys import Weights, left_out, to
from medvlp.models.imports.recipe import Kind, Recipe
from medvlp.models.imports.source import Source
from medvlp.models.imports.towers import bert, bert_rules, tensor, timm_vit
from medvlp.models.two_tower import MAX_SCALE
from medvlp_video.imports.known import CLIP

_IMAGE, _TEXT = "vision_encoder.model.", "text_encoder."

_BLOCK = rf"{re.escape(_IMAGE)}blocks\.(\d+)\."
_OURS = r"image.blocks.\1."


def _minus_log(value: Tensor) -> Tensor:
    return -value.reshape(()).log()


def _rows(value: Tensor) -> Tensor:
    return value.squeeze(0)


def _heads(attention: str) -> tuple[str, ...]:
    return tuple(rf"{_OURS}{attention}.{part}_proj.\2" for part in "qkv")


_p = re.escape(_IMAGE)
RULES = (
    # Of the patches' tokens, which no similarity reads.
    left_out(r"vision_layernorm\..*"),
    to(rf"{_p}(cls_token)", r"image.embeddings.\1"),
    to(rf"{_p}pos_embed", "image.embeddings.position_embeddings"),
    to(rf"{_p}time_embed", "image.time_FD", change=_rows),
    to(rf"{_p}patch_embed\.proj\.(.*)", r"image.embeddings.patch_embeddings.projection.\1"),
    to(rf"{_BLOCK}attn\.qkv\.(weight|bias)", *_heads("layer.attention")),
    to(rf"{_BLOCK}attn\.proj\.(.*)", rf"{_OURS}layer.attention.o_proj.\2"),
    to(rf"{_BLOCK}norm1\.(.*)", rf"{_OURS}layer.layernorm_before.\2"),
    to(rf"{_BLOCK}norm2\.(.*)", rf"{_OURS}layer.layernorm_after.\2"),
    to(rf"{_BLOCK}mlp\.(fc[12])\.(.*)", rf"{_OURS}layer.mlp.\2.\3"),
    to(rf"{_BLOCK}temporal_norm1\.(.*)", rf"{_OURS}time_norm.\2"),
    to(rf"{_BLOCK}temporal_attn\.qkv\.(weight|bias)", *_heads("time_attention")),
    to(rf"{_BLOCK}temporal_attn\.proj\.(.*)", rf"{_OURS}time_attention.o_proj.\2"),
    to(rf"{_BLOCK}temporal_fc\.(.*)", rf"{_OURS}time_out.\2"),
    to(rf"{_p}((?:pool_)?norm\..*)", r"image.\1"),
    *bert_rules(_TEXT),
    to(r"vision_proj\.(weight|bias)", r"image_projection.\1"),
    to(r"text_proj\.(weight|bias)", r"text_projection.\1"),
    to(r"temp", "log_scale", change=_minus_log),
)


def read(source: Source) -> Recipe:
    """The recipe for SurgCLIP's file, ``surgclip_beta.pth``.

    Raises:
        ConfigError: A file is missing or another model's.
    """
    weights = source.tensors("surgclip_beta.pth", "model.safetensors")
    image = _tower(weights)
    return Recipe(
        weights=weights,
        rules=RULES,
        preprocess={
            "kind": "clip",
            "frames": image["frames"],
            "sampling": "center",
            "stride_s": 1.0,
            "size": image["architecture"]["image_size"],
            "fit": "squash",
            "interpolation": "bicubic",
            "border": "keep",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
        },
        image=image,
        text=bert(weights, _TEXT, pool="cls", longest=77),
        model={
            "embed": tensor(weights, "vision_proj.weight", 2).shape[0],
            "image_projection": {"kind": "linear", "bias": True},
            "text_projection": {"kind": "linear", "bias": True},
            "image_mean": "units",
            "max_scale": max(MAX_SCALE, 1.01 / _temperature(weights)),
        },
        notes=(
            "its released code loses the learned first token and averages runs of places, not "
            "frames; both are reproduced (image.as_surgclip), since the weights learnt with them",
            "the original takes frames as they lie in a folder, 8 before and 7 behind the moment; "
            "this contract takes them 1 s apart about a span's middle",
            "clips of another length read the table of times by straight lines, the original by "
            "the nearest row",
        ),
    )


def _temperature(weights: Weights) -> float:
    found = weights.get("temp")
    if found is None or found.numel() != 1 or not float(found) > 0:
        raise ConfigError(
            "import: no temperature temp above 0",
            remedy="name the file of this very model, or another --as",
        )
    return float(found)


def _tower(weights: Weights) -> dict[str, Any]:
    plain = timm_vit(weights, _IMAGE)
    return {
        "kind": "timesformer",
        "frames": tensor(weights, f"{_IMAGE}time_embed", 3).shape[1],
        "pool": "mean",
        "as_surgclip": True,
        "architecture": plain["architecture"],
    }


KIND = Kind(
    title="SurgCLIP: TimeSformer and BERT",
    read=read,
    licence="package surgclip: MIT; its data and project page: CC BY-NC-SA 4.0, no commercial use",
    domain="video",
    known=CLIP,
)
