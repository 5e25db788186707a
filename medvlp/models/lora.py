"""Low-rank adapters on a tower's linear layers (LoRA, arXiv:2106.09685), by peft."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn

from medvlp.config import STRICT
from medvlp.errors import ConfigError
from medvlp.models.two_tower import TwoTower

_ATTENTION = (
    r"(query|key|value|key_value|query_key_value|q_proj|k_proj|v_proj|o_proj|qkv"
    r"|attention_out|attention\.output\.dense)"
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LoraConfig:
    """``W x + (alpha / rank) · B A x``: A and B learn, the tower's own weights do not."""

    towers: Annotated[tuple[Literal["image", "text"], ...], Field(min_length=1)] = ("text",)
    rank: Annotated[int, Field(gt=0)] = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """On what the adapters read."""

    targets: str = rf"(.*\.)?{_ATTENTION}"
    """Regular expression of the whole names of the linear layers in a tower; by default those of
    the attention."""


def add_adapters(model: TwoTower, config: LoraConfig) -> None:
    """Put adapters on the towers and freeze the towers' own weights, in place.

    Raises:
        ConfigError: A tower without a linear layer that `targets` names, or one within
            `nn.MultiheadAttention`, which reads its weights past any adapter.
    """
    import peft

    for name in config.towers:
        tower = model.get_submodule(name)
        wanted = _targets(tower, config, name)
        tower.requires_grad_(False)
        settings = peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # type: ignore[arg-type]  # a factor; need not be whole
            lora_dropout=config.dropout,
            target_modules=wanted,
        )
        peft.inject_adapter_in_model(settings, tower)
        for module in tower.modules():
            if isinstance(module, nn.TransformerEncoderLayer):
                # Its fused path, in evaluation, reads weights past the adapters; this bars it.
                module.activation_relu_or_gelu = 0


def merge_adapters(model: nn.Module) -> None:
    """Add the adapters to the weights that they adapt, and remove them, in place."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer):
            merged: Any = layer
            merged.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, merged.get_base_layer())


def _targets(tower: nn.Module, config: LoraConfig, name: str) -> list[str]:
    linear = [n for n, m in tower.named_modules() if isinstance(m, nn.Linear)]
    hidden = [n + "." for n, m in tower.named_modules() if isinstance(m, nn.MultiheadAttention)]
    usable = [n for n in linear if not n.startswith(tuple(hidden))]
    wanted = [n for n in usable if re.fullmatch(config.targets, n)]
    if not wanted:
        raise ConfigError(
            f"lora.targets names no linear layer of the {name} tower",
            remedy=f"choose among such as {', '.join(usable[-6:]) or 'none; it has none to adapt'}",
        )
    return wanted
