"""Import of Merlin and CT-CLIP: random weights in the published layouts, restated here."""

import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from published import (
    TEXTS,
    Bottleneck,
    bert_inputs,
    bert_words,
    imported,
    small_bert,
    stirred,
    unit,
)
from published_volumes import check, hu, parts
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import LongformerConfig, LongformerModel

from medvlp_volumetric.imports.known import known_volume


def i3_resnet(depths=(1, 2, 1, 1), inner=8, embed=16):
    net = parts(
        conv1=nn.Conv3d(3, 8, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False),
        bn1=nn.BatchNorm3d(8),
        classifier=nn.Conv3d(32 * inner, 5, 1),
        contrastive_head=nn.Conv3d(32 * inner, embed, 1),
    )
    width = 8
    for k, depth in enumerate(depths):
        blocks = []
        for i in range(depth):
            blocks.append(Bottleneck(3, width, inner << k, 2 if k and not i else 1))
            width = 4 * (inner << k)
        net[f"layer{k + 1}"] = nn.Sequential(*blocks)
    return net


def i3_embedding(net, volume_sra):
    """The contrastive features of (B,1,S,R,A), which enters three times."""
    x = F.relu(net["bn1"](net["conv1"](volume_sra.repeat(1, 3, 1, 1, 1))))
    x = F.max_pool3d(x, (3, 3, 3), (2, 2, 2), (1, 1, 1))
    for k in range(4):
        x = net[f"layer{k + 1}"](x)
    return net["contrastive_head"](F.adaptive_avg_pool3d(x, 1)).flatten(1)


def roberta_words(folder):
    """A tokenizer of letters whose padding is 1, as RoBERTa's; the number of its tokens."""
    folder.mkdir(parents=True)
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz., "]
    rules = Tokenizer(models.WordLevel({c: i for i, c in enumerate(pieces)}, unk_token="<unk>"))
    rules.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    rules.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    rules.save(str(folder / "tokenizer.json"))
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "cls_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return pieces


def longformer(words):
    sizes = {
        "vocab_size": words,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 40,
        "max_position_embeddings": 66,
        "type_vocab_size": 1,
        "attention_window": [512, 512],
        "pad_token_id": 1,
        "layer_norm_eps": 1e-5,
    }
    return LongformerModel(LongformerConfig(**sizes))


def test_merlin(tmp_path):
    pieces = roberta_words(tmp_path / "words")
    torch.manual_seed(0)
    text = parts(text_encoder=longformer(len(pieces)), linear_layer=nn.Linear(128, 16))
    model = parts(encode_image=parts(i3_resnet=i3_resnet()), encode_text=text)
    model.register_parameter("logit_scale", nn.Parameter(torch.tensor(1.0)))
    stirred(model)
    torch.save(model.state_dict(), tmp_path / "merlin.pt")
    shape = (32, 48, 32)
    bundle, said = imported(
        tmp_path / "merlin.pt", "merlin", tmp_path / "bundle", tokenizer=tmp_path / "words",
        settings=["preprocess.shape=[32, 48, 32]"],
    )  # fmt: skip
    shown = ((hu(shape) + 1000) / 2000).flip(1, 2).transpose(1, 2)[None, None]  # S, R, A
    image = i3_embedding(model["encode_image"]["i3_resnet"], shown)
    rows = []
    for words in ("no acute cardiopulmonary process .", "edema", "no edema , no"):
        known = [pieces.index(c) if c in pieces else 3 for c in words]
        ids = torch.tensor([[0, *known, 2]])
        first = text["text_encoder"](ids, attention_mask=ids != 1).last_hidden_state[0, 0]
        rows.append(text["linear_layer"](first))
    check(bundle, unit(image)[0], unit(torch.stack(rows)), shape)
    assert "logit_scale" in str(said)
    assert bundle.model.log_scale.item() == pytest.approx(-np.log(0.07))
    told = "No 3.5cm lesion (T12), well-defined; R/L: ok... 'yes'\n a_b."
    apart = " ".join(re.findall(r"\w+|[^\w\s]+", told.lower()))
    assert bundle.tokenizer.backend_tokenizer.normalizer.normalize_str(told) == apart


