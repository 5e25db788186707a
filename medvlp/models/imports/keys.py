"""From a checkpoint's names to ours, with exact accounting.

Every tensor of the source is used or left out by a rule, and every tensor of the model is filled;
anything else is an error. No weight is guessed and none is left as it was drawn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medvlp.errors import ConfigError

Weights = dict[str, Tensor]
Place = str | Callable[[re.Match[str]], str]
Change = Callable[[Tensor], Tensor]

_REMEDY = "name the file of this very model, or another --as"


@dataclass(frozen=True)
class Rule:
    """Where the tensors go whose whole name matches."""

    source: str
    """Regular expression."""

    targets: tuple[Place, ...]
    """Our names, as templates of the match or functions of it; a tensor with several is split
    evenly along its first axis. None at all: it is left out."""

    change: Change | None = None
    """Done to the tensor first."""


def to(source: str, *targets: Place, change: Change | None = None) -> Rule:
    """A rule that uses tensors."""
    return Rule(source, targets, change)


def left_out(source: str) -> Rule:
    """A rule for tensors that embeddings do without."""
    return Rule(source, ())


def transposed(value: Tensor) -> Tensor:
    """A matrix that stands to the right of its input, as one to the left."""
    return value.T


def scalar(value: Tensor) -> Tensor:
    """A single number without axes."""
    return value.reshape(())


def renamed(weights: Mapping[str, Tensor], pairs: Mapping[str, str]) -> Weights:
    """The weights under names in which every pattern is replaced by its template.

    Raises:
        ConfigError: Two of them would have one name.
    """
    found: Weights = {}
    for name, value in weights.items():
        new = name
        for pattern, template in pairs.items():
            new = re.sub(pattern, template, new)
        if new in found:
            raise ConfigError(f"import: two tensors would be {new}", remedy=_REMEDY)
        found[new] = value
    return found


def folded(weights: Mapping[str, Tensor], layer: str, norm: str, eps: float = 1e-5) -> Weights:
    """The weights with a batch norm taken into the linear layer (or 1x1 convolution) before it.

    With ``s = gamma / sqrt(var + eps)``: ``W' = s·W`` and ``b' = s·(b - mean) + beta``, in float64.

    Args:
        weights: Left as they are.
        layer: Name of the layer.
        norm: Name of the norm; ``gamma`` 1 and ``beta`` 0 where it has none.
        eps: Of the norm.

    Raises:
        ConfigError: The layer or the norm's statistics are missing.
    """
    found = dict(weights)
    try:
        mean, var = (found.pop(f"{norm}.running_{part}").double() for part in ("mean", "var"))
        matrix = found[f"{layer}.weight"].double()
    except KeyError as error:
        raise ConfigError(f"import: no tensor {error.args[0]}", remedy=_REMEDY) from error
    bias = found.get(f"{layer}.bias", torch.zeros_like(mean)).double()
    gamma = found.pop(f"{norm}.weight", torch.ones_like(mean)).double()
    beta = found.pop(f"{norm}.bias", torch.zeros_like(mean)).double()
    found.pop(f"{norm}.num_batches_tracked", None)
    if not matrix.shape[:1] == bias.shape == gamma.shape == beta.shape == mean.shape == var.shape:
        raise ConfigError(f"import: {norm} does not fit {layer}", remedy=_REMEDY)
    scale = gamma / (var + eps).sqrt()
    found[f"{layer}.weight"] = (matrix.flatten(1) * scale[:, None]).float()
    found[f"{layer}.bias"] = ((bias - mean) * scale + beta).float()
    return found


def stacked(weights: Mapping[str, Tensor], parts: Sequence[str], whole: str) -> Weights:
    """The weights with some layers joined into one that gives all their outputs, in this order.

    Args:
        weights: Left as they are.
        parts: Names of the layers; one without a bias counts with a bias of zero.
        whole: Name of the one layer.

    Raises:
        ConfigError: A layer is missing.
    """
    found = dict(weights)
    try:
        matrices = [found.pop(f"{part}.weight") for part in parts]
    except KeyError as error:
        raise ConfigError(f"import: no tensor {error.args[0]}", remedy=_REMEDY) from error
    biases = [
        found.pop(f"{part}.bias", matrix.new_zeros(len(matrix)))
        for part, matrix in zip(parts, matrices, strict=True)
    ]
    found[f"{whole}.weight"] = torch.cat(matrices)
    found[f"{whole}.bias"] = torch.cat(biases)
    return found


def fitted(
    weights: Mapping[str, Tensor],
    rules: Sequence[Rule],
    model: Mapping[str, Tensor],
    own: Sequence[str] = (),
) -> Weights:
    """A whole state of the model, made of the source's tensors.

    Args:
        weights: The source's.
        rules: The first that matches a name counts.
        model: The model's state as it was drawn: names, shapes and types.
        own: Tensors that keep their drawn value, where the source has none.

    Raises:
        ConfigError: A tensor that no rule knows, one that goes nowhere, two for one place, another
            shape, values that are no numbers, or places that stay empty.
    """
    found: Weights = {}
    unknown: list[str] = []
    for name in sorted(weights):
        moved = _moved(name, weights[name], rules)
        if moved is None:
            unknown.append(name)
            continue
        for target, value in moved.items():
            if target in found:
                raise ConfigError(f"import: two tensors for {target}, one {name}", remedy=_REMEDY)
            _check(name, value, target, model)
            found[target] = value.to(model[target].dtype)
    if unknown:
        raise ConfigError(
            f"import: {len(unknown)} of {len(weights)} tensors are none of this kind of model's, "
            f"first {unknown[0]}",
            remedy=_REMEDY,
        )
    # A counter of training steps, which no prediction reads.
    kept = [k for k in model if k in own or k.endswith(".num_batches_tracked")]
    found = {k: model[k] for k in kept} | found
    empty = [name for name in model if name not in found]
    if empty:
        raise ConfigError(
            f"import: {len(empty)} of the model's {len(model)} weights are not in the file, "
            f"first {empty[0]}",
            remedy=_REMEDY,
        )
    return found


def _moved(name: str, value: Tensor, rules: Sequence[Rule]) -> Weights | None:
    """Our name -> tensor; None if no rule knows the name."""
    for rule in rules:
        match = re.fullmatch(rule.source, name)
        if match is None:
            continue
        targets = [t(match) if callable(t) else match.expand(t) for t in rule.targets]
        if len(targets) > 1 and (value.ndim == 0 or value.shape[0] % len(targets)):
            raise ConfigError(
                f"import: {name} of shape {tuple(value.shape)} is no stack of {len(targets)}",
                remedy=_REMEDY,
            )
        parts = value.chunk(len(targets)) if len(targets) > 1 else [value] * len(targets)
        changed = [part if rule.change is None else rule.change(part) for part in parts]
        return dict(zip(targets, changed, strict=True))
    return None


def _check(name: str, value: Tensor, target: str, model: Mapping[str, Tensor]) -> None:
    if target not in model:
        raise ConfigError(
            f"import: {name} has no place in this kind of model ({target})", remedy=_REMEDY
        )
    if value.shape != model[target].shape:
        raise ConfigError(
            f"import: {name} has shape {tuple(value.shape)}, "
            f"the model needs {tuple(model[target].shape)}",
            remedy=_REMEDY,
        )
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise ConfigError(
            f"import: {name} holds values that are no numbers", remedy="copy the file again"
        )
