"""Weights from a local folder in the layout of transformers; nothing is ever downloaded.

The folder may come from anybody, so transformers never sees it: its configuration is read as plain
JSON, of which only the sizes and switches that the architecture itself declares are kept (not
``auto_map`` and other names of code, kernels, quantisers or adapters), and its weights from
safetensors files that lie in the folder itself.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, float32
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from medvlp.errors import ConfigError
from medvlp.models.bounded import IMPOSSIBLE, Bounded
from medvlp.plain_files import own_file, read_json

_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_SHARDS = "model.safetensors.index.json"
_LARGEST_CONFIG = 1 << 20

_REMEDY = (
    "name a local folder with config.json and model.safetensors themselves (no .bin, no links)"
)

_ELSEWHERE = ("backbone", "use_timm", "use_pretrained")
"""Beginnings of settings by which an architecture fetches another model."""

_NESTED = ("rope_parameters", "rope_scaling")
"""Settings that may be a mapping."""


def load_pretrained(model_class: Any, folder: str, **options: Any) -> PreTrainedModel:
    """The model in `folder`, in fp32, every weight from its safetensors files; ready to learn.

    Args:
        model_class: A transformers model class, or `AutoModel`.
        folder: A local folder with ``config.json`` and ``model.safetensors`` (or its shards).
        options: Passed on to the model class.

    Raises:
        ConfigError: No such folder, no safetensors in it, or weights that leave parts of the
            model untouched (they belong to another architecture).
    """
    place = Path(folder)
    if own_file(place, _CONFIG) is None:
        raise ConfigError(f"pretrained: {folder} holds no config.json of its own", remedy=_REMEDY)
    config = from_description(read_json(place / _CONFIG, _LARGEST_CONFIG))
    chosen = _class(model_class, config)
    weights = _weights(place)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with Bounded(weights):
            # Without a folder: what transformers reads from one, adapters too, it reads unasked.
            model, info = chosen.from_pretrained(
                None,
                config=config,
                state_dict=weights,
                dtype=float32,
                output_loading_info=True,
                **options,
            )
    except IMPOSSIBLE as error:
        raise ConfigError(
            f"pretrained: {folder} cannot be loaded as {chosen.__name__}",
            remedy="name a folder with model.safetensors (not .bin) of this kind of model",
        ) from error
    finally:
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    missing = sorted(info["missing_keys"])
    if missing or info["mismatched_keys"]:
        named = ", ".join(missing[:3]) or "shapes differ"
        raise ConfigError(
            f"pretrained: {folder} lacks weights of {chosen.__name__} ({named})",
            remedy="name a folder whose weights belong to this kind of model",
        )
    # transformers hands out what it loads as in evaluation.
    loaded: PreTrainedModel = model.train()
    return loaded


def describe(model: PreTrainedModel) -> dict[str, Any]:
    """The model's architecture as plain values, from which `from_description` rebuilds it."""
    return describe_config(model.config)


def describe_config(config: Any) -> dict[str, Any]:
    """`describe` of a model with this configuration: all that it declares, defaults too."""
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return {"model_type": values["model_type"], **_declared(type(config), values)}


def from_description(values: Any) -> Any:
    """The transformers configuration that `describe` wrote down, or a ``config.json`` holds.

    Raises:
        ConfigError: Another kind of model than transformers has, or values it cannot have.
    """
    kind = values.get("model_type") if isinstance(values, dict) else None
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise ConfigError(
            f"architecture: model_type {str(kind)[:40]!r} is none of transformers",
            remedy="name an encoder that transformers itself implements, such as bert",
        )
    config_class = CONFIG_MAPPING[kind]
    try:
        return config_class(**_declared(config_class, values))
    except IMPOSSIBLE as error:
        raise ConfigError(
            f"architecture: impossible values for a model of type {kind}", remedy=_REMEDY
        ) from error


def _declared(config_class: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The values whose names the architecture declares, if they are sizes, switches or words."""
    shared = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    names = [field.name for field in dataclasses.fields(config_class) if field.name not in shared]
    return {
        name: values[name]
        for name in names
        if name in values
        and not name.startswith(("_", *_ELSEWHERE))
        and _is_plain(values[name], nested=name in _NESTED)
    }


def _is_plain(value: Any, *, nested: bool) -> bool:
    if isinstance(value, dict):
        return nested and all(_is_plain(v, nested=True) for v in value.values())
    if isinstance(value, list):
        return all(_is_plain(v, nested=False) for v in value)
    return value is None or isinstance(value, bool | int | float | str)


def _class(model_class: Any, config: Any) -> Any:
    if model_class is AutoModel:
        found: Any = MODEL_MAPPING.get(type(config), None)
        if found is None or isinstance(found, tuple):
            raise ConfigError(
                f"pretrained: a {config.model_type} is no encoder", remedy="name another folder"
            )
        return found
    if not isinstance(config, model_class.config_class):
        raise ConfigError(
            f"pretrained: a folder of {config.model_type} cannot be loaded as "
            f"{model_class.__name__}",
            remedy="name a folder of this kind of model",
        )
    return model_class


def _weights(folder: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for name in shards(folder):
        file = own_file(folder, name)
        if file is None or not name.endswith(".safetensors"):
            raise ConfigError(
                f"pretrained: {folder} holds no {_WEIGHTS} of its own", remedy=_REMEDY
            )
        try:
            weights |= load_file(file)
        except (OSError, SafetensorError) as error:
            raise ConfigError(
                f"pretrained: {folder}/{name} cannot be read", remedy="copy the file again"
            ) from error
    return weights


def shards(folder: Path) -> list[str]:
    """Names of a folder's safetensors files.

    Raises:
        ConfigError: The index of its shards is damaged.
    """
    if own_file(folder, _WEIGHTS) is not None or own_file(folder, _SHARDS) is None:
        return [_WEIGHTS]
    index = read_json(folder / _SHARDS, _LARGEST_CONFIG * 16)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
        raise ConfigError(f"pretrained: {folder}/{_SHARDS} is damaged", remedy="copy it again")
    return sorted(set(places.values()))
