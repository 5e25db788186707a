"""Import of M3D-CLIP and fVLM's towers, plain transformers: random weights, restated here."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from published import (
    TEXTS,
    bert_inputs,
    bert_words,
    imported,
    small_bert,
    stirred,
    unit,
)
from published_volumes import check, hu, parts
from safetensors.torch import save_file
from torch import nn

from medvlp.data.preprocess import model_input
from medvlp.errors import ConfigError
from medvlp.models.imports.run import import_source


class MonaiBlock(nn.Module):
    """A pre-norm layer in MONAI's names; queries, keys and values perhaps without a bias."""

    def __init__(self, width, heads, bias):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = parts(qkv=nn.Linear(width, 3 * width, bias), out_proj=nn.Linear(width, width))
        self.mlp = parts(linear1=nn.Linear(width, 2 * width), linear2=nn.Linear(2 * width, width))

    def forward(self, x):
        q, k, v = self.attn["qkv"](self.norm1(x)).unflatten(2, (3, self.heads, -1)).unbind(2)
        weight = torch.einsum("bxhd,byhd->bhxy", q, k) / q.shape[3] ** 0.5
        seen = torch.einsum("bhxy,byhd->bxhd", weight.softmax(-1), v).flatten(2)
        x = x + self.attn["out_proj"](seen)
        return x + self.mlp["linear2"](F.gelu(self.mlp["linear1"](self.norm2(x))))


M3D_SHAPE, M3D_PATCH = (8, 16, 16), (2, 8, 8)


def m3d_clip(width=128):
    torch.manual_seed(0)
    patches = parts(patch_embeddings=nn.Sequential(nn.Identity(), nn.Linear(128, width)))
    patches.register_parameter("position_embeddings", nn.Parameter(torch.randn(1, 16, width)))
    vision = parts(
        patch_embedding=patches,
        blocks=nn.Sequential(*(MonaiBlock(width, 2, bias=False) for _ in range(2))),
        norm=nn.LayerNorm(width),
    )
    vision.register_parameter("cls_token", nn.Parameter(torch.randn(1, 1, width)))
    model = parts(
        vision_encoder=vision,
        language_encoder=small_bert(),
        mm_vision_proj=nn.Linear(width, width),
        mm_language_proj=nn.Linear(width, width),
    )
    model.register_parameter("logit_scale", nn.Parameter(torch.tensor(2.6593)))
    return stirred(model)


def m3d_tokens(model, volume_BCDHW):
    """The token in front and the patches of a volume, whose voxels are in raster order."""
    x = volume_BCDHW
    for axis, size in zip((4, 3, 2), reversed(M3D_PATCH), strict=True):
        x = x.unflatten(axis, (-1, size))
    x = x.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4).flatten(1, 3)
    vision = model["vision_encoder"]
    patches = vision["patch_embedding"]
    x = patches["patch_embeddings"][1](x) + patches.position_embeddings
    return vision["norm"](vision["blocks"](torch.cat([vision.cls_token, x], 1)))


def test_m3d_clip(tmp_path):
    folder = bert_words(tmp_path / "weights")
    model = m3d_clip()
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    later = "vision_encoder.blocks.0.norm_cross_attn.weight"
    save_file(state | {later: torch.ones(128)}, folder / "model.safetensors")
    (folder / "config.json").write_text(
        json.dumps({"model_type": "m3d_clip", "img_size": M3D_SHAPE, "patch_size": M3D_PATCH})
    )
    bundle, said = imported(folder, "m3d-clip", tmp_path / "bundle")
    volume = ((hu(M3D_SHAPE) + 1000) / 2000).flip(0)[None, None]
    image = model["mm_vision_proj"](m3d_tokens(model, volume)[:, 0])
    texts = [
        model["mm_language_proj"](model["language_encoder"](**one).last_hidden_state[0, 0])
        for one in bert_inputs(TEXTS, folder)
    ]
    check(bundle, unit(image)[0], unit(torch.stack(texts)), M3D_SHAPE)
    # Cosines are multiplied by the parameter itself.
    assert bundle.model.scale.item() == pytest.approx(model.logit_scale.item())
    assert "without an exponent" in str(said)
    # Values of any range enter as shares of it, at any size.
    finer = np.repeat(np.arange(32.0)[:, None, None], 16, 1).repeat(16, 2).astype(np.float32)
    (stored,) = model_input(bundle.preprocess, [bundle.preprocess.from_array(finer)])
    expected = np.interp((np.arange(8) + 0.5) * 4 - 0.5, np.arange(32), np.arange(32) / 31)
    np.testing.assert_allclose(stored[0, :, 3, 3], expected, atol=1e-3)


def test_a_patch_that_does_not_fit_is_refused(tmp_path):
    folder = bert_words(tmp_path / "weights")
    state = {k: v.contiguous() for k, v in m3d_clip().state_dict().items()}
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ConfigError, match="does not fit"):
        import_source(folder, "m3d-clip", tmp_path / "bundle")
    (folder / "config.json").write_text('{"patch_size": 4}')
    with pytest.raises(ConfigError, match="three sizes"):
        import_source(folder, "m3d-clip", tmp_path / "bundle")


def test_fvlm_gives_its_towers(tmp_path):
    folder = bert_words(tmp_path / "weights")
    torch.manual_seed(0)
    width, window = 128, (-1150.0, 350.0)
    patches = parts(patch_embeddings=nn.Conv3d(1, width, (16, 16, 32), (16, 16, 32)))
    patches.register_parameter("position_embeddings", nn.Parameter(torch.randn(1, 1232, width)))
    vision = parts(
        patch_embedding=patches,
        blocks=nn.Sequential(*(MonaiBlock(width, 2, bias=True) for _ in range(2))),
        norm=nn.LayerNorm(width),
    )
    bert = small_bert()
    model = parts(
        visual_encoder=vision,
        text_encoder=bert,
        text_proj=nn.Linear(128, 16),
        vision_projs=nn.ModuleList(nn.Linear(width, 16) for _ in range(4)),
        attention=nn.MultiheadAttention(width, 4),
    )
    model.register_parameter("query_tokens", nn.Parameter(torch.randn(4, width)))
    model.register_parameter("temp", nn.Parameter(torch.tensor(0.07)))
    with torch.no_grad():
        bert.embeddings.token_type_embeddings.weight.zero_()
    state = stirred(model).state_dict()
    # Its own BERT has no types of tokens, and keeps a head for masked words.
    types = state.pop("text_encoder.embeddings.token_type_embeddings.weight")
    types.zero_()
    state["text_encoder.cls.predictions.bias"] = torch.zeros(7)
    torch.save({"model": state, "epoch": 19}, folder / "model.pth")
    shape = (32, 32, 64)
    bundle, said = imported(
        folder, "fvlm", tmp_path / "bundle", settings=["preprocess.shape=[32, 32, 64]"]
    )
    x = patches["patch_embeddings"](((hu(shape, window) + 1150) / 1500)[None, None])
    place = patches.position_embeddings.mT.reshape(1, width, 7, 16, 11)
    x = x + F.interpolate(place, (2, 2, 2), mode="trilinear", align_corners=False)
    tokens = vision["norm"](vision["blocks"](x.flatten(2).mT))
    rows = [bert(**one).last_hidden_state[0, 0] for one in bert_inputs(TEXTS, folder)]
    check(bundle, unit(tokens.mean(1))[0], unit(torch.stack(rows)), shape, window)
    assert "mean nothing" in str(said)
