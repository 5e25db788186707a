"""Image and text towers: shapes, pooling, absent texts, and real weights from a local folder."""

import dataclasses

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTModel,
)

from medvlp.config import plain, validate
from medvlp.data.batch import Batch
from medvlp.errors import ConfigError
from medvlp.models.clip import ClipTextConfig, ClipVisionConfig
from medvlp.models.image2d import ResNet2dConfig, Vit2dConfig
from medvlp.models.projection import LinearProjection, MlpProjection, NoProjection
from medvlp.models.siglip import SiglipTextConfig, SiglipVisionConfig
from medvlp.models.swin import SwinConfig
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import MAX_SCALE, TwoTower, TwoTowerConfig

RESNET = ResNet2dConfig(depths=(1, 1), widths=(8, 16), stem=8, norm="group")
VIT = Vit2dConfig(size=32, patch=8, width=16, depth=2, heads=2)
TEXT = TextTowerConfig(width=16, depth=1, heads=2, max_tokens=12)


def tiny_model(seed=0, image=RESNET, text=TEXT, channels=1, **joint):
    torch.manual_seed(seed)
    config = TwoTowerConfig(embed=8, **joint)
    return TwoTower(config, image.build(channels), text.build(40, 0)).eval()


def batch_of(images, texts=2, absent=()):
    count = len(images)
    generator = torch.Generator().manual_seed(3)
    mask = torch.ones(count, texts, 6, dtype=torch.bool)
    for row, column in absent:
        mask[row, column] = False
    return Batch(
        image=images,
        text_BNT=torch.randint(1, 40, (count, texts, 6), generator=generator),
        text_mask_BNT=mask,
        level_BN=torch.zeros(count, texts, dtype=torch.long),
        labels_BL=torch.zeros(count, 0),
        sample=tuple(map(str, range(count))),
    )


@pytest.mark.parametrize("config", [RESNET, VIT])
@pytest.mark.parametrize("shape", [(32, 32), (48, 32)])
def test_tower_pools_its_tokens_in_raster_order(config, shape):
    torch.manual_seed(0)
    tower = config.build(1).eval()
    out = tower(torch.rand(2, 1, *shape))
    assert out.grid == (shape[0] // 8, shape[1] // 8)
    assert out.tokens_BPD.shape == (2, out.grid[0] * out.grid[1], tower.width)
    torch.testing.assert_close(out.pooled_BD, out.tokens_BPD.mean(1))
    last = out.maps[-1]
    assert last.shape == (2, tower.width, *out.grid)
    torch.testing.assert_close(last[:, :, 1, 2], out.tokens_BPD[:, out.grid[1] + 2])
    assert all(a.shape[2] >= b.shape[2] for a, b in zip(out.maps, out.maps[1:], strict=False))


def test_batch_norm_is_replaced_by_group_norm():
    tower = RESNET.build(1)
    kinds = {type(module).__name__ for module in tower.modules()}
    assert "GroupNorm" in kinds
    assert "BatchNorm2d" not in kinds
    plain_tower = dataclasses.replace(RESNET, norm="batch").build(1)
    assert "BatchNorm2d" in {type(module).__name__ for module in plain_tower.modules()}


def test_every_weight_gets_a_gradient():
    for image in (RESNET, VIT):
        model = tiny_model(image=image).train()
        out = model(batch_of(torch.rand(3, 1, 32, 32)))
        logits = out.scale * torch.einsum("be,cne->bcn", out.image_BE, out.text_BNE) + out.bias
        logits.square().sum().backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_resnet_and_vit_weights_come_from_a_local_folder(tmp_path):
    torch.manual_seed(1)
    resnet = ResNetModel(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ).eval()
    vit = ViTModel(
        ViTConfig(
            image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1,
            num_attention_heads=2, intermediate_size=32,
        )
    ).eval()  # fmt: skip
    for name, saved, config_class in (
        ("resnet", resnet, ResNet2dConfig),
        ("vit", vit, Vit2dConfig),
    ):
        folder = tmp_path / name
        saved.save_pretrained(folder)
        tower = config_class(pretrained=str(folder)).build(1)
        assert all(module.training for module in tower.modules())
        tower.eval()
        image = torch.rand(2, 1, 32, 32)
        with torch.no_grad():
            mine = tower(image)
            theirs = saved(image.repeat(1, 3, 1, 1)).last_hidden_state
        expected = theirs[:, 1:] if name == "vit" else theirs.flatten(2).transpose(1, 2)
        torch.testing.assert_close(mine.tokens_BPD, expected)
        again = validate(config_class, plain(tower.portable), "bundle").build(1).eval()
        again.load_state_dict(tower.state_dict())
        assert tower.portable.pretrained is None
        with torch.no_grad():
            torch.testing.assert_close(again(image).tokens_BPD, expected)


@pytest.mark.parametrize(
    ("config", "model"),
    [
        (BertConfig, BertModel),
        (DistilBertConfig, DistilBertModel),
    ],
)
def test_text_weights_come_from_a_local_folder(tmp_path, config, model):
    torch.manual_seed(1)
    if model is BertModel:
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        saved = model(config(vocab_size=50, intermediate_size=32, **sizes)).eval()
    else:
        saved = model(config(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=32)).eval()
    saved.save_pretrained(tmp_path)
    tower = TextTowerConfig(pretrained=str(tmp_path), pool="cls").build(50, 0)
    assert all(module.training for module in tower.modules())
    tower.eval()
    ids = torch.randint(1, 50, (2, 6))
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], dtype=torch.bool)
    with torch.no_grad():
        theirs = saved(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        torch.testing.assert_close(tower(ids, mask).pooled_MD, theirs[:, 0])
    again = validate(TextTowerConfig, plain(tower.portable), "bundle").build(50, 0).eval()
    again.load_state_dict(tower.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again(ids, mask).pooled_MD, theirs[:, 0])


def test_pretrained_folder_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json"):
        TextTowerConfig(pretrained=str(tmp_path / "none")).build(50, 0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=50, **small)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="50 tokens, the tokenizer has 51"):
        TextTowerConfig(pretrained=str(tmp_path)).build(51, 0)
    with pytest.raises(ConfigError, match="positions"):
        TextTowerConfig(pretrained=str(tmp_path), max_tokens=600).build(50, 0)
    with pytest.raises(ConfigError, match="ViTModel"):
        Vit2dConfig(pretrained=str(tmp_path)).build(1)


