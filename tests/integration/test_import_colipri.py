"""Import of COLIPRI: random weights in the published layout, restated here."""

import nibabel as nib
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
from published_volumes import SHAPE, check, hu, parts, ras
from safetensors.torch import save_file
from torch import nn

from medvlp.errors import ConfigError
from medvlp.models.imports.run import import_source
from medvlp_volumetric.imports.known import known_volume

SMALL = [f"preprocess.shape=[{', '.join(map(str, SHAPE))}]"]


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
