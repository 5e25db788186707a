"""medvlp: train and judge medical vision-language models on a hospital's own data.

`medvlp.load(path)` opens a trained bundle; `medvlp.losses` holds the objectives. Both import
torch only when they are first used, so that the command line starts fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

__all__ = ["__version__", "load", "losses"]


def __getattr__(name: str) -> Any:
    if name == "load":
        return import_module("medvlp.models.bundle").load
    if name == "losses":
        return import_module("medvlp.losses")
    raise AttributeError(f"module 'medvlp' has no attribute {name!r}")
