"""Import of CT models: random weights in the published layouts, restated here."""

import json
import re

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from published import TEXTS, bert_inputs, bert_words, imported, small_bert, stirred, unit
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import LongformerConfig, LongformerModel

from medvlp.data.preprocess import model_input
from medvlp.errors import ConfigError
from medvlp.models.imports.run import import_source
from medvlp_volumetric.imports.known import known_volume

SHAPE = (16, 16, 16)
SMALL = [f"preprocess.shape=[{', '.join(map(str, SHAPE))}]"]


def hu(shape=SHAPE, window=(-1000.0, 1000.0)):
    return torch.from_numpy(known_volume(shape, window).astype(np.float32))


def ras(volume_DHW):
    """(1,1,R,A,S) of a volume to the head, back and left."""
    return volume_DHW.flip(1, 2).permute(2, 1, 0)[None, None]


def check(bundle, image_E, texts_NE, shape=SHAPE, window=(-1000.0, 1000.0), atol=1e-5):
    """The bundle embeds the known volume and `TEXTS` as the original does, whatever is beside."""
    volume = known_volume(shape, window)
    np.testing.assert_allclose(bundle.embed_image(volume)[0], image_E, atol=atol)
    np.testing.assert_allclose(bundle.embed_text(TEXTS), texts_NE, atol=atol)
    for text, row in zip(TEXTS, texts_NE, strict=True):
        np.testing.assert_allclose(bundle.embed_text(text)[0], row, atol=atol)
    assert np.isfinite(bundle.heatmap(volume, "edema").grid).all()


def parts(**modules):
    return nn.ModuleDict(modules)


