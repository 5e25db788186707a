"""Towers that published models share: their architecture from the tensors, their rules.

Shapes say nearly all. What they do not say is the number of heads, for which 64 values a head is
the rule of all these models, and it can be overridden.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from medvlp.errors import ConfigError
from medvlp.models.imports.keys import Rule, left_out, to

IMAGE = "image.backbone."
TEXT = "text.backbone."
_HEAD = 64


def bert(
    weights: Mapping[str, Tensor], prefix: str, longest: int | None = None, **options: Any
) -> dict[str, Any]:
    """A text tower for a BERT's tensors.

    Args:
        weights: The source's.
        prefix: Before the BERT's own names.
        longest: Tokens of the longest text that it was trained on; by default all it has places
            for.
        options: Of the tower.
    """
    words = tensor(weights, f"{prefix}embeddings.word_embeddings.weight", 2)
    places = tensor(weights, f"{prefix}embeddings.position_embeddings.weight", 2)
    types = tensor(weights, f"{prefix}embeddings.token_type_embeddings.weight", 2)
    inner = tensor(weights, f"{prefix}encoder.layer.0.intermediate.dense.weight", 2)
    architecture = {
        "model_type": "bert",
        "vocab_size": words.shape[0],
        "hidden_size": words.shape[1],
        "num_hidden_layers": count(weights, rf"{re.escape(prefix)}encoder\.layer\.(\d{{1,4}})\..*"),
        "num_attention_heads": max(1, words.shape[1] // _HEAD),
        "intermediate_size": inner.shape[0],
        "max_position_embeddings": places.shape[0],
        "type_vocab_size": types.shape[0],
    }
    length = min(longest or places.shape[0], places.shape[0])
    return {"kind": "bert", "architecture": architecture, "max_tokens": length} | options


def bert_rules(prefix: str) -> tuple[Rule, ...]:
    """A BERT's tensors, but the pooler, which embeddings do without."""
    p = re.escape(prefix)
    return (
        left_out(rf"{p}(pooler\..*|embeddings\.(position_ids|token_type_ids))"),
        to(rf"{p}((embeddings|encoder)\..*LayerNorm\.)gamma", rf"{TEXT}\1weight"),
        to(rf"{p}((embeddings|encoder)\..*LayerNorm\.)beta", rf"{TEXT}\1bias"),
        to(rf"{p}((embeddings|encoder)\..*)", rf"{TEXT}\1"),
    )


def resnet(weights: Mapping[str, Tensor], prefix: str, **options: Any) -> dict[str, Any]:
    """An image tower for a ResNet's tensors in torchvision's names; it may lack stages.

    Args:
        weights: The source's.
        prefix: Before the ResNet's own names.
        options: Of the tower.
    """
    p = re.escape(prefix)
    stem = tensor(weights, f"{prefix}conv1.weight", 4)
    stages = count(weights, rf"{p}layer(\d{{1,4}})\..*", first=1)
    depths = [count(weights, rf"{p}layer{k}\.(\d{{1,4}})\..*") for k in range(1, stages + 1)]
    last = "conv3" if f"{prefix}layer1.0.conv3.weight" in weights else "conv2"
    ends = [tensor(weights, f"{prefix}layer{k}.0.{last}.weight", 4) for k in range(1, stages + 1)]
    architecture = {
        "model_type": "resnet",
        "num_channels": stem.shape[1],
        "embedding_size": stem.shape[0],
        "depths": depths,
        "hidden_sizes": [end.shape[0] for end in ends],
        "layer_type": "bottleneck" if last == "conv3" else "basic",
    }
    return {"kind": "resnet", "architecture": architecture} | options


def resnet_rules(prefix: str, tower: str = IMAGE) -> tuple[Rule, ...]:
    """A ResNet's tensors in torchvision's names, but the classifier.

    Args:
        prefix: Before the ResNet's own names.
        tower: Before ours; another where the ResNet is part of a tower.
    """
    p = re.escape(prefix)
    norm = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
    stem = f"{tower}embedder.embedder."

    def block(match: re.Match[str]) -> str:
        return f"{tower}encoder.stages.{int(match[1]) - 1}.layers.{match[2]}."

    def inner(match: re.Match[str]) -> str:
        part = "convolution" if match[3] == "conv" else "normalization"
        return f"{block(match)}layer.{int(match[4]) - 1}.{part}.{match[5]}"

    def shortcut(match: re.Match[str]) -> str:
        part = "convolution" if match[3] == "0" else "normalization"
        return f"{block(match)}shortcut.{part}.{match[4]}"

    return (
        left_out(rf"{p}fc\..*"),
        to(rf"{p}conv1\.weight", f"{stem}convolution.weight"),
        to(rf"{p}bn1\.{norm}", rf"{stem}normalization.\1"),
        to(rf"{p}layer(\d+)\.(\d+)\.(conv|bn)(\d)\.{norm}", inner),
        to(rf"{p}layer(\d+)\.(\d+)\.downsample\.([01])\.{norm}", shortcut),
    )


