"""Import of models for chest X-rays: random weights in the published layouts, restated here."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from published import (
    TEXTS,
    ResNet,
    TimmVit,
    bert_inputs,
    bert_words,
    check,
    grey,
    imported,
    known_picture,
    small_bert,
    stirred,
    unit,
)
from torch import nn
from transformers import SwinConfig, SwinModel

from medvlp.errors import ConfigError
from medvlp.models.imports.run import import_source

SIZE = 64


def rgb(mean=0.0, std=1.0):
    return ((grey(SIZE) - mean) / std).expand(1, 3, SIZE, SIZE)


def enlarged(image):
    return F.interpolate(image, (299, 299), mode="bilinear", align_corners=True)


def pooled(level):
    return level.mean((2, 3))


def biovil_models():
    torch.manual_seed(0)
    image = nn.Module()
    image.encoder = nn.ModuleDict({"encoder": ResNet()})
    image.projector = nn.ModuleDict(
        {
            "model": nn.Sequential(
                nn.Conv2d(128, 24, 1, bias=False),
                nn.BatchNorm2d(24),
                nn.ReLU(),
                nn.Conv2d(24, 24, 1),
            )
        }
    )
    text = nn.Module()
    text.bert = small_bert()
    text.cls_projection_head = nn.ModuleDict(
        {
            "dense_to_hidden": nn.Linear(128, 24),
            "LayerNorm": nn.LayerNorm(24, eps=1e-12),
            "dense_to_output": nn.Linear(24, 24),
        }
    )
    text.cls = nn.ModuleDict({"predictions": nn.Linear(128, 7)})
    return stirred(image), stirred(text)


def test_biovil(tmp_path):
    folder = bert_words(tmp_path / "weights")
    image, text = biovil_models()
    torch.save(image.state_dict(), folder / "biovil_image_resnet50_proj_size_128.pt")
    torch.save(text.state_dict(), folder / "pytorch_model.bin")
    (folder / "config.json").write_text('{"model_type": "cxr-bert"}')
    bundle, said = imported(
        folder, "biovil", tmp_path / "bundle",
        settings=["preprocess.size=64", "preprocess.resize_to=64"],
    )  # fmt: skip
    patches = image.projector["model"](image.encoder["encoder"](rgb())[-1])
    head = text.cls_projection_head
    texts = []
    for one in bert_inputs(TEXTS, folder):
        first = text.bert(**one).last_hidden_state[:, 0]
        inner = head["LayerNorm"](F.gelu(head["dense_to_hidden"](first)))
        texts.append(head["dense_to_output"](inner)[0])
    check(bundle, SIZE, unit(pooled(patches))[0], unit(torch.stack(texts)))
    assert "temperature" in str(said)
    grid = bundle.heatmap(known_picture(SIZE), TEXTS[0]).grid
    expected = np.einsum("ehw,e->hw", unit(patches[0].movedim(0, 2)).transpose(2, 0, 1),
                         unit(texts[0]))  # fmt: skip
    np.testing.assert_allclose(grid, expected, atol=1e-5)


def test_gloria(tmp_path):
    words = bert_words(tmp_path / "words")
    torch.manual_seed(0)
    model = nn.Module()
    model.img_encoder = nn.ModuleDict(
        {
            "model": ResNet(classes=0),
            "global_embedder": nn.Linear(128, 128),
            "local_embedder": nn.Conv2d(64, 128, 1, bias=False),
        }
    )
    model.text_encoder = nn.ModuleDict({"model": small_bert(num_hidden_layers=4)})
    stirred(model)
    state = {f"gloria.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "gloria.ckpt")
    bundle, _ = imported(
        tmp_path / "gloria.ckpt", "gloria", tmp_path / "bundle", tokenizer=words,
        settings=["preprocess.size=64", "preprocess.resize_to=64"],
    )  # fmt: skip
    maps = model.img_encoder["model"](enlarged(rgb(0.5, 0.5)))
    image = model.img_encoder["global_embedder"](pooled(maps[-1]))
    texts = []
    for one in bert_inputs(TEXTS, words):
        hidden = model.text_encoder["model"](**one, output_hidden_states=True).hidden_states
        # Mean over a fixed length of the words, each the sum of its pieces; then sum over layers.
        words_LTD = F.pad(torch.stack(hidden[-4:])[:, 0], (0, 0, 0, 97 - hidden[0].shape[1]))
        texts.append(words_LTD.mean(1).sum(0))
    check(bundle, SIZE, unit(image)[0], unit(torch.stack(texts)))
    local = model.img_encoder["local_embedder"](maps[2])[0]
    grid = bundle.heatmap(known_picture(SIZE), TEXTS[1]).grid
    assert grid.shape == (19, 19)
    cosines = F.cosine_similarity(local, texts[1][:, None, None], dim=0)
    np.testing.assert_allclose(grid, cosines.detach().numpy(), atol=1e-5)


def mgca_head(entering, kind):
    layer, shape = (nn.Linear, ()) if kind == "global" else (nn.Conv1d, (1,))
    head = nn.Sequential(
        layer(entering, 40, *shape),
        nn.BatchNorm1d(40),
        nn.ReLU(),
        layer(40, 16, *shape),
        nn.BatchNorm1d(16, affine=False),
    )
    return nn.ModuleDict({"head": head})


@pytest.mark.parametrize("tower", ["resnet", "vit"])
def test_mgca(tmp_path, tower):
    words = bert_words(tmp_path / "words")
    torch.manual_seed(0)
    own = ResNet(classes=0) if tower == "resnet" else TimmVit(size=SIZE, patch=16)
    model = nn.Module()
    model.img_encoder_q = nn.ModuleDict(
        {
            "model": own,
            "global_embed": mgca_head(128, "global"),
            "local_embed": mgca_head(64 if tower == "resnet" else 128, "local"),
        }
    )
    model.text_encoder_q = nn.ModuleDict(
        {
            "model": small_bert(),
            "global_embed": mgca_head(128, "global"),
            "local_embed": mgca_head(128, "local"),
        }
    )
    model.prototype_layer = nn.Linear(16, 50, bias=False)
    model.word_local_atten_layer = nn.MultiheadAttention(16, 1)
    stirred(model)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "mgca.ckpt")
    bundle, _ = imported(
        tmp_path / "mgca.ckpt", "mgca", tmp_path / "bundle", tokenizer=words,
        settings=["preprocess.size=64", "preprocess.resize_to=64"],
    )  # fmt: skip
    side, heads = rgb(0.5, 0.5), model.img_encoder_q
    if tower == "resnet":
        maps = own(enlarged(side))
        first, local = pooled(maps[-1]), maps[2].flatten(2)
    else:
        tokens = own(side)
        first, local = tokens[:, 0], tokens[:, 1:].transpose(1, 2)
    texts = [
        model.text_encoder_q["global_embed"]["head"](
            model.text_encoder_q["model"](**one).last_hidden_state[:, 0]
        )[0]
        for one in bert_inputs(TEXTS, words)
    ]
    image = heads["global_embed"]["head"](first)
    check(bundle, SIZE, unit(image)[0], unit(torch.stack(texts)))
    patches = heads["local_embed"]["head"](local)[0]
    cosines = F.cosine_similarity(patches, texts[0][:, None], dim=0)
    grid = bundle.heatmap(known_picture(SIZE), TEXTS[0]).grid
    np.testing.assert_allclose(grid.ravel(), cosines.detach().numpy(), atol=1e-5)
    word = bundle.project_texts([TEXTS[0]])[0].words_TE
    states = model.text_encoder_q["model"](**bert_inputs([TEXTS[0]], words)[0]).last_hidden_state
    local = model.text_encoder_q["local_embed"]["head"](states.transpose(1, 2))[0].T[1:-1]
    np.testing.assert_allclose(word, local.detach().numpy(), atol=1e-4)


def small_swin():
    config = SwinConfig(
        image_size=SIZE, embed_dim=16, depths=[1, 2], num_heads=[2, 4], window_size=4
    )
    torch.manual_seed(0)
    return stirred(SwinModel(config))


def as_published(model, prefix):
    """A Swin's state in the names of the versions that the published files were written by."""
    names = {"q_proj": "self.query", "k_proj": "self.key", "v_proj": "self.value",
             "o_proj": "output.dense", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
             "relative_position_bias.relative": "self.relative"}  # fmt: skip
    state = {}
    for name, value in model.state_dict().items():
        for new, old in names.items():
            name = name.replace(new, old)
        state[prefix + name] = value
        if name.endswith("table"):
            state[prefix + name.replace("bias_table", "index")] = torch.zeros(16, 16).long()
    return state


