"""Import of CLIP, SigLIP, OpenCLIP and CheXzero: random weights in the published layouts."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from published import (
    SENTENCE,
    TEXTS,
    TimmVit,
    bert_inputs,
    bert_words,
    check,
    end_words,
    grey,
    imported,
    known_picture,
    picture_file,
    small_bert,
    stirred,
    unit,
)
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

import medvlp
from medvlp.cli import app
from medvlp.errors import BundleError, ConfigError, InputError
from medvlp.evaluate.run import evaluate_protocol
from medvlp.guarded import run_guarded
from medvlp.models.imports.contracts import CLIP_MEAN, CLIP_STD
from medvlp.models.imports.run import import_source
from medvlp.train.fit import train_run

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 2}  # fmt: skip
VISION = SIZES | {"image_size": 32, "patch_size": 8}


def colours(size, mean, std):
    mean, std = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)
    return ((grey(size) - mean) / std).expand(1, 3, size, size)


def clip_folder(folder):
    count = end_words(folder, start=True)
    text = SIZES | {"vocab_size": count, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
                    "max_position_embeddings": 77}  # fmt: skip
    config = CLIPConfig(text_config=text, vision_config=VISION, projection_dim=12)
    torch.manual_seed(0)
    model = stirred(CLIPModel(config))
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "weights"
    return folder, clip_folder(folder)


def clip_texts(model, folder):
    tokenizer = medvlp.data.tokenizer.load_tokenizer(folder)
    asked = [tokenizer(text, return_tensors="pt") for text in TEXTS]
    return [model.get_text_features(**one).pooler_output[0] for one in asked]


def test_clip_of_transformers(clip, tmp_path):
    folder, model = clip
    bundle, said = imported(folder, "clip", tmp_path / "bundle")
    image = model.get_image_features(pixel_values=colours(32, CLIP_MEAN, CLIP_STD)).pooler_output
    texts = torch.stack(clip_texts(model, folder))
    check(bundle, 32, unit(image)[0], unit(texts))
    assert bundle.scale == pytest.approx(min(100, model.logit_scale.exp().item()), rel=1e-5)
    assert bundle.preprocess.config.resize == "shortest"
    described = bundle.info.image["architecture"]
    assert described["hidden_act"] == "quick_gelu"
    assert not {"dtype", "_name_or_path", "transformers_version"} & set(described)
    assert set(bundle.info.provenance["imported"]["files"]) == {"config.json", "model.safetensors"}
    assert "interpolation bicubic" in str(said)
    assert "not checked" in str(said)


def test_a_preprocessor_file_says_the_contract(clip, tmp_path):
    folder, _ = clip
    stated = {
        "size": {"shortest_edge": 40},
        "crop_size": {"height": 32, "width": 32},
        "resample": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
    }
    path = folder / "preprocessor_config.json"
    try:
        path.write_text(json.dumps(stated))
        bundle, _ = imported(folder, "clip", tmp_path / "bundle", settings=["preprocess.std=0.5"])
        path.write_text(json.dumps(stated | {"resample": 1}))
        with pytest.raises(ConfigError, match="resample 1"):
            import_source(folder, "clip", tmp_path / "other")
        with pytest.raises(BundleError, match="bundle exists already"):
            import_source(folder, "clip", tmp_path / "bundle")
    finally:
        path.unlink()
    contract = bundle.preprocess.config
    assert (contract.size, contract.resize_to, contract.interpolation) == (32, 40, "bilinear")
    assert (contract.mean, contract.std, contract.channels) == (0.5, 0.5, 1)
    wide = np.arange(60 * 80, dtype=np.float32).reshape(60, 80)
    assert bundle.embed_image(wide).shape == (1, 12)


def test_siglip_of_transformers(tmp_path):
    folder = tmp_path / "weights"
    count = end_words(folder, start=False)
    text = SIZES | {"vocab_size": count, "max_position_embeddings": 64, "pad_token_id": 1}
    torch.manual_seed(0)
    model = stirred(SiglipModel(SiglipConfig(text_config=text, vision_config=VISION)))
    with torch.no_grad():
        model.logit_scale.fill_(math.log(117.3))
    model.save_pretrained(folder)
    bundle, _ = imported(folder, "siglip", tmp_path / "bundle")
    image = model.get_image_features(pixel_values=colours(32, [0.5], [0.5])).pooler_output
    tokenizer = medvlp.data.tokenizer.load_tokenizer(folder)
    # SigLIP reads texts without capitals and punctuation, padded to 64 tokens.
    bare = [text.lower().translate(str.maketrans("", "", ".,")) for text in TEXTS]
    ids = tokenizer(bare, padding="max_length", max_length=64, return_tensors="pt").input_ids
    check(bundle, 32, unit(image)[0], unit(model.get_text_features(input_ids=ids).pooler_output))
    assert bundle.scale == pytest.approx(117.3, rel=1e-4)
    assert bundle.model.logit_bias.item() == pytest.approx(model.logit_bias.item())


def open_clip_model(bert):
    torch.manual_seed(2)
    model = nn.Module()
    model.visual = nn.ModuleDict(
        {"trunk": TimmVit(), "head": nn.ModuleDict({"proj": nn.Linear(128, 24, bias=False)})}
    )
    head = nn.Sequential(nn.Linear(128, 76, bias=False), nn.GELU(), nn.Linear(76, 24, bias=False))
    model.text = nn.ModuleDict({"transformer": bert, "proj": head})
    model.logit_scale = nn.Parameter(torch.tensor(math.log(85.0)))
    return stirred(model)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_open_clip_with_timm_and_bert(tmp_path, suffix):
    folder = bert_words(tmp_path / "weights")
    bert = small_bert()
    bert.pooler = None
    model = open_clip_model(bert)
    config = {
        "model_cfg": {
            "embed_dim": 24,
            "vision_cfg": {"timm_model_name": "vit_base_patch16_224", "timm_pool": ""},
            "text_cfg": {
                "hf_model_name": "bert", "hf_pooler_type": "cls_last_hidden_state_pooler",
                "context_length": 48,
            },
        },
        "preprocess_cfg": {"mean": list(CLIP_MEAN), "std": list(CLIP_STD)},
    }  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    if suffix == "bin":
        torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    else:
        save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    bundle, _ = imported(folder, "open-clip", tmp_path / "bundle")
    tokens = model.visual["trunk"](colours(32, CLIP_MEAN, CLIP_STD))
    image = model.visual["head"]["proj"](tokens[:, 0])
    texts = [
        model.text["proj"](bert(**one).last_hidden_state[:, 0])[0]
        for one in bert_inputs(TEXTS, folder)
    ]
    check(bundle, 32, unit(image)[0], unit(torch.stack(texts)))
    assert bundle.model.text.max_tokens == 48
    assert bundle.scale == pytest.approx(model.logit_scale.exp().item(), rel=1e-4)


class OpenAiBlock(nn.Module):
    """A layer of OpenAI's CLIP in its names."""

    def __init__(self, width):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // 64, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)}
        )

    def forward(self, x, mask=None):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        inner = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](inner * torch.sigmoid(1.702 * inner))


