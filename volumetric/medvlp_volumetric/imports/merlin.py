"""Merlin (Blankemeier et al. 2024, arXiv:2406.06512): an inflated ResNet-152 and a Longformer.

The image's embedding is a matrix of the last map's mean, the text's one of its first token.
"""

from __future__ import annotations

import re

from torch import Tensor

from medvlp.models.imports.keys import Rule, Weights, left_out, to
from medvlp.models.imports.recipe import Kind, Recipe
from medvlp.models.imports.source import Source
from medvlp.models.imports.towers import TEXT, count, tensor
from medvlp_volumetric.imports.known import VOLUME

_IMAGE, _TEXT = "encode_image.i3_resnet.", "encode_text.text_encoder."
_HEAD = 64
_WINDOW = 512
"""Tokens of Clinical-Longformer's attention window in every layer."""

_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_LAYERS = {"1": "narrow", "2": "cube", "3": "widen"}


def _grey(value: Tensor) -> Tensor:
    """The kernel for one channel that stands for all three, which the original repeats."""
    return value.sum(1, keepdim=True)


def _matrix(value: Tensor) -> Tensor:
    return value.flatten(1)


def _block(match: re.Match[str]) -> str:
    return f"image.encoder.stages.{int(match[1]) - 1}.{match[2]}."


def _inner(match: re.Match[str]) -> str:
    norm = "_norm" if match[3] == "bn" else ""
    return f"{_block(match)}{_LAYERS[match[4]]}{norm}.{match[5]}"


def _shortcut(match: re.Match[str]) -> str:
    return f"{_block(match)}shortcut.{match[3]}.{match[4]}"


_p, _t = re.escape(_IMAGE), re.escape(_TEXT)
_RULES: tuple[Rule, ...] = (
    left_out(rf"{_p}classifier\..*"),
    to(rf"{_p}conv1\.weight", "image.encoder.stem.weight", change=_grey),
    to(rf"{_p}bn1\.{_NORM}", r"image.encoder.stem_norm.\1"),
    to(rf"{_p}layer(\d+)\.(\d+)\.(conv|bn)([123])\.{_NORM}", _inner),
    to(rf"{_p}layer(\d+)\.(\d+)\.downsample\.([01])\.{_NORM}", _shortcut),
    to(rf"{_p}contrastive_head\.weight", "image_projection.weight", change=_matrix),
    to(rf"{_p}contrastive_head\.bias", "image_projection.bias"),
    left_out(rf"{_t}(pooler\..*|embeddings\.position_ids)"),
    to(rf"{_t}((embeddings|encoder)\..*)", rf"{TEXT}\1"),
    to(r"encode_text\.linear_layer\.(weight|bias)", r"text_projection.\1"),
    left_out("logit_scale"),
)


def read(source: Source) -> Recipe:
    """The recipe for Merlin's checkpoint of the contrastive model.

    Raises:
        ConfigError: A file is missing or another model's.
    """
    weights = source.tensors(
        "i3_resnet_clinical_longformer_best_clip_04-02-2024_23-21-36_epoch_99.pt",
        "model.safetensors",
        "pytorch_model.bin",
    )
    depths = [count(weights, rf"{_p}layer{k}\.(\d{{1,4}})\..*") for k in range(1, 5)]
    inner = [tensor(weights, f"{_IMAGE}layer{k}.0.conv1.weight", 5).shape[0] for k in range(1, 5)]
    return Recipe(
        weights=weights,
        rules=_RULES,
        own=("log_scale", "logit_bias"),
        texts="spaced",
        preprocess={
            "kind": "ct",
            "spacing_mm": (3.0, 1.5, 1.5),
            "shape": (160, 224, 224),
            "scale_to": (0.0, 1.0),
            "antialias": False,
        },
        image={
            "kind": "turned",
            "axes": "SRA",
            "encoder": {
                "kind": "i3d",
                "stem": tensor(weights, f"{_IMAGE}conv1.weight", 5).shape[0],
                "widths": tuple(inner),
                "blocks": tuple(depths),
            },
        },
        text=_longformer(weights),
        model={
            "embed": tensor(weights, f"{_IMAGE}contrastive_head.bias", 1).shape[0],
            "image_projection": {"kind": "linear", "bias": True},
            "text_projection": {"kind": "linear", "bias": True},
        },
        notes=(
            "the published code never uses the file's logit_scale, so that it is left out: "
            "probabilities are those of the default temperature",
            "the head for 1,692 codes of diagnoses is left out",
        ),
    )


def _longformer(weights: Weights) -> dict[str, object]:
    words = tensor(weights, f"{_TEXT}embeddings.word_embeddings.weight", 2)
    places = tensor(weights, f"{_TEXT}embeddings.position_embeddings.weight", 2)
    inner = tensor(weights, f"{_TEXT}encoder.layer.0.intermediate.dense.weight", 2)
    depth = count(weights, rf"{_t}encoder\.layer\.(\d{{1,4}})\..*")
    architecture = {
        "model_type": "longformer",
        "vocab_size": words.shape[0],
        "hidden_size": words.shape[1],
        "num_hidden_layers": depth,
        "num_attention_heads": max(1, words.shape[1] // _HEAD),
        "intermediate_size": inner.shape[0],
        "max_position_embeddings": places.shape[0],
        "type_vocab_size": 1,
        "attention_window": [_WINDOW] * depth,
        # RoBERTa's: its places count from behind the padding's id on.
        "pad_token_id": 1,
        "layer_norm_eps": 1e-5,
    }
    longest = min(1024, places.shape[0] - 2)
    return {"kind": "bert", "architecture": architecture, "pool": "cls", "max_tokens": longest}


KIND = Kind(
    title="Merlin: inflated ResNet-152 and Clinical-Longformer",
    read=read,
    licence="MIT; trained on reports and records of Stanford's patients",
    domain="volumetric",
    known=VOLUME,
)
