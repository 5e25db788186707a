"""The named parts of a model, for freezing and for learning rates of their own.

A tower is a stem (embeddings, first convolution), layers (transformer blocks, residual stages) and
a top (last norm, pooling). The names are: ``image``, ``image.stem``, ``image.layers``,
``image.layers[3]``, ``image.layers[0:6]``, ``image.top``, the same of ``text``,
``image_projection``, ``text_projection``, ``logits`` (scale and bias), ``objectives`` and
``objectives.NAME``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn

from medvlp.errors import ConfigError

TOWERS = ("image", "text")
_NAME = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<first>\d+)(?P<range>:(?P<end>\d+)?)?\])?")


@dataclass(frozen=True)
class Place:
    """Where a weight stands."""

    part: str
    """Such as ``image.layers`` or ``text_projection``."""

    layer: int = 0
    """Its place among the part's layers."""

    below_top: int = 0
    """Steps of depth between it and the tower's top, the measure of layer-wise decay."""

    def is_in(self, name: str) -> bool:
        """Whether the part called `name` holds it."""
        match = _NAME.fullmatch(name)
        if match is None:
            return False
        if match["first"] is None:
            return self.part == name or self.part.startswith(name + ".")
        first = int(match["first"])
        end = first + 1 if match["range"] is None else int(match["end"] or 2**31)
        return self.part == match["name"] and first <= self.layer < end


def places(module: nn.Module) -> dict[str, Place]:
    """The place of every parameter of a training task, by its name."""
    found: dict[str, Place] = {}
    depths = {tower: dict(_tower_places(module, tower)) for tower in TOWERS}
    for name, _ in module.named_parameters():
        words = name.split(".")
        if words[0] == "objectives":
            found[name] = Place(".".join(words[:2]))
        elif words[0] == "model" and words[1] in TOWERS:
            found[name] = depths[words[1]][name]
        elif words[0] == "model" and words[1].endswith("_projection"):
            found[name] = Place(words[1])
        else:
            found[name] = Place("logits")
    return found


def check_parts(names: Iterable[str], found: Iterable[Place], where: str) -> None:
    """See that every name names something.

    Raises:
        ConfigError: One does not; the message lists what there is.
    """
    known = list(found)
    for name in names:
        if any(place.is_in(name) for place in known):
            continue
        layers: dict[str, int] = {}
        for place in known:
            layers[place.part] = max(layers.get(place.part, 0), place.layer)
        there = [f"{p}[0:{n + 1}]" if p.endswith(".layers") else p for p, n in layers.items()]
        raise ConfigError(
            f"{where}: no part {name} in this model", remedy=f"choose from: {', '.join(there)}"
        )


def _tower_places(module: nn.Module, tower: str) -> Iterator[tuple[str, Place]]:
    prefix = f"model.{tower}."
    names = [name for name, _ in module.named_parameters() if name.startswith(prefix)]
    stack, count = _stack(module, prefix.rstrip("."))
    inside = [name for name in names if stack and name.startswith(stack)]
    first = names.index(inside[0]) if inside else len(names)
    for i, name in enumerate(names):
        if stack and name.startswith(stack):
            layer = int(name[len(stack) :].split(".")[0])
            yield name, Place(f"{tower}.layers", layer, count - layer)
        elif i < first:
            yield name, Place(f"{tower}.stem", 0, count + 1)
        else:
            yield name, Place(f"{tower}.top")


def _stack(module: nn.Module, tower: str) -> tuple[str, int]:
    """Prefix and length of the tower's list of layers: the outermost one."""
    lists = [
        (name.count("."), name, len(child))
        for name, child in module.named_modules()
        if name.startswith(tower) and isinstance(child, nn.ModuleList)
    ]
    if not lists:
        return "", 0
    _, name, count = min(lists, key=lambda found: found[0])
    return f"{name}.", count