class RotaryAttention(nn.Module):
    """Attention whose queries and keys are complex numbers, turned by where a patch lies."""

    def __init__(self, width, heads, grid):
        super().__init__()
        self.heads = heads
        self.q_proj, self.v_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.norm, self.proj = nn.LayerNorm(width), nn.Linear(width, width)
        pairs = width // heads // 6
        rates = 10_000.0 ** -(torch.arange(pairs) / pairs)
        places = torch.cartesian_prod(*(torch.arange(n) for n in grid)).float()
        angle = (places[:, :, None] * rates).flatten(1)
        self.turn = torch.polar(torch.ones_like(angle), angle)

    def forward(self, x):
        q, k, v = (
            part(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = (torch.view_as_complex(t.unflatten(3, (-1, 2)).contiguous()) for t in (q, k))
        logits = ((q * self.turn) @ (k * self.turn).mH).real / v.shape[3] ** 0.5
        return self.proj(self.norm((logits.softmax(-1) @ v).transpose(1, 2).flatten(2)))


class GatedMlp(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.fc1_g, self.fc1_x = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.norm, self.fc2 = nn.LayerNorm(hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(self.norm(F.silu(self.fc1_g(x)) * self.fc1_x(x)))


class EvaBlock(nn.Module):
    def __init__(self, width, heads, hidden, grid):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = RotaryAttention(width, heads, grid), GatedMlp(width, hidden)
        self.gamma_1 = nn.Parameter(torch.full((width,), 0.1))
        self.gamma_2 = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x):
        x = x + self.gamma_1 * self.attn(self.norm1(x))
        return x + self.gamma_2 * self.mlp(self.norm2(x))


class Pooler(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x):
        return self.attn(x.mean(1, keepdim=True), x, x)[0][:, 0]


def colipri(grid=(4, 4, 4), width=144, embed=128):
    torch.manual_seed(0)
    eva = parts(
        blocks=nn.Sequential(*(EvaBlock(width, 2, 40, grid) for _ in range(2))),
        norm=nn.LayerNorm(width),
    )
    backbone = parts(
        down_projection=parts(proj=nn.Conv3d(1, width, 4, 4)), eva=eva, up_projection=nn.Identity()
    )
    backbone.register_buffer("mask_token", torch.zeros(1, 1, width))
    bert = small_bert()
    bert.pooler = None
    model = parts(
        image_encoder=parts(
            backbone=backbone, projector=nn.Conv3d(width, embed, 1), pooler=Pooler(embed, 2)
        ),
        text_encoder=parts(backbone=bert, pooler=Pooler(128, 2)),
    )
    model.register_buffer("softmax_temperature", torch.tensor(0.5))
    return stirred(model)


def colipri_patches(model, volume):
    """Projected patches of a volume as the network reads it, before the pooler."""
    image = model["image_encoder"]
    patches = image["backbone"]["down_projection"]["proj"](volume)
    eva = image["backbone"]["eva"]
    x = eva["norm"](eva["blocks"](patches.flatten(2).transpose(1, 2)))
    x = image["projector"](x.transpose(1, 2).unflatten(2, patches.shape[2:]))
    return x.flatten(2).transpose(1, 2)


def colipri_answer(model, folder, volume):
    """Embeddings of a volume as the network reads it, and of `TEXTS`."""
    text = model["text_encoder"]
    rows = [
        text["pooler"](text["backbone"](**one).last_hidden_state)[0]
        for one in bert_inputs(TEXTS, folder)
    ]
    image = model["image_encoder"]["pooler"](colipri_patches(model, volume))
    return unit(image)[0], unit(torch.stack(rows))


def colipri_file(folder, model):
    bert_words(folder)
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return folder


def test_colipri(tmp_path):
    model = colipri()
    folder = colipri_file(tmp_path / "weights", model)
    bundle, said = imported(folder, "colipri", tmp_path / "bundle", settings=SMALL)
    answer = colipri_answer(model, folder, ras(hu() / 1000))
    check(bundle, *answer)
    assert "image.axes=SAR" in str(said)
    # A file of any orientation, in millimetres, is the same volume.
    values = known_volume(SHAPE).transpose(2, 1, 0)  # to the left, the back and the head
    for code in ("LPS", "RAS", "AIR"):
        image = nib.Nifti1Image(values, np.diag([-2.0, -2.0, 2.0, 1.0]))
        turn = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("LPS"), nib.orientations.axcodes2ornt(code)
        )
        nib.save(image.as_reoriented(turn), tmp_path / f"{code}.nii.gz")
        found = bundle.embed_image([tmp_path / f"{code}.nii.gz"])[0]
        np.testing.assert_allclose(found, answer[0], atol=1e-5)
    assert bundle.model.scale.item() == pytest.approx(1 / model.softmax_temperature.item())
    # Heatmaps go through the pooler's value and output, and lie in our axes.
    pooler = model["image_encoder"]["pooler"].attn
    weight, bias = (p.chunk(3)[2] for p in (pooler.in_proj_weight, pooler.in_proj_bias))
    value = F.linear(colipri_patches(model, ras(hu() / 1000)), weight, bias)
    patches = pooler.out_proj(value)[0].unflatten(0, (4, 4, 4)).permute(2, 1, 0, 3).flip(1, 2)
    grid = bundle.heatmap(known_volume(SHAPE), TEXTS[0]).grid
    expected = F.cosine_similarity(patches, torch.from_numpy(answer[1][0]), dim=-1)
    np.testing.assert_allclose(grid, expected.detach().numpy(), atol=1e-5)


def test_a_volume_turned_otherwise_is_another_volume(tmp_path):
    model = colipri()
    folder = colipri_file(tmp_path / "weights", model)
    older = [*SMALL, "image.axes=SAR"]
    bundle, _ = imported(folder, "colipri", tmp_path / "bundle", settings=older)
    sar = (hu() / 1000).flip(1, 2)[None, None]
    expected, texts = colipri_answer(model, folder, sar)
    check(bundle, expected, texts)
    assert expected @ colipri_answer(model, folder, ras(hu() / 1000))[0] < 0.99


def test_every_tensor_of_a_ct_model_has_its_place(tmp_path):
    model = colipri()
    folder = colipri_file(tmp_path / "weights", model)
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file(state | {"image_encoder.backbone.eva.pos_embed": torch.zeros(1, 64, 144)},
              folder / "model.safetensors")  # fmt: skip
    with pytest.raises(ConfigError, match=r"1 of \d+ tensors are none .*eva.pos_embed"):
        import_source(folder, "colipri", tmp_path / "bundle", settings=SMALL)
    del state["image_encoder.backbone.eva.blocks.1.attn.k_proj.weight"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"no tensor .*k_proj"):
        import_source(folder, "colipri", tmp_path / "bundle", settings=SMALL)
    assert not (tmp_path / "bundle").exists()


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


class Bottleneck3d(nn.Module):
    """An inflated bottleneck in Merlin's names."""

    def __init__(self, entering, inner, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(entering, inner, 1, bias=False), nn.BatchNorm3d(inner)
        self.conv2 = nn.Conv3d(inner, inner, 3, stride, 1, bias=False)
        self.bn2, self.bn3 = nn.BatchNorm3d(inner), nn.BatchNorm3d(4 * inner)
        self.conv3 = nn.Conv3d(inner, 4 * inner, 1, bias=False)
        self.downsample = None
        if stride != 1 or entering != 4 * inner:
            matrix = nn.Conv3d(entering, 4 * inner, 1, stride, bias=False)
            self.downsample = nn.Sequential(matrix, nn.BatchNorm3d(4 * inner))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


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
            blocks.append(Bottleneck3d(width, inner << k, 2 if k and not i else 1))
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