class SlabBlock(nn.Module):
    """A block of CT-ViT in its names, of sequences; `volume` lays them out for the convolution."""

    def __init__(self, width, heads, head):
        super().__init__()
        inner, hidden = heads * head, int(4 * (2 / 3) * width)
        self.heads = heads
        gamma = {f"{name}gamma": nn.Parameter(torch.ones(width)) for name in ("", "context_")}
        attention = parts(
            norm=parts(),
            context_norm=parts(),
            to_q=nn.Linear(width, inner, bias=False),
            to_kv=nn.Linear(width, 2 * inner, bias=False),
            to_out=nn.Linear(inner, width, bias=False),
        )
        attention["norm"].register_parameter("gamma", gamma["gamma"])
        attention["context_norm"].register_parameter("gamma", gamma["context_gamma"])
        for scale in ("q_scale", "k_scale"):
            attention.register_parameter(scale, nn.Parameter(torch.ones(head)))
        attention.register_parameter("null_kv", nn.Parameter(torch.randn(heads, 0, head)))
        self.add_module("0", parts(dsconv=nn.Conv3d(width, width, 3, groups=width)))
        self.add_module("1", attention)
        mlp = parts()
        mlp["0"] = nn.LayerNorm(width)
        mlp["1"] = nn.Linear(width, 2 * hidden, bias=False)
        mlp["4"] = nn.Linear(hidden, width, bias=False)
        self.add_module("3", mlp)

    def forward(self, x, volume, bias):
        conv, attention, mlp = (self.get_submodule(name) for name in "013")
        laid = x.reshape(*volume, -1).movedim(-1, 1)
        told = conv["dsconv"](F.pad(laid, (1, 1, 1, 1, 2, 0)))
        x = x + told.movedim(1, -1).reshape(x.shape)
        normed = F.layer_norm(x, x.shape[-1:], attention["norm"].gamma)
        k, v = (attention["to_kv"](x).unflatten(2, (2, self.heads, -1))).unbind(2)
        q = attention["to_q"](normed).unflatten(2, (self.heads, -1))
        q = q / q.norm(dim=-1, keepdim=True) * attention.q_scale
        k = k / k.norm(dim=-1, keepdim=True) * attention.k_scale
        logits = 8 * torch.einsum("nihd,njhd->nhij", q, k) + bias
        seen = torch.einsum("nhij,njhd->nihd", logits.softmax(-1), v).flatten(2)
        x = x + attention["to_out"](seen)
        value, gate = mlp["1"](mlp["0"](x)).chunk(2, -1)
        return x + mlp["4"](F.gelu(gate) * value)


def ct_vit(width=48, heads=3, head=16, patch=(10, 4, 4), codes=64):
    voxels = int(np.prod(patch))
    embed = parts()
    embed["1"], embed["2"] = nn.LayerNorm(voxels), nn.Linear(voxels, width)
    embed["3"] = nn.LayerNorm(width)
    bias = nn.Sequential(
        nn.Sequential(nn.Linear(2, width)),
        nn.Sequential(nn.Linear(width, width)),
        nn.Linear(width, heads),
    )
    vit = parts(
        to_patch_emb=embed,
        to_patch_emb_first_frame=nn.Sequential(nn.Identity(), nn.LayerNorm(16)),
        spatial_rel_pos_bias=parts(net=bias),
        to_pixels=nn.Sequential(nn.Linear(width, voxels)),
        to_pixels_first_frame=nn.Sequential(nn.Linear(width, 16)),
        vq=parts(_codebook=nn.Module()),
    )
    for kind in ("spatial", "temporal"):
        vit[f"enc_{kind}_transformer"] = parts(
            layers=nn.ModuleList(SlabBlock(width, heads, head) for _ in range(2)), norm_out=parts()
        )
        norm = vit[f"enc_{kind}_transformer"]["norm_out"]
        norm.register_parameter("gamma", nn.Parameter(torch.ones(width)))
    book = vit["vq"]._codebook
    book.register_buffer("initted", torch.ones(1, dtype=torch.bool))
    book.register_buffer("cluster_size", torch.ones(1, codes))
    book.register_buffer("embed", torch.randn(1, codes, width))
    return vit