def timm_vit(weights: Mapping[str, Tensor], prefix: str, **options: Any) -> dict[str, Any]:
    """An image tower for a vision transformer's tensors in timm's names.

    Args:
        weights: The source's.
        prefix: Before its own names.
        options: Of the tower.
    """
    patch = tensor(weights, f"{prefix}patch_embed.proj.weight", 4)
    places = tensor(weights, f"{prefix}pos_embed", 3)
    inner = tensor(weights, f"{prefix}blocks.0.mlp.fc1.weight", 2)
    width = patch.shape[0]
    architecture = {
        "model_type": "vit",
        "hidden_size": width,
        "num_hidden_layers": count(weights, rf"{re.escape(prefix)}blocks\.(\d{{1,4}})\..*"),
        "num_attention_heads": max(1, width // _HEAD),
        "intermediate_size": inner.shape[0],
        "num_channels": patch.shape[1],
        "patch_size": patch.shape[2],
        "image_size": math.isqrt(places.shape[1] - 1) * patch.shape[2],
        "layer_norm_eps": 1e-6,
    }
    return {"kind": "vit", "architecture": architecture, "pool": "cls"} | options


def timm_vit_rules(prefix: str) -> tuple[Rule, ...]:
    """A vision transformer's tensors in timm's names, but the classifier."""
    p = re.escape(prefix)
    block = rf"{p}blocks\.(\d+)\."
    layer = rf"{IMAGE}layers.\1."
    heads = tuple(rf"{layer}attention.{part}_proj.\2" for part in "qkv")
    return (
        left_out(rf"{p}head\..*"),
        to(rf"{p}cls_token", f"{IMAGE}embeddings.cls_token"),
        to(rf"{p}pos_embed", f"{IMAGE}embeddings.position_embeddings"),
        to(rf"{p}patch_embed\.proj\.(.*)", rf"{IMAGE}embeddings.patch_embeddings.projection.\1"),
        to(rf"{block}attn\.qkv\.(weight|bias)", *heads),
        to(rf"{block}attn\.proj\.(.*)", rf"{layer}attention.o_proj.\2"),
        to(rf"{block}norm1\.(.*)", rf"{layer}layernorm_before.\2"),
        to(rf"{block}norm2\.(.*)", rf"{layer}layernorm_after.\2"),
        to(rf"{block}mlp\.(fc[12])\.(.*)", rf"{layer}mlp.\2.\3"),
        to(rf"{p}norm\.(.*)", rf"{IMAGE}layernorm.\1"),
    )


def swin(weights: Mapping[str, Tensor], prefix: str, size: int, **options: Any) -> dict[str, Any]:
    """An image tower for a Swin transformer's tensors in the names that transformers gave them.

    Args:
        weights: The source's.
        prefix: Before its own names.
        size: Side of its images.
        options: Of the tower.
    """
    p = re.escape(prefix)
    patch = tensor(weights, f"{prefix}embeddings.patch_embeddings.projection.weight", 4)
    stages = count(weights, rf"{p}encoder\.layers\.(\d{{1,4}})\..*")
    blocks = [
        count(weights, rf"{p}encoder\.layers\.{k}\.blocks\.(\d{{1,4}})\..*") for k in range(stages)
    ]
    table = "blocks.0.attention.self.relative_position_bias_table"
    tables = [tensor(weights, f"{prefix}encoder.layers.{k}.{table}", 2) for k in range(stages)]
    architecture = {
        "model_type": "swin",
        "image_size": size,
        "patch_size": patch.shape[2],
        "num_channels": patch.shape[1],
        "embed_dim": patch.shape[0],
        "depths": blocks,
        "num_heads": [heads.shape[1] for heads in tables],
        "window_size": (math.isqrt(tables[0].shape[0]) + 1) // 2,
    }
    return {"kind": "swin", "architecture": architecture} | options


def swin_rules(prefix: str) -> tuple[Rule, ...]:
    """A Swin transformer's tensors in the names that transformers gave them."""
    p = re.escape(prefix)
    block = rf"{p}encoder\.layers\.(\d+)\.blocks\.(\d+)\."
    inner = rf"{IMAGE}encoder.layers.\1.blocks.\2."
    table = "relative_position_bias_table"
    heads = tuple(
        to(rf"{block}attention\.self\.{long}\.(.*)", rf"{inner}attention.{long[0]}_proj.\3")
        for long in ("query", "key", "value")
    )
    return (
        left_out(rf"{p}(pooler\..*|.*\.relative_position_index)"),
        *heads,
        to(
            rf"{block}attention\.self\.{table}",
            rf"{inner}attention.relative_position_bias.{table}",
        ),
        to(rf"{block}attention\.output\.dense\.(.*)", rf"{inner}attention.o_proj.\3"),
        to(rf"{block}intermediate\.dense\.(.*)", rf"{inner}mlp.fc1.\3"),
        to(rf"{block}output\.dense\.(.*)", rf"{inner}mlp.fc2.\3"),
        to(rf"{block}(layernorm_(?:before|after)\..*)", rf"{inner}\3"),
        to(rf"{p}(encoder\.layers\.\d+\.downsample\..*)", rf"{IMAGE}\1"),
        to(rf"{p}(embeddings\..*|layernorm\..*)", rf"{IMAGE}\1"),
    )


def tensor(weights: Mapping[str, Tensor], name: str, axes: int) -> Tensor:
    """A tensor of a given number of axes.

    Raises:
        ConfigError: There is none.
    """
    value = weights.get(name)
    if value is None or value.ndim != axes or value.numel() == 0:
        raise ConfigError(
            f"import: no tensor {name} with {axes} axes",
            remedy="name the file of this very model, or another --as",
        )
    return value


def count(weights: Mapping[str, Tensor], pattern: str, first: int = 0) -> int:
    """How many numbers stand in the names that match: all from `first` on, without a gap.

    Raises:
        ConfigError: There is none, or a gap.
    """
    numbers = {int(m[1]) for name in weights if (m := re.fullmatch(pattern, name))}
    if not numbers or numbers != set(range(first, first + len(numbers))):
        raise ConfigError(
            f"import: the layers {pattern} are missing, or not numbered from {first} on",
            remedy="name the file of this very model, or another --as",
        )
    return len(numbers)
