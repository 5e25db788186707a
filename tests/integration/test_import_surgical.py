"""Import of surgical models: random weights in the published layouts, restated here."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from published import (
    PIECES,
    TEXTS,
    ResNet,
    bert_inputs,
    bert_words,
    imported,
    small_bert,
    stirred,
    unit,
)
from published_clips import SpaceTime
from torch import nn

from medvlp.data.prompts import Prompts, PromptSet
from medvlp.errors import ConfigError
from medvlp.models.imports.kinds import kind_of
from medvlp.models.imports.run import import_source
from medvlp_video.imports.known import known_clip

IMAGENET = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
SMALL = ["preprocess.size=64", "preprocess.resize_to=[80, 96]"]


def camma():
    torch.manual_seed(0)
    model = nn.Module()
    model.backbone_img = nn.ModuleDict(
        {"model": ResNet(classes=0), "global_embedder": nn.Linear(128, 128)}
    )
    model.backbone_text = nn.ModuleDict({"model": small_bert(num_hidden_layers=5)})
    return stirred(model)


def word_sums(tokens_TD, pieces):
    """A row a word: the sum of its pieces; special tokens are words."""
    rows = []
    for token, piece in zip(tokens_TD, pieces, strict=True):
        if piece.startswith("##"):
            rows[-1] = rows[-1] + token
        else:
            rows.append(token)
    return torch.stack(rows)


def camma_texts(model, folder, length=77):
    """Words padded with zeros to a fixed length, averaged, and the last four layers added up."""
    pieces = (folder / "vocab.txt").read_text().split("\n")
    rows = []
    for one in bert_inputs(TEXTS, folder):
        hidden = model.backbone_text["model"](**one, output_hidden_states=True).hidden_states
        names = [pieces[i] for i in one["input_ids"][0]]
        words_LWD = torch.stack([word_sums(layer[0], names) for layer in hidden[-4:]])
        padded_LTD = F.pad(words_LWD, (0, 0, 0, length - words_LWD.shape[1]))
        rows.append(padded_LTD.mean(1).sum(0))
    return torch.stack(rows)


def camma_image(model, frames_FHWC):
    """The mean over frames of each frame's embedding."""
    frames_FCHW = torch.from_numpy(frames_FHWC).permute(0, 3, 1, 2) / 255
    mean, std = IMAGENET
    maps = model.backbone_img["model"]((frames_FCHW - mean) / std)
    return model.backbone_img["global_embedder"](maps[-1].mean((2, 3))).mean(0)


def test_peskavlp(tmp_path):
    words = bert_words(tmp_path / "words")
    model = camma()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    bundle, said = imported(
        tmp_path / "weights.pth", "peskavlp", tmp_path / "bundle", tokenizer=words,
        settings=[*SMALL, "preprocess.frames=2"],
    )  # fmt: skip
    clip = known_clip(2, 80, 96)
    image, texts = camma_image(model, clip[:, 8:72, 16:80]), camma_texts(model, words)
    np.testing.assert_allclose(bundle.embed_image(clip)[0], unit(image), atol=1e-5)
    np.testing.assert_allclose(bundle.embed_text(TEXTS), unit(texts), atol=1e-5)
    for text, row in zip(TEXTS, unit(texts), strict=True):
        np.testing.assert_allclose(bundle.embed_text(text)[0], row, atol=1e-5)
    assert bundle.model.scale.item() == pytest.approx(10.0)
    assert bundle.heatmap(clip, "edema").grid.shape == (2, 2, 2)
    assert "CC BY-NC-SA" in str(said)
    assert "21.8 %" in str(said)
    # Capitals are lost, as the usual loader of Bio_ClinicalBERT loses them.
    (words / "vocab.txt").write_text("\n".join([*PIECES[:-1], "No"]))
    cased, _ = imported(
        tmp_path / "weights.pth", "peskavlp", tmp_path / "cased", tokenizer=words, settings=SMALL
    )
    lowered = cased.tokenizer("No edema")["input_ids"]
    assert lowered == cased.tokenizer("no edema")["input_ids"]
    assert lowered == bundle.tokenizer("no edema")["input_ids"]
    # The other two are the same network.
    for kind in ("surgvlp", "hecvl"):
        assert kind_of(kind).read is kind_of("peskavlp").read


def test_surgvlps_contract_is_that_of_its_evaluation(tmp_path):
    words = bert_words(tmp_path / "words")
    torch.save({"module." + k: v for k, v in camma().state_dict().items()}, tmp_path / "w.pth")
    bundle, _ = imported(tmp_path / "w.pth", "surgvlp", tmp_path / "bundle", tokenizer=words)
    contract = bundle.preprocess.config
    assert (contract.frames, contract.size, contract.resize_to) == (1, 224, (360, 640))
    assert bundle.model.text.max_tokens == 64  # of 77, as many as this one has places for
    # The square at the middle, 224 of 360 rows and of 640 columns: 21.8 % of the area.
    frame = np.zeros((1, 720, 1280, 3), np.uint8)
    frame[:, 136:584, 416:864] = 200
    (stored,) = bundle.preprocess.from_array(frame)
    assert stored[2:-2, 2:-2].min() == 200
    outside = bundle.preprocess.from_array(np.where(frame, 0, 200).astype(np.uint8))
    assert outside[:, 2:-2, 2:-2].max() == 0