def ct_tokens(vit, volume, grid, heads=3):
    """Codes (T,H,W,E) of a volume (T·10,H·4,W·4) as the network reads it."""
    t, h, w = grid
    slabs = volume.reshape(t, 10, h, 4, w, 4).permute(0, 2, 4, 1, 3, 5).reshape(t, h * w, -1)
    embed, net = vit["to_patch_emb"], vit["spatial_rel_pos_bias"]["net"]
    x = embed["3"](embed["2"](embed["1"](slabs)))
    place = torch.cartesian_prod(torch.arange(h), torch.arange(w)).float()
    apart = place[:, None] - place[None]
    apart = torch.sign(apart) * torch.log(apart.abs() + 1)
    hidden = F.leaky_relu(net[1][0](F.leaky_relu(net[0][0](apart), 0.1)), 0.1)
    bias = net[2](hidden).permute(2, 0, 1)
    for kind in ("spatial", "temporal"):
        own = vit[f"enc_{kind}_transformer"]
        for layer in own["layers"]:
            # The published code lays the columns out as if they were slabs.
            x = layer(x, (1, t, h, w), bias if kind == "spatial" else 0)
        x = F.layer_norm(x, x.shape[-1:], own["norm_out"].gamma).transpose(0, 1)
    x = x.reshape(t, h, w, -1)
    book = vit["vq"]._codebook.embed[0]
    return book[F.cosine_similarity(x[..., None, :], book, dim=-1).argmax(-1)]


def test_ct_clip(tmp_path):
    folder = bert_words(tmp_path / "weights")
    torch.manual_seed(0)
    model = parts(
        visual_transformer=ct_vit(),
        text_transformer=small_bert(),
        to_text_latent=nn.Linear(128, 20, bias=False),
        to_visual_latent=nn.Linear(36 * 48, 20, bias=False),
        to_text_latent_extra=nn.Linear(128, 20, bias=False),
        to_visual_latent_extra=nn.Linear(36 * 48, 20, bias=False),
    )
    model.register_parameter("temperature", nn.Parameter(torch.tensor(1.0)))
    vit = stirred(model)["visual_transformer"]
    book = vit["vq"]._codebook
    book.embed.copy_(F.normalize(book.embed, dim=-1))
    state = model.state_dict()
    for name in [name for name in state if name.endswith("gamma")]:
        state[name.removesuffix("gamma") + "beta"] = torch.zeros(48)
    torch.save(state, folder / "CT-CLIP_v2.pt")
    shape, grid = (30, 24, 24), (3, 6, 6)
    bundle, said = imported(
        folder, "ct-clip", tmp_path / "bundle", settings=["preprocess.shape=[30, 24, 24]"]
    )
    tokens = ct_tokens(vit, (hu(shape) / 1000).transpose(1, 2), grid)
    assert len(tokens.flatten(0, 2).unique(dim=0)) > 4
    image = model["to_visual_latent"](tokens.mean(0).flatten())
    rows = [
        model["to_text_latent"](model["text_transformer"](**one).last_hidden_state[0, 0])
        for one in bert_inputs(TEXTS, folder)
    ]
    check(bundle, unit(image), unit(torch.stack(rows)), shape)
    assert bundle.model.log_scale.item() == pytest.approx(model.temperature.item())
    assert "preprocess.clip=last" in str(said)
    # Each place of a slab has a matrix of its own, so that a heatmap's mean is the whole.
    matrix = model["to_visual_latent"].weight.view(20, 6, 6, 48)
    patches = 36 * torch.einsum("thwi,ehwi->thwe", tokens, matrix)
    torch.testing.assert_close(patches.mean((0, 1, 2)), image)
    heat = bundle.heatmap(known_volume(shape), TEXTS[0]).grid
    expected = F.cosine_similarity(patches, rows[0], dim=-1).transpose(1, 2)
    np.testing.assert_allclose(heat, expected.detach().numpy(), atol=1e-5)
