"""Parts of a model that do not learn, for the whole run or until a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer

from medvlp.data.batch import Batch
from medvlp.train.optim import FreezeRule
from medvlp.train.parts import check_parts, places


def freeze(module: nn.Module, rules: Sequence[FreezeRule]) -> None:
    """Take the parts that never learn out of training.

    Raises:
        ConfigError: A part that the model does not have.
    """
    placed = places(module)
    check_parts([rule.part for rule in rules], placed.values(), "optim.freeze")
    for weight in _held(module, [rule for rule in rules if rule.until is None]):
        weight.requires_grad_(False)


class Freezing(Callback):
    """Keeps frozen parts as in evaluation, all others as in training, and frozen weights still.

    A part with a step keeps its gradients until just before the optimiser's step, and loses them
    there: data-parallel training must know every weight that will ever learn from the start.

    Args:
        rules: What does not learn.
    """

    def __init__(self, rules: Sequence[FreezeRule]) -> None:
        self.rules = tuple(rules)
        self._modules: dict[tuple[FreezeRule, ...], list[nn.Module]] = {}
        self._weights: dict[tuple[FreezeRule, ...], list[nn.Parameter]] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put all parts into training mode: Lightning leaves each in the one that it finds."""
        pl_module.train()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Put what is frozen in this step into evaluation mode, and the rest into training."""
        step = trainer.global_step
        for module in self._whole(pl_module, tuple(r for r in self.rules if r.until)):
            module.train()
        for module in self._whole(pl_module, self._frozen(step)):
            module.eval()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Drop the gradients of what is still frozen; clipping does not count them."""
        frozen = self._frozen(trainer.global_step)
        if frozen not in self._weights:
            self._weights[frozen] = _held(pl_module, frozen)
        for weight in self._weights[frozen]:
            weight.grad = None

    def _frozen(self, step: int) -> tuple[FreezeRule, ...]:
        return tuple(rule for rule in self.rules if rule.until is None or step < rule.until)

    def _whole(self, module: nn.Module, rules: tuple[FreezeRule, ...]) -> list[nn.Module]:
        if rules not in self._modules:
            self._modules[rules] = _whole(module, rules)
        return self._modules[rules]


def _held(module: nn.Module, rules: Sequence[FreezeRule]) -> list[nn.Parameter]:
    placed = places(module) if rules else {}
    return [
        weight
        for name, weight in (module.named_parameters() if rules else ())
        if any(placed[name].is_in(rule.part) for rule in rules)
    ]


def _whole(module: nn.Module, rules: Sequence[FreezeRule]) -> list[nn.Module]:
    """The modules all of whose weights are held by the rules."""
    held = {id(weight) for weight in _held(module, rules)}
    found: list[Any] = []
    for child in module.modules() if held else ():
        weights = [id(weight) for weight in child.parameters()]
        if weights and held.issuperset(weights):
            found.append(child)
    return found