@pytest.mark.parametrize("tower", ["swin", "resnet"])
def test_medclip(tmp_path, tower):
    words = bert_words(tmp_path / "words")
    bert = small_bert()
    text_head = nn.Linear(128, 20, bias=False)
    if tower == "swin":
        own, head = small_swin(), nn.Linear(32, 20, bias=False)
        state = as_published(own, "vision_model.model.")
        state["vision_model.projection_head.weight"] = head.weight
    else:
        own = stirred(ResNet(classes=20))
        head = own.fc = nn.Linear(128, 20, bias=False)
        state = {f"vision_model.model.{name}": v for name, v in own.state_dict().items()}
    state |= {f"text_model.model.{name}": v for name, v in bert.state_dict().items()}
    state["text_model.projection_head.weight"] = text_head.weight
    state["logit_scale"] = torch.tensor(3.0)
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.save(state, folder / "pytorch_model.bin")
    bundle, said = imported(
        folder, "medclip", tmp_path / "bundle", tokenizer=words, settings=["preprocess.size=64"]
    )
    shown = rgb(0.5862785803043838, 0.27950088968644304)
    first = own(shown).pooler_output if tower == "swin" else pooled(own(shown)[-1])
    texts = []
    for one in bert_inputs(TEXTS, words):
        hidden = bert(**one, output_hidden_states=True).hidden_states
        texts.append(text_head(torch.stack([hidden[1], hidden[2], hidden[-1]]).mean((0, 2)))[0])
    check(bundle, SIZE, unit(head(first))[0], unit(torch.stack(texts)))
    assert bundle.scale == pytest.approx(np.exp(3), rel=1e-4)
    assert "padding" in str(said)


