"""Weights from a local folder in the layout of transformers; nothing is ever downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging

from medvlp.errors import ConfigError


def load_pretrained(model_class: Any, folder: str, **options: Any) -> PreTrainedModel:
    """The model in `folder`, every weight from its safetensors files.

    Args:
        model_class: A transformers model class, or an auto class.
        folder: A local folder with ``config.json`` and ``model.safetensors``.
        options: Passed on to the model class.

    Raises:
        ConfigError: No such folder, no safetensors in it, or weights that leave parts of the
            model untouched (they belong to another architecture).
    """
    if not (Path(folder) / "config.json").is_file():
        raise ConfigError(
            f"pretrained: {folder} holds no config.json",
            remedy="name a local folder with config.json and model.safetensors",
        )
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model, info = model_class.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(
            f"pretrained: {folder} cannot be loaded as {model_class.__name__}",
            remedy="name a folder with model.safetensors (not .bin) of this kind of model",
        ) from error
    finally:
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    missing = sorted(info["missing_keys"])
    if missing or info["mismatched_keys"]:
        named = ", ".join(missing[:3]) or "shapes differ"
        raise ConfigError(
            f"pretrained: {folder} lacks weights of {model_class.__name__} ({named})",
            remedy="name a folder whose weights belong to this kind of model",
        )
    loaded: PreTrainedModel = model
    return loaded


def describe(model: PreTrainedModel) -> dict[str, Any]:
    """The model's architecture as plain values, from which `from_description` rebuilds it."""
    values: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    values.pop("_name_or_path", None)
    return values


def from_description(values: dict[str, Any]) -> Any:
    """The transformers configuration that `describe` wrote down."""
    options = {name: value for name, value in values.items() if name != "model_type"}
    return AutoConfig.for_model(values["model_type"], **options)
