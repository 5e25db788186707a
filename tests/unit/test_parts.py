import pytest
import torch
from torch import nn

from medvlp.errors import ConfigError
from medvlp.models.image2d import ResNet2dConfig, Vit2dConfig
from medvlp.models.lora import LoraConfig, add_adapters, merge_adapters
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp.train.average import Average
from medvlp.train.freezing import freeze
from medvlp.train.optim import EmaConfig, FreezeRule, OptimConfig, build_optimizer, rate_of
from medvlp.train.parts import places

VIT = Vit2dConfig(size=16, patch=8, width=16, depth=3, heads=2)
RESNET = ResNet2dConfig(depths=(1, 2), widths=(8, 16), stem=8)


def task(image=VIT) -> nn.Module:
    text = TextTowerConfig(width=16, depth=2, heads=2, max_tokens=8)
    model = TwoTower(TwoTowerConfig(embed=6), image.build(1), text.build(40, 0))
    return nn.ModuleDict(
        {"model": model, "objectives": nn.ModuleDict({"labels": nn.Linear(16, 2)})}
    )


def rates(module: nn.Module, config: OptimConfig) -> dict[str, float]:
    found = {}
    for place in places(module).values():
        found[f"{place.part}{place.layer}"] = rate_of(place, config)
    return found


def test_layer_decay_by_hand() -> None:
    config = OptimConfig(layer_decay=0.5, rates={"text": 0.1, "text.layers[1]": 3.0})
    found = rates(task(), config)
    by_hand = {
        # three blocks: the top at 1, the blocks below it at 1/2, 1/4, 1/8, the stem at 1/16
        "image.top0": 1.0, "image.layers2": 0.5, "image.layers1": 0.25, "image.layers0": 0.125,
        "image.stem0": 0.0625, "text.layers1": 0.5 * 0.3, "text.layers0": 0.025,
        "text.stem0": 0.0125, "image_projection0": 1.0, "text_projection0": 1.0, "logits0": 1.0,
        "objectives.labels0": 1.0,
    }  # fmt: skip
    assert found == pytest.approx(by_hand)
    stages = {n: r for n, r in rates(task(RESNET), config).items() if n.startswith("image.")}
    assert stages == {"image.stem0": 0.125, "image.layers0": 0.25, "image.layers1": 0.5}


def test_groups_have_the_rate_of_their_weights() -> None:
    module = task()
    config = OptimConfig(lr=0.2, layer_decay=0.5)
    groups = build_optimizer(module, config).param_groups
    rate = {id(p): g["lr"] for g in groups for p in g["params"]}
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    placed = places(module)
    for name, weight in module.named_parameters():
        assert rate[id(weight)] == pytest.approx(0.2 * rate_of(placed[name], config)), name
        assert decay[id(weight)] == (0.1 if weight.ndim >= 2 else 0.0)
    assert groups[0]["lr"] == 0.2


@pytest.mark.parametrize(
    "name", ["images", "image.layers[3]", "image.layers[a]", "objectives.clip"]
)
def test_an_unknown_part_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(ConfigError, match=r"no part .* in this model") as error:
        freeze(task(), [FreezeRule(part=name)])
    assert "image.stem, image.layers[0:3], image.top" in error.value.remedy
    with pytest.raises(ConfigError, match=r"optim\.rates: no part"):
        build_optimizer(task(), OptimConfig(rates={name: 2.0}))


def test_a_frozen_part_is_taken_out() -> None:
    module = task()
    freeze(module, [FreezeRule(part="image.layers[0:2]"), FreezeRule(part="text", until=5)])
    placed = places(module)
    frozen = {placed[n].part for n, p in module.named_parameters() if not p.requires_grad}
    layers = {placed[n].layer for n, p in module.named_parameters() if not p.requires_grad}
    assert (frozen, layers) == ({"image.layers"}, {0, 1})


def test_average_in_closed_form() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    count = named.pop("1.num_batches_tracked")
    average = Average(EmaConfig(decay=0.9, start=2), module)
    for step, value in enumerate([1.0, 3.0, 7.0, 2.0], 1):
        for place, tensor in enumerate(named.values()):
            tensor.data.fill_(value + place)
        count.fill_(step)
        average.update(module, step)
    expected = [0.9 * (0.9 * 3.0 + 0.1 * 7.0) + 0.1 * 2.0 + place for place in range(6)]

    def found() -> list[float]:
        assert count == 4
        return [float(tensor.detach().mean()) for tensor in named.values()]

    with average.in_place(module):
        assert found() == pytest.approx(expected)
        weight, bias, gain, shift, mean, variance = expected
        by_hand = (2 * weight + bias - mean) * gain / variance**0.5 + shift
        assert module.eval()(torch.ones(1, 2)).tolist()[0] == pytest.approx([by_hand] * 2, rel=1e-5)
    assert found() == [2.0 + place for place in range(6)]
    average.put(module)
    assert found() == pytest.approx(expected)


@pytest.mark.parametrize("towers", [("text",), ("image", "text")])
def test_merged_adapters_compute_what_the_adapters_did(towers: tuple[str, ...]) -> None:
    module = task()
    model = module["model"].eval()
    names = set(model.state_dict())
    add_adapters(model, LoraConfig(towers=towers, rank=2, alpha=3.0))
    for tower in towers:
        learning = [n for n, p in model.get_submodule(tower).named_parameters() if p.requires_grad]
        assert learning
        assert all("lora_" in name for name in learning)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data.normal_(std=0.3)
    ids, mask = torch.randint(0, 40, (3, 8)), torch.ones(3, 8, dtype=torch.bool)
    image = torch.randn(3, 1, 16, 16)
    adapted = model.encode_image(image)[1], model.encode_text(ids, mask)[0]
    merge_adapters(model)
    merged = model.encode_image(image)[1], model.encode_text(ids, mask)[0]
    torch.testing.assert_close(merged, adapted, rtol=1e-5, atol=1e-5)
    assert set(model.state_dict()) == names


def test_adapters_that_reach_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"lora\.targets names no linear layer of the image"):
        add_adapters(task(RESNET)["model"], LoraConfig(towers=("image",)))