class OpenAiClip(nn.Module):
    """OpenAI's CLIP with a vision transformer, in its names."""

    def __init__(self, words, size=32, patch=8, width=128, embed=20, length=77):
        super().__init__()
        self.visual = nn.Module()
        self.visual.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.visual.class_embedding = nn.Parameter(torch.randn(width))
        self.visual.positional_embedding = nn.Parameter(
            torch.randn((size // patch) ** 2 + 1, width)
        )
        self.visual.ln_pre, self.visual.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.visual.transformer = nn.ModuleDict(
            {"resblocks": nn.ModuleList(OpenAiBlock(width) for _ in range(2))}
        )
        self.visual.proj = nn.Parameter(torch.randn(width, embed))
        self.transformer = nn.ModuleDict(
            {"resblocks": nn.ModuleList(OpenAiBlock(64) for _ in range(2))}
        )
        self.token_embedding = nn.Embedding(words, 64)
        self.positional_embedding = nn.Parameter(torch.randn(length, 64))
        self.ln_final = nn.LayerNorm(64)
        self.text_projection = nn.Parameter(torch.randn(64, embed))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(50.0)))

    def see(self, image):
        v = self.visual
        x = v.conv1(image).flatten(2).transpose(1, 2)
        x = torch.cat([v.class_embedding.expand(len(x), 1, -1), x], 1) + v.positional_embedding
        x = v.ln_pre(x)
        for block in v.transformer["resblocks"]:
            x = block(x)
        return v.ln_post(x[:, 0]) @ v.proj

    def read(self, ids, end):
        # Padded with zeros to the full length, as OpenAI's tokenizer does.
        padded = F.pad(ids, (0, len(self.positional_embedding) - ids.shape[1]))
        x = self.token_embedding(padded) + self.positional_embedding
        mask = torch.full((x.shape[1], x.shape[1]), -math.inf).triu(1)
        for block in self.transformer["resblocks"]:
            x = block(x, mask)
        return self.ln_final(x)[:, end] @ self.text_projection


