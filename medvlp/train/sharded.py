"""Fully sharded training (FSDP: Zhao et al. 2023, arXiv:2304.11277; PyTorch's `fully_shard`).

Each device keeps its share of the towers' weights, gradients and moments, and fetches a block's
weights while it computes that block. Losses and gradients are those of data-parallel training,
and checkpoints hold whole tensors in the same layout, so that a run may go on with any number of
devices, sharded or not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils import _pytree

from medvlp.encoding import ImageFeatures, TextFeatures

# Sharding looks for tensors in what a tower returns.
for _features in (ImageFeatures, TextFeatures):
    _pytree.register_dataclass(
        _features, field_names=[field.name for field in dataclasses.fields(_features)]
    )


class ShardedStrategy(DDPStrategy):
    """Shards both towers, block by block; the rest is small and lies on every device.

    Lightning's own strategies for sharding write folders through pickle, or need a GPU.
    """

    def configure_ddp(self) -> None:
        """Shard the model in place; every rank starts from the first one's weights."""
        module: Any = self.lightning_module
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        for tower in (module.model.image, module.model.text):
            if not any(True for _ in tower.parameters()):
                continue
            for part in (*_blocks(tower), tower):
                fully_shard(part, mesh=mesh, reshard_after_forward=True)

    def post_backward(self, closure_loss: Tensor) -> None:
        """Average the gradients of what is not sharded.

        A gradient that adds up over several batches was averaged before: it is every rank's, and
        averaging it again changes nothing.
        """
        module = self.lightning_module
        assert module is not None
        whole = [p for p in module.parameters() if p.requires_grad and not isinstance(p, DTensor)]
        used = torch.tensor([p.grad is not None for p in whole], device=self.root_device).int()
        dist.all_reduce(used, dist.ReduceOp.MAX)
        for parameter, somewhere in zip(whole, used.tolist(), strict=True):
            if somewhere:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad)
                parameter.grad /= self.world_size

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The model's whole tensors."""
        found: dict[str, Any] = _whole(super().lightning_module_state_dict())
        return found

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Tensor]:
        """The optimiser's whole tensors."""
        found: dict[str, Tensor] = _whole(super().optimizer_state(optimizer))
        return found

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Give each rank its share of the optimiser's tensors."""
        states = [
            {
                "state": _shares(state["state"], optimizer),
                "param_groups": [{**group, "fused": False} for group in state["param_groups"]],
            }
            for optimizer, state in zip(
                self.optimizers, checkpoint["optimizer_states"], strict=True
            )
        ]
        super().load_optimizer_state_dict({"optimizer_states": states})


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The elements of the outermost lists: a transformer's layers, a residual network's stages."""
    for child in module.children():
        yield from child if isinstance(child, nn.ModuleList) else _blocks(child)


def _whole(value: Any) -> Any:
    """The same nested values with every sharded tensor put together; all ranks must take part."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, Mapping):
        return {key: _whole(item) for key, item in value.items()}
    return value


def _shares(state: Mapping[int, Mapping[str, Any]], optimizer: Optimizer) -> dict[int, Any]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        number: {name: _share(value, parameters[number]) for name, value in values.items()}
        for number, values in state.items()
    }


def _share(value: Any, parameter: Tensor) -> Any:
    """A moment, laid out as its parameter; a count of steps stays whole."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    there = value.to(parameter.device)
    # Every rank has read the whole tensor and takes its part of it.
    return distribute_tensor(there, parameter.device_mesh, parameter.placements, src_data_rank=None)
