"""Images that a tower sees twice: blocks computed again, and looks at altered images.

Activation checkpointing (Chen et al. 2016, arXiv:1604.06174): a tower's block keeps its input alone
and computes what lies within once more when the backward pass comes to it. Gradients stay what they
are, to the last bit where the operations repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute_blocks(model: nn.Module, *kinds: type[nn.Module]) -> None:
    """Make every block of these classes keep its input alone, in training.

    Names of weights do not change. Dropout draws the same again, and batch norm counts a batch
    in its running statistics once.

    Args:
        model: The tower, changed in place.
        kinds: The classes of its blocks.

    Raises:
        ValueError: The tower has no such block.
    """
    blocks = [module for module in model.modules() if isinstance(module, kinds)]
    if not blocks:
        raise ValueError(f"no {' or '.join(kind.__name__ for kind in kinds)} to compute again")
    for block in blocks:
        # On the instance, so that hooks of the module (FSDP's) run once, outside.
        block.forward = partial(_forward, block, block.forward)


def _forward(block: nn.Module, forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*inputs, **named)
    contexts = partial(_contexts, block)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **named)


def _contexts(
    block: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), uncounted(block)


@contextmanager
def uncounted(block: nn.Module) -> Iterator[None]:
    """Batch norm counts on copies of its running statistics, which are then thrown away.

    Args:
        block: The module whose batch norms these are.
    """
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    kept = [dict(norm.named_buffers(recurse=False)) for norm in norms]
    for norm, buffers in zip(norms, kept, strict=True):
        for name, buffer in buffers.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)


class SecondLook(nn.Module):
    """A tower that sees a batch's images once more, altered.

    They do not count in batch norm's running statistics, by which whole images are judged later.
    """

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, image: Tensor) -> Any:
        """What the tower makes of images."""
        with uncounted(self.tower):
            return self.tower(image)
