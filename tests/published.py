"""What tests of `medvlp import` share: random checkpoints, tokenizers, the known picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import BertConfig, BertModel

import medvlp
from medvlp.data.prompts import prompts_from_labels
from medvlp.models.imports.answer import SENTENCE, known_picture
from medvlp.models.imports.run import import_source

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = [*SPECIAL, *LETTERS, *".,", *(f"##{c}" for c in LETTERS), "no", "acute", "process"]
TEXTS = [SENTENCE, "Edema", "no edema, no"]


def bert_words(folder: Path) -> Path:
    """A folder with a WordPiece vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(PIECES))
    return folder


def end_words(folder: Path, *, start: bool) -> int:
    """A tokenizer of letters with a token at the end (and start); the number of its tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    special = ["<s>", "</s>", "<unk>"]
    letters = [*special, *"abcdefghijklmnopqrstuvwxyz., NE"]
    rules = Tokenizer(models.WordLevel({c: i for i, c in enumerate(letters)}, unk_token="<unk>"))
    rules.normalizer = normalizers.NFC()
    rules.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    rules.post_processor = TemplateProcessing(
        single="<s> $A </s>" if start else "$A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    rules.save(str(folder / "tokenizer.json"))
    named = {"pad_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>", "bos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return len(letters)


def small_bert(seed: int = 0, **changed: int) -> BertModel:
    """A BERT of two heads whose weights are drawn large enough to tell."""
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": len(PIECES),
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    }
    return stirred(BertModel(BertConfig(**sizes | changed)))


@torch.no_grad()
def stirred(module: nn.Module, seed: int = 1) -> nn.Module:
    """The module with all weights moved, norms and their statistics too, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            value += 0.1 * torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.abs_().add_(0.5)
    return module.eval()


def bert_inputs(texts, folder):
    """Ids and mask of single texts, as the original code's tokenizer gives them."""
    tokenizer = medvlp.data.tokenizer.load_tokenizer(folder)
    return [tokenizer(text, return_tensors="pt") for text in texts]


def grey(size: int) -> torch.Tensor:
    """The known picture in [0,1], (1,1,size,size)."""
    return torch.from_numpy(known_picture(size).astype(np.float32) / 255)[None, None]


def unit(rows) -> np.ndarray:
    """Rows of length one."""
    return nn.functional.normalize(torch.as_tensor(rows), dim=-1).detach().numpy()


def imported(source: Path, kind: str, out: Path, **options):
    """The opened bundle of an import, and what the command says."""
    said = import_source(source, kind, out, **options)
    return medvlp.load(out), said


def check(bundle, size: int, image_E, texts_NE, atol: float = 1e-5) -> None:
    """The bundle embeds the known picture and `TEXTS` as the original does, and scores files."""
    np.testing.assert_allclose(bundle.embed_image(known_picture(size))[0], image_E, atol=atol)
    np.testing.assert_allclose(bundle.embed_text(TEXTS), texts_NE, atol=atol)
    # Beside longer texts and alone, a text is the same.
    for text, row in zip(TEXTS, texts_NE, strict=True):
        np.testing.assert_allclose(bundle.embed_text(text)[0], row, atol=atol)
    scores = bundle.zero_shot(known_picture(size), prompts_from_labels(["edema", "process"]))
    assert scores.probability_NL.shape == (1, 2)
    assert np.isfinite(bundle.heatmap(known_picture(size), "edema").grid).all()


def picture_file(folder: Path, size: int) -> Path:
    """The known picture as a PNG."""
    path = folder / "known.png"
    Image.fromarray(known_picture(size)).save(path)
    return path


class TimmBlock(nn.Module):
    """A pre-norm layer in timm's names."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.attn = nn.ModuleDict(
            {"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)}
        )
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, 2 * width), "fc2": nn.Linear(2 * width, width)}
        )

    def forward(self, x):
        q, k, v = self.attn["qkv"](self.norm1(x)).unflatten(2, (3, self.heads, -1)).unbind(2)
        seen = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))
        x = x + self.attn["proj"](seen.transpose(1, 2).flatten(2))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class TimmVit(nn.Module):
    """A vision transformer in timm's names; gives all tokens behind the last norm."""

    def __init__(self, size=32, patch=8, width=128, depth=2):
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + (size // patch) ** 2, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.blocks = nn.Sequential(*(TimmBlock(width, width // 64) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, 1e-6)

    def forward(self, image):
        patches = self.patch_embed["proj"](image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(image), -1, -1), patches], 1)
        return self.norm(self.blocks(tokens + self.pos_embed))


class Bottleneck(nn.Module):
    """A residual block in torchvision's names; the stride lies in the convolution of size 3.

    Args:
        dims: 2, or 3 for an inflated one.
        entering: Channels that enter.
        inner: Channels within; four times as many leave.
        stride: 1 or more.
    """

    def __init__(self, dims: int, entering: int, inner: int, stride: int) -> None:
        super().__init__()
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        norm = nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d
        self.conv1, self.bn1 = conv(entering, inner, 1, bias=False), norm(inner)
        self.conv2 = conv(inner, inner, 3, stride, 1, bias=False)
        self.bn2, self.bn3 = norm(inner), norm(4 * inner)
        self.conv3 = conv(inner, 4 * inner, 1, bias=False)
        self.downsample = None
        if stride != 1 or entering != 4 * inner:
            matrix = conv(entering, 4 * inner, 1, stride, bias=False)
            self.downsample = nn.Sequential(matrix, norm(4 * inner))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """A ResNet in torchvision's names, with its classifier; gives the maps of all stages."""

    def __init__(self, depths=(1, 2, 1, 1), inner=4, classes=3):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
        width = 8
        for k, depth in enumerate(depths):
            blocks = []
            for i in range(depth):
                blocks.append(Bottleneck(2, width, inner << k, 2 if k and not i else 1))
                width = 4 * (inner << k)
            setattr(self, f"layer{k + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(width, classes) if classes else nn.Identity()
        self.width = width

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        maps = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return maps