def test_impossible_tower_configs_are_refused():
    for schema, values, word in (
        (Vit2dConfig, {"width": 10, "heads": 4}, "multiple"),
        (Vit2dConfig, {"size": 30}, "patch"),
        (ResNet2dConfig, {"depths": [1]}, "depths"),
        (ResNet2dConfig, {"norm": "group", "pretrained": "x"}, "batch norm"),
        (TextTowerConfig, {"width": 10}, "multiple"),
        (TwoTowerConfig, {"init_temperature": 0.0}, "init_temperature"),
    ):
        with pytest.raises(ConfigError, match=word):
            validate(schema, values, "test")


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_absent_texts_give_zero_rows_and_finite_gradients(pool):
    model = tiny_model(text=dataclasses.replace(TEXT, pool=pool)).train()
    out = model(batch_of(torch.rand(2, 1, 32, 32), absent=[(0, 1), (1, 0), (1, 1)]))
    norms = out.text_BNE.norm(dim=-1)
    torch.testing.assert_close(norms, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    out.text_BNE.square().sum().backward()
    for p in model.text.parameters():
        assert p.grad is None or bool(p.grad.isfinite().all())


def test_padding_does_not_change_a_text():
    tower = tiny_model().text
    ids = torch.tensor([[5, 6, 7]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    padded = torch.nn.functional.pad(ids, (0, 4))
    padded_mask = torch.nn.functional.pad(mask, (0, 4))
    with torch.no_grad():
        torch.testing.assert_close(tower(padded, padded_mask).pooled_MD, tower(ids, mask).pooled_MD)


def test_embeddings_are_unit_vectors_and_patches_average_to_the_image():
    model = tiny_model()
    with torch.no_grad():
        out = model(batch_of(torch.rand(3, 1, 32, 32)))
    torch.testing.assert_close(out.image_BE.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(out.text_BNE.norm(dim=-1), torch.ones(3, 2))
    mean = torch.nn.functional.normalize(out.patch_BPE.mean(1), dim=-1)
    torch.testing.assert_close(mean, out.image_BE)


def test_scale_is_held_at_its_ceiling_and_can_come_back():
    model = tiny_model(init_temperature=0.01).train()
    with torch.no_grad():
        model.log_scale.fill_(9.0)
    out = model(batch_of(torch.rand(2, 1, 32, 32)))
    assert out.scale.item() == pytest.approx(MAX_SCALE, rel=1e-5)
    out.scale.backward()
    assert float(model.log_scale.grad) > 0


def test_embeddings_are_float32_under_autocast():
    model = tiny_model()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = model(batch_of(torch.rand(2, 1, 32, 32)))
    assert out.image_BE.dtype == out.text_BNE.dtype == out.patch_BPE.dtype == torch.float32


SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
SEES = SIZES | {"num_attention_heads": 2, "image_size": 32, "patch_size": 8}
READS = SIZES | {"num_attention_heads": 2, "vocab_size": 40}
CLIP = ClipVisionConfig(architecture={"model_type": "clip_vision_model", **SEES})
SIGLIP = SiglipVisionConfig(architecture={"model_type": "siglip_vision_model", **SEES})
SWIN = SwinConfig(
    architecture={
        "model_type": "swin", "image_size": 32, "patch_size": 4, "embed_dim": 8,
        "depths": [1, 1], "num_heads": [1, 2], "window_size": 4,
    }
)  # fmt: skip


@pytest.mark.parametrize("config", [CLIP, SIGLIP, SWIN])
@pytest.mark.parametrize("shape", [(32, 32), (48, 32)])
def test_towers_of_published_models_lay_out_their_patches(config, shape):
    torch.manual_seed(0)
    tower = config.build(3).eval()
    out = tower(torch.rand(2, 3, *shape))
    assert out.grid == (shape[0] // 8, shape[1] // 8)
    assert out.tokens_BPD.shape == (2, out.grid[0] * out.grid[1], tower.width)
    assert out.pooled_BD.shape == (2, 16)
    assert out.maps[-1].shape == (2, tower.width, *out.grid)
    assert all(a.shape[2] >= b.shape[2] for a, b in zip(out.maps, out.maps[1:], strict=False))
    again = dataclasses.replace(config, checkpoint_activations=True).build(3)
    again.load_state_dict(tower.state_dict())
    image = torch.rand(2, 3, *shape)
    again.train()(image).pooled_BD.sum().backward()
    assert next(again.parameters()).grad is not None


@pytest.mark.parametrize("config", [CLIP, SIGLIP, VIT])
def test_what_a_layer_gives_can_be_altered(config):
    torch.manual_seed(0)
    tower = config.build(3).eval()
    image = torch.rand(2, 3, 32, 32)
    seen = []

    def swap(tokens_BPC, grid):
        seen.append((tokens_BPC.shape[1], grid))
        return tokens_BPC.flip(0)

    plain_out, swapped = tower(image), tower.forward_altered(image, 0, swap)
    assert seen == [(16, (4, 4))]
    same = tower.forward_altered(image, 1, lambda tokens, _: tokens)
    torch.testing.assert_close(same.pooled_BD, plain_out.pooled_BD)
    assert not torch.allclose(swapped.pooled_BD, plain_out.pooled_BD)


@pytest.mark.parametrize(
    "config",
    [
        ClipTextConfig(architecture={"model_type": "clip_text_model", **READS}),
        SiglipTextConfig(architecture={"model_type": "siglip_text_model", **READS}),
        dataclasses.replace(TEXT, pool="last"),
        dataclasses.replace(TEXT, layers=(0, -1)),
    ],
)
def test_texts_are_what_they_are_whatever_stands_beside_them(config):
    torch.manual_seed(0)
    tower = config.build(40, 0).eval()
    ids = torch.randint(1, 40, (3, 9))
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[0, 5:] = mask[2] = False
    together = tower(ids, mask)
    alone = tower(ids[:1, :5], mask[:1, :5])
    torch.testing.assert_close(together.pooled_MD[0], alone.pooled_MD[0])
    assert together.tokens_MTD.shape == (3, 9, tower.width)
    assert torch.isfinite(together.pooled_MD).all()


def test_layers_are_averaged_and_the_last_token_is_the_last_real_one():
    torch.manual_seed(0)
    tower = dataclasses.replace(TEXT, pool="last", layers=(0, -1)).build(40, 0).eval()
    ids, mask = torch.randint(1, 40, (1, 6)), torch.ones(1, 6, dtype=torch.bool)
    mask[0, 4:] = False
    hidden = tower.backbone(ids, mask.long(), output_hidden_states=True).hidden_states
    expected = (hidden[0] + hidden[1])[0, 3] / 2
    torch.testing.assert_close(tower(ids, mask).pooled_MD[0], expected)


def test_projections_of_other_forms():
    image = batch_of(torch.rand(2, 1, 32, 32))
    mlp = MlpProjection(hidden=10, activation="relu", norm=True)
    model = tiny_model(image_projection=mlp, project_patches_first=True)
    out = model(image)
    features = model.image(image.image)
    patches = model.image_projection(features.tokens_BPD)
    torch.testing.assert_close(out.image_BE, torch.nn.functional.normalize(patches.mean(1), dim=-1))
    torch.testing.assert_close(out.patch_BPE, patches)
    shown = dataclasses.replace(RESNET, token_stage=-2, enlarge_to=64)
    own = LinearProjection(bias=True)
    model = tiny_model(image=shown, patch_projection=own, token_projection=own)
    out = model(image)
    assert out.image.grid == (16, 16)
    assert out.image.tokens_BPD.shape[2] == 8
    assert out.patch_BPE.shape == (2, 256, 8)
    tokens = model.text(image.text_BNT[:, 0], image.text_mask_BNT[:, 0]).tokens_MTD
    torch.testing.assert_close(out.token_BNTE[:, 0], model.token_projection(tokens))
    with pytest.raises(ConfigError, match=r"model\.embed is 8, a tower .* gives 16"):
        tiny_model(text_projection=NoProjection())
    with pytest.raises(ConfigError, match="2 stages"):
        dataclasses.replace(RESNET, token_stage=-3).build(1)
    with pytest.raises(ConfigError, match="tower needs swin"):
        SwinConfig(architecture=CLIP.architecture).build(3)
    with pytest.raises(ConfigError, match="takes 3 channels"):
        SWIN.build(2)


def test_a_ceiling_of_its_own():
    model = tiny_model(max_scale=1000.0).train()
    with torch.no_grad():
        model.log_scale.fill_(9.0)
    assert model(batch_of(torch.rand(2, 1, 32, 32))).scale.item() == pytest.approx(1000, rel=1e-5)
