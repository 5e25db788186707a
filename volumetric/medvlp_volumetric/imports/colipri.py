"""COLIPRI (Wald et al. 2025, arXiv:2510.15042): Primus and CXR-BERT, each with a pooler.

Between patches and the image's pooler lies a matrix (as a convolution of one voxel); the text's
pooler reads the BERT's tokens as they are. Both poolers end in the joint space.
"""

from __future__ import annotations

import re

from torch import Tensor

from medvlp.models.imports.keys import Weights, left_out, renamed, stacked, to
from medvlp.models.imports.recipe import Kind, Recipe
from medvlp.models.imports.source import Source
from medvlp.models.imports.towers import bert, bert_rules, count, tensor
from medvlp_volumetric.imports.known import VOLUME

_VIT, _TEXT = "image_encoder.backbone.eva.", "text_encoder.backbone."
_POOLERS = ("image_encoder.pooler", "text_encoder.pooler")
_HEAD = 72
"""Channels of a head of the image tower; a pooler's have 64."""

_BLOCK = r"image_encoder\.backbone\.eva\.blocks\.(\d+)\."
_OURS = r"image.encoder.blocks.\1."
_PARTS = {
    "norm1": "attention_norm",
    "attn.qkv": "query_key_value",
    "attn.norm": "attended_norm",
    "attn.proj": "attention_out",
    "norm2": "mlp_norm",
    "mlp.fc1": "mlp_in",
    "mlp.norm": "hidden_norm",
    "mlp.fc2": "mlp_out",
}


def _minus_log(value: Tensor) -> Tensor:
    return -value.reshape(()).log()


def _matrix(value: Tensor) -> Tensor:
    return value.flatten(1) if value.ndim > 1 else value


_RULES = (
    left_out(r"image_encoder\.backbone\.mask_token"),
    to(r"image_encoder\.backbone\.down_projection\.proj\.(.*)", r"image.encoder.embed.\1"),
    *(
        to(rf"{_BLOCK}{re.escape(theirs)}\.(weight|bias)", rf"{_OURS}{ours}.\2")
        for theirs, ours in _PARTS.items()
    ),
    to(rf"{_BLOCK}gamma_1", rf"{_OURS}attention_scale"),
    to(rf"{_BLOCK}gamma_2", rf"{_OURS}mlp_scale"),
    to(r"image_encoder\.backbone\.eva\.norm\.(.*)", r"image.encoder.norm.\1"),
    to(r"image_encoder\.projector\.(weight|bias)", r"image.encoder.project.\1", change=_matrix),
    *(
        rule
        for theirs, ours in zip(_POOLERS, ("image.encoder.pool", "text.pooler"), strict=True)
        for rule in (
            to(
                rf"{re.escape(theirs)}\.attn\.in_proj_(weight|bias)",
                *(rf"{ours}.{part}.\1" for part in ("query", "key", "value")),
            ),
            to(rf"{re.escape(theirs)}\.attn\.out_proj\.(weight|bias)", rf"{ours}.out.\1"),
        )
    ),
    to(r"softmax_temperature", "log_scale", change=_minus_log),
    *bert_rules(_TEXT),
)


def read(source: Source) -> Recipe:
    """The recipe for COLIPRI's file of weights.

    Raises:
        ConfigError: A file is missing or another model's.
    """
    weights = source.tensors("model.safetensors", "pytorch_model.bin")
    weights = renamed(weights, {r"^text_encoder\.backbone\.bert\.": _TEXT})
    patch = tensor(weights, "image_encoder.backbone.down_projection.proj.weight", 5)
    depth = count(weights, rf"{re.escape(_VIT)}blocks\.(\d{{1,4}})\..*")
    width, embed = patch.shape[0], tensor(weights, "image_encoder.projector.bias", 1).shape[0]
    hidden = tensor(weights, f"{_VIT}blocks.0.mlp.fc1_g.weight", 2).shape[0]
    return Recipe(
        weights=_joined(weights, depth),
        rules=_RULES,
        own=("logit_bias",),
        preprocess={
            "kind": "ct",
            "spacing_mm": (2.0, 2.0, 2.0),
            "shape": (192, 192, 192),
            "antialias": False,
            "pad": "least",
        },
        image={
            "kind": "turned",
            "axes": "RAS",
            "encoder": {
                "kind": "primus",
                "patch": tuple(patch.shape[2:]),
                "width": width,
                "depth": depth,
                "heads": max(1, width // _HEAD),
                "mlp_ratio": hidden / width,
                "norm_attended": True,
                "project": embed,
                "pool": "attention",
            },
        },
        text=bert(weights, _TEXT, pool="attention", longest=512),
        model={
            "embed": embed,
            "image_projection": {"kind": "none"},
            "text_projection": {"kind": "none"},
        },
        notes=(
            "COLIPRI's package turns volumes to RAS from version 0.1.2 on and turned them to SAR "
            "before; for embeddings like those of older versions, set image.axes=SAR",
            "texts are pooled over their own tokens, as from version 0.1.3 on; older versions "
            "pooled padding, too",
        ),
    )


def _joined(weights: Weights, depth: int) -> Weights:
    """Queries, keys (which have no bias) and values as one layer, and the gate with its values."""
    for k in range(depth):
        block = f"{_VIT}blocks.{k}."
        attention = [f"{block}attn.{part}_proj" for part in "qkv"]
        weights = stacked(weights, attention, f"{block}attn.qkv")
        gated = [f"{block}mlp.fc1_{part}" for part in "gx"]
        weights = stacked(weights, gated, f"{block}mlp.fc1")
    return weights


KIND = Kind(
    title="COLIPRI: Primus and CXR-BERT (specialized)",
    read=read,
    licence="MIT; the model card restricts it to research, no clinical use",
    domain="volumetric",
    known=VOLUME,
)
