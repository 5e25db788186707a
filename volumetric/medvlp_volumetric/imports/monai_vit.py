"""MONAI's vision transformer as `Vit3d`: its architecture from the tensors, its rules.

Shapes say all but the patch of an embedding that is a matrix, and the number of heads, for which 64
values a head is the rule.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from medvlp.errors import ConfigError
from medvlp.models.imports.keys import Rule, Weights, left_out, stacked, to
from medvlp.models.imports.towers import count, tensor

_HEAD = 64


def monai_vit(
    weights: Weights, prefix: str, patch: Sequence[int], grid: Sequence[int]
) -> tuple[Weights, dict[str, Any]]:
    """The weights as `monai_vit_rules` take them, and the image tower's description.

    Args:
        weights: The source's, left as they are.
        prefix: Before the transformer's own names.
        patch: Voxels of a patch along its three axes.
        grid: Patches along these.

    Raises:
        ConfigError: The embedding or the positions do not fit patch and grid.
    """
    weights = dict(weights)
    embedding = f"{prefix}patch_embedding.patch_embeddings."
    if f"{embedding}1.weight" in weights:  # a matrix of the voxels in raster order, channels last
        matrix = weights.pop(f"{embedding}1.weight")
        _check(matrix.shape[1] % math.prod(patch) == 0, f"{embedding}1.weight", patch)
        shaped = matrix.reshape(len(matrix), *patch, -1)
        weights[f"{embedding}weight"] = shaped.movedim(-1, 1)
        weights[f"{embedding}bias"] = weights.pop(f"{embedding}1.bias")
    width, _, *own = tensor(weights, f"{embedding}weight", 5).shape
    _check(tuple(own) == tuple(patch), f"{embedding}weight", patch)
    positions = f"{prefix}patch_embedding.position_embeddings"
    places = tensor(weights, positions, 3)
    _check(places.shape[1] == math.prod(grid), positions, grid)
    weights[positions] = places.transpose(1, 2).reshape(1, width, *grid)
    depth = count(weights, rf"{re.escape(prefix)}blocks\.(\d{{1,4}})\..*")
    for k in range(depth):
        attention = f"{prefix}blocks.{k}.attn.qkv"
        weights = stacked(weights, [attention], attention)
    hidden = tensor(weights, f"{prefix}blocks.0.mlp.linear1.weight", 2).shape[0]
    return weights, {
        "kind": "vit3d",
        "patch": tuple(patch),
        "grid": tuple(grid),
        "positions": "learned",
        "pool": "cls" if f"{prefix}cls_token" in weights else "mean",
        "width": width,
        "depth": depth,
        "heads": max(1, width // _HEAD),
        "mlp_ratio": hidden // width,
    }


def monai_vit_rules(prefix: str, ours: str) -> tuple[Rule, ...]:
    """From MONAI's names to those of `Vit3d`, but for the classifier.

    Args:
        prefix: Before MONAI's own names.
        ours: Before ours.
    """
    p = re.escape(prefix)
    block, layer = rf"{p}blocks\.(\d+)\.", rf"{ours}blocks.\1."
    return (
        # Blocks of later versions of MONAI hold a cross-attention that an encoder does not use.
        left_out(rf"{p}(classification_head\..*|blocks\.\d+\.(norm_)?cross_attn\..*)"),
        to(rf"{p}cls_token", f"{ours}cls_token"),
        to(rf"{p}patch_embedding\.patch_embeddings\.(weight|bias)", rf"{ours}embed.\1"),
        to(rf"{p}patch_embedding\.position_embeddings", f"{ours}position"),
        to(rf"{block}attn\.qkv\.(weight|bias)", rf"{layer}self_attn.in_proj_\2"),
        to(rf"{block}attn\.out_proj\.(weight|bias)", rf"{layer}self_attn.out_proj.\2"),
        to(rf"{block}mlp\.(linear[12])\.(weight|bias)", rf"{layer}\2.\3"),
        to(rf"{block}(norm[12])\.(weight|bias)", rf"{layer}\2.\3"),
        to(rf"{p}norm\.(weight|bias)", rf"{ours}norm.\1"),
    )


def sizes_of(
    values: Mapping[str, Any], name: str, default: tuple[int, int, int]
) -> tuple[int, int, int]:
    """Three sizes that a ``config.json`` states.

    Args:
        values: The file's.
        name: Of the setting.
        default: Where it states none.

    Raises:
        ConfigError: It states something else.
    """
    found = values.get(name, default)
    if (
        not isinstance(found, list | tuple)
        or len(found) != 3
        or not all(isinstance(n, int) and n > 0 for n in found)
    ):
        raise ConfigError(
            f"import: {name} in config.json is no list of three sizes", remedy="copy it again"
        )
    return found[0], found[1], found[2]


def _check(fits: bool, name: str, sizes: Sequence[int]) -> None:
    if not fits:
        raise ConfigError(
            f"import: {name} does not fit {tuple(sizes)}",
            remedy="name the folder of this very model with its config.json, or another --as",
        )


def grid_of(shape: Sequence[int], patch: Sequence[int]) -> tuple[int, int, int]:
    """Whole patches along each axis."""
    d, h, w = (n // p for n, p in zip(shape, patch, strict=True))
    return d, h, w
