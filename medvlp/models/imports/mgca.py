"""MGCA (Wang et al. 2022, arXiv:2210.06044): a ResNet-50 or vision transformer, and a BERT.

Projections are two layers with batch norms, which are folded in; patches and tokens have their own.
"""

from __future__ import annotations

from typing import Any

from medvlp.models.imports.contracts import contract
from medvlp.models.imports.keys import Rule, Weights, folded, left_out, to
from medvlp.models.imports.recipe import Kind, Recipe
from medvlp.models.imports.source import Source
from medvlp.models.imports.towers import (
    bert,
    bert_rules,
    resnet,
    resnet_rules,
    tensor,
    timm_vit,
    timm_vit_rules,
)

_IMAGE, _TEXT = "img_encoder_q.model.", "text_encoder_q.model."
_HEADS = {
    "image_projection": "img_encoder_q.global_embed.head",
    "patch_projection": "img_encoder_q.local_embed.head",
    "text_projection": "text_encoder_q.global_embed.head",
    "token_projection": "text_encoder_q.local_embed.head",
}
_UNUSED = r"(prototype_layer|patch_local_atten_layer|word_local_atten_layer)\..*"


def read(source: Source) -> Recipe:
    """The recipe for a checkpoint of MGCA's.

    Raises:
        ConfigError: A file is missing or another model's.
    """
    weights = source.tensors("vit_base.ckpt", "resnet_50.ckpt", "model.safetensors")
    for head in _HEADS.values():
        weights = _plain_head(weights, head)
    convolutional = f"{_IMAGE}conv1.weight" in weights
    own_rules = resnet_rules(_IMAGE) if convolutional else timm_vit_rules(_IMAGE)
    image = _resnet(weights) if convolutional else timm_vit(weights, _IMAGE)
    projections = {
        ours: {"kind": "mlp", "hidden": _out(weights, f"{head}.0"), "activation": "relu"}
        for ours, head in _HEADS.items()
    }
    return Recipe(
        weights=weights,
        texts="lower",
        rules=(left_out(_UNUSED), *own_rules, *bert_rules(_TEXT), *_head_rules()),
        own=("log_scale", "logit_bias"),
        preprocess=contract(size=224, resize="letterbox", resize_to=256, mean=0.5, std=0.5),
        image=image,
        text=bert(weights, _TEXT, pool="cls", longest=112),
        model={"embed": _out(weights, f"{_HEADS['image_projection']}.3"), **projections},
    )


def _plain_head(weights: Weights, head: str) -> Weights:
    """Both layers of a head as matrices, with the norm behind each folded in."""
    return folded(folded(weights, f"{head}.0", f"{head}.1"), f"{head}.3", f"{head}.4")


def _head_rules() -> tuple[Rule, ...]:
    return tuple(
        to(rf"{head}\.{theirs}\.(weight|bias)", rf"{ours}.{mine}.\1")
        for ours, head in _HEADS.items()
        for theirs, mine in ((0, 0), (3, 2))
    )


def _resnet(weights: Weights) -> dict[str, Any]:
    return resnet(weights, _IMAGE, enlarge_to=299, token_stage=-2)


def _out(weights: Weights, layer: str) -> int:
    return tensor(weights, f"{layer}.weight", 2).shape[0]


KIND = Kind(
    title="MGCA: ResNet-50 or ViT-B/16, and Bio_ClinicalBERT",
    read=read,
    licence="no licence file with code or weights; trained on MIMIC-CXR, credentialed data",
)
