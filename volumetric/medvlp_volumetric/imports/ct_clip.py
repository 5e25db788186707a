"""CT-CLIP (Hamamci et al. 2024, arXiv:2403.17834): CT-ViT with a code book, and CXR-BERT.

The image's embedding is one matrix of all places of the mean slab; the text's, one of its first
token.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from torch import Tensor

from medvlp.errors import ConfigError
from medvlp.models.imports.keys import Rule, left_out, scalar, to
from medvlp.models.imports.recipe import Kind, Recipe
from medvlp.models.imports.source import Source
from medvlp.models.imports.towers import bert, bert_rules, count, tensor
from medvlp_volumetric.imports.known import VOLUME

_IMAGE, _TEXT = "visual_transformer.", "text_transformer."
_DEPTH, _SLICES = 240, 10
"""Slices of a volume and of a patch, of the published model."""

_OURS = "image.encoder."
_UNUSED = r"(to_patch_emb_first_frame|to_pixels|to_pixels_first_frame|discr|vgg|dec_\w+)\..*"


def _blocks(kind: str, norm: str, first: int) -> tuple[Rule, ...]:
    """Rules for one of the two transformers, whose blocks are ours from `first` on."""
    layer = rf"visual_transformer\.enc_{kind}_transformer\.layers\.(\d+)\."

    def named(name: str) -> Callable[[re.Match[str]], str]:
        return lambda found: found.expand(f"{_OURS}blocks.{int(found[1]) + first}.{name}")

    return (
        to(rf"{layer}0\.dsconv\.(weight|bias)", named(r"position.\2")),
        to(rf"{layer}1\.norm\.gamma", named("norm.weight")),
        to(rf"{layer}1\.to_q\.weight", named("query.weight")),
        to(rf"{layer}1\.to_kv\.weight", named("key_value.weight")),
        to(rf"{layer}1\.q_scale", named("query_scale")),
        to(rf"{layer}1\.k_scale", named("key_scale")),
        to(rf"{layer}1\.to_out\.weight", named("attention_out.weight")),
        to(rf"{layer}3\.0\.(weight|bias)", named(r"mlp_norm.\2")),
        to(rf"{layer}3\.1\.weight", named("mlp_in.weight")),
        to(rf"{layer}3\.4\.weight", named("mlp_out.weight")),
        to(
            rf"visual_transformer\.enc_{kind}_transformer\.norm_out\.gamma", f"{_OURS}{norm}.weight"
        ),
    )


def _first(value: Tensor) -> Tensor:
    """The one code book."""
    return value.squeeze(0)


_RULES = (
    left_out(rf"visual_transformer\.{_UNUSED}"),
    # Of a norm without a bias, beta is a constant 0; self-attention has no context and no nulls.
    left_out(r"visual_transformer\..*\.(norm|norm_out)\.beta"),
    left_out(r"visual_transformer\..*\.(null_kv|context_norm\.(gamma|beta))"),
    left_out(r"visual_transformer\.vq\._codebook\.(initted|cluster_size|embed_avg)"),
    left_out(r"to_(text|visual)_latent_extra\.weight"),
    to(r"visual_transformer\.to_patch_emb\.1\.(weight|bias)", rf"{_OURS}embed.0.\1"),
    to(r"visual_transformer\.to_patch_emb\.2\.(weight|bias)", rf"{_OURS}embed.1.\1"),
    to(r"visual_transformer\.to_patch_emb\.3\.(weight|bias)", rf"{_OURS}embed.2.\1"),
    to(r"visual_transformer\.spatial_rel_pos_bias\.net\.0\.0\.(.*)", rf"{_OURS}bias.layers.0.\1"),
    to(r"visual_transformer\.spatial_rel_pos_bias\.net\.1\.0\.(.*)", rf"{_OURS}bias.layers.2.\1"),
    to(r"visual_transformer\.spatial_rel_pos_bias\.net\.2\.(.*)", rf"{_OURS}bias.layers.4.\1"),
    to(r"visual_transformer\.vq\._codebook\.embed", f"{_OURS}codes", change=_first),
    to(r"to_visual_latent\.weight", f"{_OURS}places.weight"),
    to(r"to_text_latent\.weight", "text_projection.weight"),
    to(r"temperature", "log_scale", change=scalar),
    *bert_rules(_TEXT),
)


def read(source: Source) -> Recipe:
    """The recipe for CT-CLIP's file, ``CT-CLIP_v2.pt``.

    Raises:
        ConfigError: A file is missing or another model's.
    """
    weights = source.tensors("CT-CLIP_v2.pt", "CT_CLIP_zeroshot.pt", "model.safetensors")
    image, shape = _tower(weights)
    return Recipe(
        weights=weights,
        rules=(
            *_RULES,
            *_blocks("spatial", "within_norm", 0),
            *_blocks("temporal", "norm", image["within"]),
        ),
        own=("logit_bias",),
        preprocess={
            "kind": "ct",
            "spacing_mm": (1.5, 0.75, 0.75),
            "shape": shape,
            "clip": "first",
            "antialias": False,
        },
        image={"kind": "turned", "axes": "SLP", "encoder": image},
        text=bert(weights, _TEXT, pool="cls", longest=512),
        model={"embed": image["embed"], "image_projection": {"kind": "none"}},
        notes=(
            "the published code clips HU before it resamples when it infers, as here, and after "
            "when it trains (preprocess.clip=last)",
            "it takes volumes as CT-RATE's files hold them, whose axes are assumed to run to the "
            "left and the back; if yours say otherwise, set image.axes",
            "version 1 of CT-RATE's files must be rescaled by its table before, version 2 must not",
        ),
    )


def _tower(weights: dict[str, Tensor]) -> tuple[dict[str, Any], tuple[int, int, int]]:
    """The image tower's description, and the shape of its input."""
    voxels = tensor(weights, f"{_IMAGE}to_patch_emb.1.weight", 1).shape[0]
    first = f"{_IMAGE}enc_spatial_transformer.layers.0."
    inner, width = tensor(weights, f"{first}1.to_q.weight", 2).shape
    head = tensor(weights, f"{first}1.q_scale", 1).shape[0]
    hidden = tensor(weights, f"{first}3.4.weight", 2).shape[1]
    embed, places = tensor(weights, "to_visual_latent.weight", 2).shape
    codes = tensor(weights, f"{_IMAGE}vq._codebook.embed", 3).shape[1]
    side, grid = math.isqrt(voxels // _SLICES), math.isqrt(places // width)
    if side**2 * _SLICES != voxels or grid**2 * width != places or inner % head:
        raise ConfigError(
            f"import: patches of {voxels} voxels and slabs of {places // width} are not square",
            remedy="name the file of this very model, or another --as",
        )
    within, across = (
        count(weights, rf"visual_transformer\.enc_{kind}_transformer\.layers\.(\d{{1,4}})\..*")
        for kind in ("spatial", "temporal")
    )
    tower = {
        "kind": "ctvit",
        "patch": (_SLICES, side, side),
        "width": width,
        "within": within,
        "across": across,
        "heads": inner // head,
        "head": head,
        "mlp_ratio": (hidden + 0.5) / width,
        "codes": codes,
        "pool": "places",
        "grid": (grid, grid),
        "embed": embed,
        "published_order": True,
    }
    return tower, (_DEPTH, side * grid, side * grid)


KIND = Kind(
    title="CT-CLIP: CT-ViT and CXR-BERT (specialized)",
    read=read,
    licence="CC BY-NC-SA: no commercial use, and what is made of it under the same licence",
    domain="volumetric",
    known=VOLUME,
)