@pytest.fixture(scope="module")
def chexzero(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chexzero")
    count = end_words(folder / "words", start=True)
    torch.manual_seed(3)
    model = stirred(OpenAiClip(count))
    torch.save(model.state_dict(), folder / "best.pt")
    return folder, model


def test_chexzero(chexzero, tmp_path):
    folder, model = chexzero
    mean, std = [101.48761 / 255], [83.43944 / 255]
    tokenizer = medvlp.data.tokenizer.load_tokenizer(folder / "words")
    ids = [tokenizer(text, return_tensors="pt").input_ids for text in TEXTS]
    image = unit(model.see(colours(32, mean, std)))[0]
    texts = unit(torch.stack([model.read(one, one.shape[1] - 1)[0] for one in ids]))
    answer = {"image": image.tolist(), "text": texts[TEXTS.index(SENTENCE)].tolist()}
    (tmp_path / "answer.json").write_text(json.dumps(answer))
    bundle, said = imported(
        folder / "best.pt", "chexzero", tmp_path / "bundle",
        tokenizer=folder / "words", answer=tmp_path / "answer.json",
    )  # fmt: skip
    check(bundle, 32, image, texts)
    assert said.cosines == pytest.approx({"image": 1, "text": 1}, abs=1e-5)
    assert bundle.preprocess.config.resize == "letterbox"
    told = bundle.info.provenance["imported"]["known_answer"]
    np.testing.assert_allclose(told["image"], image, atol=1e-5)


def test_another_answer_of_the_original_is_refused(chexzero, tmp_path):
    folder, _ = chexzero
    path = tmp_path / "answer.json"
    for given, message in (
        ({"image": [1.0] * 20}, "cosine .* with the original's embedding of the known image"),
        ({"text": [1.0] * 3}, "lists of 20 numbers"),
        ({}, "neither image nor text"),
    ):
        path.write_text(json.dumps(given))
        with pytest.raises((ConfigError, InputError), match=message):
            import_source(
                folder / "best.pt", "chexzero", tmp_path / "bundle",
                tokenizer=folder / "words", answer=path,
            )  # fmt: skip
    assert not (tmp_path / "bundle").exists()


def test_the_command_says_contract_and_next_steps(chexzero, tmp_path, capsys):
    folder, _ = chexzero
    asked = [
        "import", str(folder / "best.pt"), "--as", "chexzero", "--out", str(tmp_path / "bundle"),
        "--tokenizer", str(folder / "words"), "--set", "preprocess.resize=squash",
    ]  # fmt: skip
    assert run_guarded(lambda: app(asked, standalone_mode=False)) == 0
    said = capsys.readouterr().out
    assert "size 32, percentiles [0.0, 100.0], resize squash" in said.replace("\n", " ")
    assert "Licence:" in said
    assert "Next: medvlp zeroshot" in said
    bundle = medvlp.load(tmp_path / "bundle")
    from_file = bundle.embed_image(picture_file(tmp_path, 32))
    np.testing.assert_allclose(from_file, bundle.embed_image(known_picture(32)), atol=1e-6)


def test_every_tensor_must_have_its_place(clip, tmp_path):
    folder, _ = clip
    weights = load_file(folder / "model.safetensors")
    file = tmp_path / "model.safetensors"
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    bias = "vision_model.post_layernorm.bias"
    for changed, message in (
        ({bias: None}, r"1 of the model's \d+ weights are not in the file, first image\."),
        ({"surprise": torch.zeros(2)}, r"1 of \d+ tensors are none of this kind .* surprise"),
        ({"vision_model.surprise": torch.zeros(2)}, "vision_model.surprise has no place"),
        ({bias: torch.zeros(3)}, r"bias has shape \(3,\), the model needs \(16,\)"),
        ({bias: torch.full((16,), math.nan)}, "no numbers"),
        ({"text_model.encoder.layers.2.layer_norm1.bias": torch.zeros(16)}, "no place"),
    ):
        altered = {k: v for k, v in (weights | changed).items() if v is not None}
        save_file(altered, file)
        with pytest.raises(ConfigError, match=message) as caught:
            import_source(tmp_path, "clip", tmp_path / "bundle")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["preprocess.size=twelve"], "preprocess"),
        (["image.kind=resnet"], "no model of this kind"),
        (["other.size=3"], "no setting other"),
        (["text.max_tokens=78"], "77 positions"),
        (["image.architecture.hidden_size=1000000"], "far larger model|no model"),
    ],
)
def test_settings_are_checked(clip, tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        import_source(clip[0], "clip", tmp_path / "bundle", settings=settings)


def test_wrong_kinds_and_tokenizers_are_refused(clip, chexzero, tmp_path):
    folder, _ = clip
    for source, kind, options, message in (
        (folder, "other", {}, "kind 'other' is not known"),
        (folder, "siglip", {}, "model_type siglip"),
        (folder, "open-clip", {}, "open_clip_config.json has no model_cfg"),
        (tmp_path / "none", "clip", {}, "no such file or folder"),
        (tmp_path, "clip", {}, "no config.json"),
        (folder, "chexzero", {}, "no tensor visual.conv1.weight"),
        (folder, "clip", {"tokenizer": bert_words(tmp_path / "bert")}, "the weights know 34"),
        (chexzero[0] / "best.pt", "chexzero", {}, "no readable tokenizer"),
    ):
        with pytest.raises((ConfigError, InputError), match=message):
            import_source(source, kind, tmp_path / "bundle", **options)


def test_evaluation_and_training_take_an_imported_bundle(clip, experiment_file, tmp_path):
    bundle, _ = imported(clip[0], "clip", tmp_path / "run" / "bundle")
    values = yaml.safe_load(experiment_file.read_text())
    info = bundle.info
    values |= {"init": str(tmp_path / "run" / "bundle"), "preprocess": info.preprocess,
               "image": info.image, "text": info.text, "model": {"embed": 12},
               "optim": {"lr": 1e-9, "warmup_steps": 0}}  # fmt: skip
    values["trainer"] |= {"steps": 1, "valid_every": 1, "save_every": 1}
    experiment_file.write_text(yaml.safe_dump(values))
    train_run(experiment_file, [], tmp_path / "tuned")
    tuned = medvlp.load(tmp_path / "tuned" / "bundle")
    picture = known_picture(32)
    np.testing.assert_allclose(tuned.embed_image(picture), bundle.embed_image(picture), atol=1e-5)
    protocol = {
        "name": "trial", "version": 1, "domain": "cxr", "bootstrap": {"draws": 5},
        "task": {"kind": "zero-shot", "prompts": values["prompts"]},
        "data": {"manifests": values["data"]["manifests"], "split": "valid"},
    }  # fmt: skip
    (tmp_path / "trial.yaml").write_text(yaml.safe_dump(protocol))
    evaluate_protocol(tmp_path / "trial.yaml", [tmp_path / "run" / "bundle"], tmp_path / "out", [])
    study = json.loads((tmp_path / "out" / "trial" / "study.json").read_text())
    assert "neither its manifests nor a footprint" in json.dumps(study)
