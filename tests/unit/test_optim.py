import pytest
import torch
from torch import nn

from medvlp.train.optim import OptimConfig, build_optimizer, build_schedule, factor


def test_only_matrices_decay() -> None:
    module = nn.ModuleDict({"linear": nn.Linear(3, 2), "norm": nn.LayerNorm(2)})
    module.scale = nn.Parameter(torch.tensor(1.0))
    module.bias_2Q = nn.Parameter(torch.ones(2, 5))
    module.frozen = nn.Parameter(torch.ones(4, 4), requires_grad=False)
    decays, others = build_optimizer(module, OptimConfig(weight_decay=0.3)).param_groups
    assert [p.shape for p in decays["params"]] == [torch.Size([2, 3])]
    assert decays["weight_decay"] == 0.3
    assert len(others["params"]) == 5
    assert others["weight_decay"] == 0.0


def test_the_rate_rises_linearly_and_falls_as_a_cosine() -> None:
    config = OptimConfig(lr=0.2, warmup_steps=4)
    optimizer = build_optimizer(nn.Linear(1, 1), config)
    schedule = build_schedule(optimizer, config, 12)
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:4] == pytest.approx([0.05, 0.1, 0.15, 0.2])
    assert rates[4] == pytest.approx(0.2)
    assert rates[8] == pytest.approx(0.1)
    assert rates == sorted(rates[:4]) + sorted(rates[4:], reverse=True)
    assert factor(99, OptimConfig(schedule="constant"), 100) == 1.0
