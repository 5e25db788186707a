"""Preprocessing contracts as published, and as a folder's own files state them.

Greys come from the least to the largest value of an image: a published model saw pictures of
8 bits, which mostly span their range, and a DICOM file has no other range of its own.
"""

from __future__ import annotations

from typing import Any

from medvlp.errors import ConfigError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_RESAMPLE = {2: "bilinear", 3: "bicubic"}
"""Numbers that pillow has for them."""


def contract(**values: Any) -> dict[str, Any]:
    """A contract of chest X-rays over an image's whole range of greys."""
    return {"kind": "cxr", "percentiles": (0.0, 100.0), **values}


def of_processor(values: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """The contract that a ``preprocessor_config.json`` states.

    Args:
        values: The file's; where it says nothing, `default` counts.
        default: A contract.

    Raises:
        ConfigError: It states what the contract cannot express.
    """
    found = dict(default)
    if "image_mean" in values and "image_std" in values:
        found |= {"mean": _three(values["image_mean"]), "std": _three(values["image_std"])}
    if values.get("do_normalize") is False:
        found |= {"mean": 0.0, "std": 1.0}
    if "resample" in values:
        if values["resample"] not in _RESAMPLE:
            raise _not_expressed(f"resample {values['resample']}")
        found["interpolation"] = _RESAMPLE[values["resample"]]
    return found | _sizes(values)


def _sizes(values: dict[str, Any]) -> dict[str, Any]:
    size, crop = values.get("size"), values.get("crop_size")
    if size is None or values.get("do_resize") is False:
        return {}
    if isinstance(size, int):
        size = {"shortest_edge": size}
    if "shortest_edge" not in size:
        return {"resize": "squash", "resize_to": None, "size": _side(size)}
    edge = size["shortest_edge"]
    if crop is None or values.get("do_center_crop") is False:
        return {"resize": "shortest", "resize_to": None, "size": edge}
    side = crop if isinstance(crop, int) else _side(crop)
    return {"resize": "shortest", "resize_to": None if side == edge else edge, "size": side}


def _side(size: Any) -> int:
    height, width = (
        (size.get("height"), size.get("width")) if isinstance(size, dict) else (None,) * 2
    )
    if not isinstance(height, int) or height != width:
        raise _not_expressed("a size that is no square")
    return height


def _three(values: Any) -> tuple[float, ...] | float:
    """Three numbers, or one where they are equal: the grey image then enters as it is."""
    numbers = values if isinstance(values, list) else [values]
    if len(numbers) not in (1, 3) or not all(isinstance(n, int | float) for n in numbers):
        raise _not_expressed("a mean or std that is not one number or three")
    return float(numbers[0]) if len(set(numbers)) == 1 else tuple(float(n) for n in numbers)


def _not_expressed(what: str) -> ConfigError:
    return ConfigError(
        f"import: the preprocessor asks for {what}, which the contract cannot express",
        remedy="state the contract yourself with --set preprocess.KEY=VALUE and take the file away",
    )