def surgclip():
    torch.manual_seed(0)
    bert = small_bert()
    bert.pooler = None
    model = nn.Module()
    model.vision_encoder = nn.ModuleDict({"model": SpaceTime()})
    model.vision_layernorm = nn.LayerNorm(128, 1e-12)
    model.text_encoder = bert
    model.vision_proj, model.text_proj = nn.Linear(128, 16), nn.Linear(128, 16)
    stirred(model)
    model.temp = nn.Parameter(torch.tensor(0.004))
    return model


def test_surgclip(tmp_path):
    folder = bert_words(tmp_path / "weights")
    model = surgclip()
    torch.save(model.state_dict(), folder / "surgclip_beta.pth")
    bundle, said = imported(folder, "surgclip", tmp_path / "bundle")
    clip = known_clip(3, 32, 32)
    frames = torch.from_numpy(clip).permute(0, 3, 1, 2) / 127.5 - 1
    parts = F.normalize(model.vision_proj(model.vision_encoder["model"].parts(frames)), dim=-1)
    hidden = [
        model.text_encoder(**one).last_hidden_state[0, 0] for one in bert_inputs(TEXTS, folder)
    ]
    texts = F.normalize(model.text_proj(torch.stack(hidden)), dim=-1)
    np.testing.assert_allclose(bundle.embed_text(TEXTS), texts.detach(), atol=1e-5)
    # Similarities are means of cosines: the vector is their mean and shorter than 1.
    image = bundle.embed_image(clip)[0]
    np.testing.assert_allclose(image, parts.mean(0).detach(), atol=1e-5)
    assert np.linalg.norm(image) < 0.999
    published = (parts @ texts.T).mean(0) / model.temp
    prompts = PromptSet(
        mode="exclusive", labels={name: Prompts(positive=(name,)) for name in TEXTS}
    )
    np.testing.assert_allclose(
        bundle.zero_shot(clip, prompts).probability_NL[0], published.softmax(0).detach(), atol=1e-4
    )
    # One picture, as the original takes it, has no times.
    (one,) = model.vision_encoder["model"].parts(frames[1:2])
    tower = bundle.model.image(frames[None, 1:2])
    np.testing.assert_allclose(tower.pooled_BD[0].detach(), one.detach(), atol=1e-5)
    assert bundle.heatmap(clip, "edema").grid.shape == (3, 2, 2)
    assert "CC BY-NC-SA" in str(said)
    assert "as_surgclip" in str(said)


def test_the_learned_first_token_of_surgclip_is_lost(tmp_path):
    folder = bert_words(tmp_path / "weights")
    model = surgclip()
    torch.save(model.state_dict(), folder / "surgclip_beta.pth")
    first, _ = imported(folder, "surgclip", tmp_path / "first")
    with torch.no_grad():
        model.vision_encoder["model"].cls_token.add_(3)
    torch.save(model.state_dict(), folder / "surgclip_beta.pth")
    other, _ = imported(folder, "surgclip", tmp_path / "other")
    clip = known_clip(3, 32, 32)
    np.testing.assert_array_equal(first.embed_image(clip), other.embed_image(clip))


@pytest.mark.parametrize(
    ("kind", "make", "gone", "new", "said"),
    [
        ("surgvlp", camma, "backbone_img.global_embedder.bias", None, "first image_projection"),
        ("hecvl", camma, None, "backbone_img.model.fc2.weight", "none of this kind .*fc2"),
        ("peskavlp", camma, "backbone_img.model.conv1.weight", None, "no tensor .*conv1"),
        ("surgvlp", surgclip, None, None, "no tensor backbone_img"),
        ("surgclip", camma, None, None, "no tensor vision_encoder"),
        ("surgclip", surgclip, "temp", None, "no temperature"),
        ("surgclip", surgclip, "vision_encoder.model.blocks.1.temporal_fc.bias", None, "time_out"),
        ("surgclip", surgclip, None, "itm_head.weight", "none of this kind .*itm_head"),
    ],
)  # fmt: skip
def test_every_tensor_has_its_place(tmp_path, kind, make, gone, new, said):
    words = bert_words(tmp_path / "words")
    state = make().state_dict()
    if gone:
        del state[gone]
    if new:
        state[new] = torch.zeros(2, 2)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match=said) as error:
        import_source(tmp_path / "weights.pth", kind, tmp_path / "bundle", tokenizer=words)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "bundle").exists()


def test_a_wrong_shape_and_a_missing_tokenizer_are_named(tmp_path):
    words = bert_words(tmp_path / "words")
    model = camma()
    state = model.state_dict()
    state["backbone_img.global_embedder.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match=r"has shape \(3,\), the model needs \(128,\)"):
        import_source(tmp_path / "weights.pth", "hecvl", tmp_path / "b", tokenizer=words)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(Exception, match=r"no readable tokenizer.json or vocab.txt"):
        import_source(tmp_path / "weights.pth", "hecvl", tmp_path / "b")
