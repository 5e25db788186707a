"""Adapters on towers of volumes, and on the text towers that go with them."""

import pytest
import torch
from torch import nn

from medvlp.config import validate
from medvlp.errors import ConfigError
from medvlp.models.lora import LoraConfig, add_adapters, merge_adapters
from medvlp.models.text import TextTowerConfig
from medvlp.models.tribert import TribertConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp_volumetric.encoders.turned import TurnedConfig

PRIMUS = {"kind": "primus", "patch": [4, 8, 8], "width": 24, "depth": 2, "heads": 2}
CTVIT = {"kind": "ctvit", "patch": [4, 8, 8], "width": 24, "within": 1, "across": 1, "heads": 2}
SWIN = {"kind": "swin3d", "patch": [2, 2, 2], "embed": 6, "depths": [1, 1, 1, 1],
        "heads": [1, 1, 2, 2], "window": [2, 2, 2]}  # fmt: skip
VIT = {"kind": "vit3d", "patch": [4, 8, 8], "width": 24, "depth": 2, "heads": 2}
I3D = {"kind": "i3d", "stem": 8, "widths": [8, 8, 8, 8], "blocks": [1, 1, 1, 1]}
LINEAR = r".*linear[12]"


def built(encoder, text=None) -> TwoTower:
    torch.manual_seed(0)
    values = {"kind": "turned", "axes": "RAS", "encoder": encoder}
    image = validate(TurnedConfig, values, "image").build(1)
    text = text or TextTowerConfig(width=16, depth=1, heads=2, max_tokens=8)
    return TwoTower(TwoTowerConfig(embed=6), image, text.build(40, 0)).eval()


def adapted(model: TwoTower, tower: str, **values) -> set[str]:
    """Where adapters came to lie; they are checked to learn alone and to merge exactly."""
    names = set(model.state_dict())
    add_adapters(model, LoraConfig(towers=(tower,), rank=2, alpha=3.0, **values))
    part = model.get_submodule(tower)
    learning = {n for n, p in part.named_parameters() if p.requires_grad}
    found = {n.split(".lora_")[0] for n in learning}
    assert all("lora_" in n for n in learning)
    image, ids = torch.randn(2, 1, 16, 32, 32), torch.randint(0, 40, (3, 8))
    mask = torch.ones(3, 8, dtype=torch.bool)

    @torch.no_grad()
    def told():
        if tower == "text":
            return model.encode_text(ids, mask)[0]
        return model.encode_image(image)[1]

    before = told()
    torch.manual_seed(1)
    for name, weight in part.named_parameters():
        if "lora_" in name:
            nn.init.normal_(weight, std=0.3)
    with_adapters = told()
    assert not torch.allclose(with_adapters, before, atol=1e-3)
    merge_adapters(model)
    torch.testing.assert_close(told(), with_adapters, rtol=1e-4, atol=1e-5)
    assert set(model.state_dict()) == names
    return found


def test_every_block_of_primus_and_its_pooler_are_adapted():
    blocks = {f"encoder.blocks.{k}." for k in range(2)}
    expected = {b + name for b in blocks for name in ("query_key_value", "attention_out")}
    pooler = {f"encoder.pool.{name}" for name in ("query", "key", "value")}
    assert adapted(built(PRIMUS), "image") == expected | pooler


def test_every_block_of_ct_vit_is_adapted():
    layers = ("query", "key_value", "attention_out")
    expected = {f"encoder.blocks.{k}.{name}" for k in range(2) for name in layers}
    assert adapted(built(CTVIT), "image") == expected


def test_every_block_of_swin_is_adapted():
    expected = {f"encoder.stages.{k}.blocks.0.attn.qkv" for k in range(4)}
    assert adapted(built(SWIN), "image") == expected


def test_attention_that_torch_keeps_to_itself_is_refused_and_its_perceptrons_can_be_named():
    with pytest.raises(ConfigError, match=r"names no linear layer of the image .*linear1"):
        add_adapters(built(VIT), LoraConfig(towers=("image",)))
    found = adapted(built(VIT), "image", targets=LINEAR)
    assert found == {f"encoder.blocks.{k}.linear{n}" for k in range(2) for n in (1, 2)}
    with pytest.raises(ConfigError, match="it has none to adapt"):
        add_adapters(built(I3D), LoraConfig(towers=("image",)))


def test_texts_of_sentences_and_poolers_of_texts_are_adapted():
    tribert = TribertConfig(width=16, depth=2, heads=2, max_tokens=8)
    model = TwoTower(TwoTowerConfig(embed=6), built(PRIMUS).image, tribert.build(40, 0, 3)).eval()
    assert len(adapted(model, "text")) == 8
    pooled = TextTowerConfig(width=16, depth=1, heads=2, max_tokens=8, pool="attention")
    found = adapted(built(PRIMUS, pooled), "text")
    assert {f"pooler.{name}" for name in ("query", "key", "value")} <= found