@pytest.mark.parametrize("tower", ["swin", "resnet"])
def test_cxr_clip(tmp_path, tower):
    words = bert_words(tmp_path / "words")
    bert = small_bert()
    bert.pooler = None
    bias = tower == "swin"
    if tower == "swin":
        own, head = small_swin(), nn.Linear(32, 20, bias=bias)
        state = as_published(own, "image_encoder.image_encoder.")
        first = own(rgb(0.5, 0.5)).last_hidden_state[:, 0]
    else:
        own, head = stirred(ResNet(classes=0)), nn.Linear(128, 20, bias=bias)
        state = {f"image_encoder.resnet.{name}": v for name, v in own.state_dict().items()}
        first = pooled(own(rgb(0.5, 0.5))[-1])
    text_head = nn.Linear(128, 20, bias=bias)
    for side, layer in (("image", head), ("text", text_head)):
        state |= {f"{side}_projection.projection.{k}": v for k, v in layer.state_dict().items()}
    state |= {f"text_encoder.text_encoder.{name}": v for name, v in bert.state_dict().items()}
    state["logit_scale"] = torch.tensor(3.0)
    torch.save({"model": state, "config": {"model": {"name": "clip_custom"}}}, tmp_path / "m.tar")
    bundle, _ = imported(
        tmp_path / "m.tar", "cxr-clip", tmp_path / "bundle", tokenizer=words,
        settings=["preprocess.size=64"],
    )  # fmt: skip
    texts = []
    for one in bert_inputs(TEXTS, words):
        last = bert(**one).last_hidden_state[:, one.attention_mask.sum() - 1]
        texts.append(text_head(last)[0])
    check(bundle, SIZE, unit(head(first))[0], unit(torch.stack(texts)))


def test_medklip_gives_its_image_tower_and_refuses_texts(tmp_path):
    torch.manual_seed(0)
    whole = ResNet(classes=0)
    parts = [whole.conv1, whole.bn1, nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    model = nn.Module()
    model.res_features = nn.Sequential(*parts, whole.layer1, whole.layer2, whole.layer3)
    model.res_l1, model.res_l2 = nn.Linear(64, 64), nn.Linear(64, 24)
    model.disease_embedding_layer, model.classifier = nn.Linear(768, 24), nn.Linear(24, 2)
    model.decoder = nn.ModuleDict({"norm": nn.LayerNorm(24)})
    stirred(model)
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"model": state, "epoch": 1}, tmp_path / "checkpoint_final.pth")
    bundle, said = imported(
        tmp_path / "checkpoint_final.pth", "medklip", tmp_path / "bundle",
        settings=["preprocess.size=64"],
    )  # fmt: skip
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    level = model.res_features((grey(SIZE) - mean) / std).flatten(2).transpose(1, 2)
    patches = model.res_l2(F.relu(model.res_l1(level)))
    found = bundle.embed_image(known_picture(SIZE))
    np.testing.assert_allclose(found, unit(patches.mean(1)), atol=1e-5)
    stored = [bundle.preprocess.from_array(known_picture(SIZE))]
    assert bundle.features_stored(stored).shape == (1, 64)
    with pytest.raises(ConfigError, match="reads no text"):
        bundle.embed_text("Edema")
    assert "zeroshot" not in str(said)
    assert "query decoder is left out" in str(said)


def test_layers_that_are_not_there_are_named(tmp_path):
    words = bert_words(tmp_path / "words")
    state = {f"image_encoder.resnet.{k}": v for k, v in ResNet(classes=0).state_dict().items()}
    short = {k: v for k, v in state.items() if ".layer2." not in k}
    torch.save({"model": short}, tmp_path / "m.pt")
    with pytest.raises(ConfigError, match="not numbered from 1 on") as caught:
        import_source(tmp_path / "m.pt", "cxr-clip", tmp_path / "bundle", tokenizer=words)
    assert "\n" not in str(caught.value)
    torch.save({"model": state}, tmp_path / "m.pt")
    with pytest.raises(ConfigError, match="no tensor image_projection"):
        import_source(tmp_path / "m.pt", "cxr-clip", tmp_path / "bundle", tokenizer=words)
