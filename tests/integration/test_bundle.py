"""A bundle's round trip, its refusals, and what the loaded model does."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

import medvlp
from medvlp.cxr.preprocess import CxrPreprocessConfig
from medvlp.data.preprocess import model_input
from medvlp.data.prompts import prompts_from_labels
from medvlp.data.relations import Names
from medvlp.data.tokenizer import train_tokenizer
from medvlp.digest import digest_file, digest_plain
from medvlp.errors import BundleError, InputError
from medvlp.losses.objectives import ClipConfig, LabelsConfig
from medvlp.models.bundle import Bundle, save_bundle
from medvlp.models.image2d import ResNet2dConfig
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp.models.zero_shot import Calibration
from medvlp_video.encoders import FrameEncoderConfig
from medvlp_video.preprocess import ClipPreprocessConfig
from medvlp_volumetric.encoders.vit3d import Vit3dConfig
from medvlp_volumetric.preprocess import CtPreprocessConfig

IMAGE = ResNet2dConfig(depths=(1, 1), widths=(8, 16), stem=8, norm="group")
TEXT = TextTowerConfig(width=16, depth=1, heads=2, max_tokens=16)
CONTRACT = CxrPreprocessConfig(size=32)
PROMPTS = prompts_from_labels(["edema", "cardiomegaly"])
SENTENCES = ["No edema is seen.", "Cardiomegaly.", "Mild edema and cardiomegaly."] * 3


def build_model(image=IMAGE, channels=1, text=TEXT, seed=0):
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(SENTENCES, 300)
    towers = image.build(channels), text.build(len(tokenizer), tokenizer.pad_token_id)
    return TwoTower(TwoTowerConfig(embed=8), *towers), tokenizer


def write_bundle(folder, seed=0, text=TEXT, **parts):
    model, tokenizer = build_model(text=text, seed=seed)
    sizes = model.sizes(Names(labels=("edema", "cardiomegaly")))
    objectives = {
        "clip": (ClipConfig(), ClipConfig().build(sizes)),
        "labels": (LabelsConfig(), LabelsConfig().build(sizes)),
    }
    options = {
        "model": model,
        "domain": "cxr",
        "preprocess": CONTRACT,
        "image": IMAGE,
        "text": text,
        "tokenizer": tokenizer,
        "objectives": objectives,
        "names": Names(labels=("edema", "cardiomegaly")),
        "prompts": PROMPTS,
        "provenance": {"seed": seed},
    }
    digest = save_bundle(folder, **(options | parts))
    return model.eval(), tokenizer, objectives, digest


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "bundle"
    model, tokenizer, objectives, digest = write_bundle(folder)
    return folder, model, tokenizer, objectives, digest


@pytest.fixture
def copied(made, tmp_path):
    return shutil.copytree(made[0], tmp_path / "bundle")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    paths = []
    for i in range(5):
        path = folder / f"{i}.png"
        Image.fromarray(rng.integers(0, 255, (40, 36), dtype=np.uint8)).save(path)
        paths.append(path)
    return paths


def arrays(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.random((48, 40)).astype(np.float32) for _ in range(count)]


def rewrite(folder, change):
    path = folder / "bundle.json"
    values = json.loads(path.read_text())
    del values["digest"]
    change(values)
    path.write_text(json.dumps(values | {"digest": digest_plain(values)}))


def test_round_trip_is_exact(made):
    folder, model, tokenizer, objectives, digest = made
    bundle = medvlp.load(folder)
    assert isinstance(bundle, Bundle)
    assert bundle.digest == digest
    stored = [bundle.preprocess.from_array(a) for a in arrays(3)]
    image = model_input(bundle.preprocess, stored)
    with torch.inference_mode():
        features, expected, _ = model.encode_image(image)
        labels = objectives["labels"][1].scores(features).sigmoid()
        ids = tokenizer("Mild edema.", return_tensors="pt")
        text, _ = model.encode_text(ids.input_ids, ids.attention_mask.bool())
    np.testing.assert_array_equal(bundle.embed_image(arrays(3)), expected.numpy())
    np.testing.assert_array_equal(bundle.label_scores(arrays(3)), labels.numpy())
    np.testing.assert_array_equal(bundle.embed_text("Mild edema."), text.numpy())
    assert bundle.prompts == PROMPTS
    assert bundle.info.provenance == {"seed": 0}
    assert bundle.scale == pytest.approx(1 / 0.07, rel=1e-5)


def test_folder_holds_no_pickle_and_nothing_unlisted(made):
    names = {path.name for path in made[0].iterdir()}
    assert {"bundle.json", "model.safetensors", "tokenizer.json"} <= names
    listed = json.loads((made[0] / "bundle.json").read_text())["files"]
    assert set(listed) == names - {"bundle.json"}
    assert [path for path in made[0].parent.iterdir() if path != made[0]] == []


def test_loading_leaves_the_random_state_alone(made):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    medvlp.load(made[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_saving_replaces_a_bundle_and_nothing_else(tmp_path):
    folder = tmp_path / "bundle"
    *_, first = write_bundle(folder)
    *_, second = write_bundle(folder, seed=1)
    assert medvlp.load(folder).digest == second != first
    assert list(tmp_path.iterdir()) == [folder]
    (tmp_path / "other").mkdir()
    with pytest.raises(BundleError, match="no bundle"):
        write_bundle(tmp_path / "other")


def test_a_failed_save_leaves_what_was_there(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    *_, digest = write_bundle(tmp_path / "bundle")
    monkeypatch.setattr("medvlp.models.bundle_file.save_file", full)
    for name in ("bundle", "new"):
        with pytest.raises(OSError, match="No space"):
            write_bundle(tmp_path / name, seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert medvlp.load(tmp_path / "bundle").digest == digest


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_a_missing_or_changed_file_is_refused(copied, name):
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} was changed"):
        medvlp.load(copied)
    (copied / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        medvlp.load(copied)


def test_a_changed_index_is_refused(copied):
    path = copied / "bundle.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(BundleError, match=r"bundle\.json was changed"):
        medvlp.load(copied)
    path.write_text("{")
    with pytest.raises(BundleError, match="no readable"):
        medvlp.load(copied)
    path.unlink()
    with pytest.raises(BundleError, match="no readable"):
        medvlp.load(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(format=2), "format 2"),
        (lambda v: v.update(contract="0" * 64), "another preprocessing contract"),
        (lambda v: v["preprocess"].update(size=48), "another preprocessing contract"),
        (lambda v: v.update(domain="dental"), "'dental' is not installed"),
        (lambda v: v["image"].update(kind="other"), "kind 'other' is not known"),
        (lambda v: v["image"].update(surprise=1), "surprise"),
        (lambda v: v["image"].update(stem=16), "do not fit the architecture"),
        (lambda v: v["objectives"]["labels"].update(kind="other"), "kind 'other' is not known"),
        (lambda v: v.update(vocab_size=v["vocab_size"] + 1), "the model expects"),
        (lambda v: v.update(files=v["files"] | {"../x": "0"}), "missing"),
    ],
)
def test_a_bundle_that_does_not_fit_is_refused(copied, change, message):
    rewrite(copied, change)
    with pytest.raises(BundleError, match=message) as caught:
        medvlp.load(copied)
    assert caught.value.remedy


def test_weights_that_do_not_fit_are_refused(copied):
    weights = load_file(copied / "model.safetensors")
    weights.pop("model.log_scale")
    save_file(weights, copied / "model.safetensors")
    sha = digest_file(copied / "model.safetensors")
    rewrite(copied, lambda values: values["files"].update({"model.safetensors": sha}))
    with pytest.raises(BundleError, match="log_scale"):
        medvlp.load(copied)


def test_one_by_one_equals_batched(made, pictures):
    bundle = medvlp.load(made[0])
    together = bundle.embed_image(pictures)
    assert together.shape == (5, 8)
    assert together.dtype == np.float32
    alone = np.concatenate([bundle.embed_image(path) for path in pictures])
    np.testing.assert_allclose(alone, together, atol=1e-5)
    np.testing.assert_allclose(bundle.embed_image(pictures, batch_size=2), together, atol=1e-5)
    np.testing.assert_allclose(bundle.embed_image(pictures[0].parent), together, atol=1e-5)
    np.testing.assert_allclose(
        bundle.embed_image([(path,) for path in pictures]), together, atol=1e-5
    )
    stored = [bundle.preprocess.read((path,)) for path in pictures]
    np.testing.assert_allclose(bundle.embed_stored(stored), together, atol=1e-5)
    texts = ["Edema.", "No cardiomegaly is seen today.", "Edema and cardiomegaly."]
    apart = np.concatenate([bundle.embed_text(text) for text in texts])
    np.testing.assert_allclose(bundle.embed_text(texts), apart, atol=1e-5)


def test_a_stream_goes_on_past_bad_files(made, pictures, tmp_path):
    bundle = medvlp.load(made[0])
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    inputs = [*pictures[:2], bad, *pictures[2:], bad]
    results = list(bundle.iter_embed(iter(inputs), batch_size=3))
    assert [r.source.position for r in results] == list(range(7))
    assert [r.code for r in results] == [None, None, "not_a_picture", *[None] * 3, "not_a_picture"]
    good = np.stack([r.embedding_E for r in results if r.embedding_E is not None])
    np.testing.assert_allclose(good, bundle.embed_image(pictures), atol=1e-5)
    with pytest.raises(InputError, match=r"input 3 cannot be read: not_a_picture") as caught:
        bundle.embed_image(inputs)
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(InputError, match="no such input"):
        bundle.iter_embed([tmp_path / "none"])
    with pytest.raises(InputError, match="no input"):
        bundle.embed_image([])
    with pytest.raises(InputError, match="input 1 is a Tensor"):
        bundle.embed_image([torch.zeros(4, 4)])


def test_zero_shot_uses_the_prompts_and_calibration_inside(made, tmp_path):
    calibration = Calibration(prompts=PROMPTS.digest, temperature=2.0, thresholds={"edema": 0.25})
    write_bundle(tmp_path / "bundle", calibration=calibration)
    bare = medvlp.load(made[0]).zero_shot(arrays(3))
    scores = medvlp.load(tmp_path / "bundle").zero_shot(arrays(3))
    assert scores.names == ("edema", "cardiomegaly")
    np.testing.assert_allclose(scores.logits_NL, bare.logits_NL / 2, rtol=1e-5)
    np.testing.assert_array_equal(scores.thresholds_L, np.array([0.25, np.nan], np.float32))


def test_zero_shot_needs_prompts_from_somewhere(tmp_path):
    write_bundle(tmp_path / "bundle", prompts=None, objectives={})
    bundle = medvlp.load(tmp_path / "bundle")
    with pytest.raises(InputError, match="no prompts"):
        bundle.zero_shot(arrays(1))
    assert bundle.zero_shot(arrays(1), prompts_from_labels(["edema"])).logits_NL.shape == (1, 1)
    with pytest.raises(BundleError, match="no label head"):
        bundle.label_scores(arrays(1))


def test_heatmap_is_the_cosine_of_patches_and_averages_to_the_similarity(made):
    bundle = medvlp.load(made[0])
    (array,) = arrays(1)
    result = bundle.heatmap(array, "Edema.")
    assert result.picture.shape == (32, 32, 3)
    assert result.map_HW.shape == (32, 32)
    assert result.map_HW.dtype == np.float32
    assert result.index is None
    text = bundle.embed_text("Edema.")[0]
    assert result.similarity == pytest.approx(float(bundle.embed_image(array)[0] @ text), abs=1e-5)
    with torch.inference_mode():
        stored = bundle.preprocess.from_array(array)
        _, _, patches = bundle.model.encode_image(model_input(bundle.preprocess, [stored]))
    patches = patches[0].numpy()
    lengths = np.linalg.norm(patches, axis=1)
    np.testing.assert_allclose(result.grid.ravel(), patches @ text / lengths, atol=1e-5)
    weighted = (result.grid.ravel() * lengths).mean() / np.linalg.norm(patches.mean(0))
    assert weighted == pytest.approx(result.similarity, abs=1e-5)
    # Patch centres keep their values: the upsampled map peaks where the grid does.
    row, column = np.unravel_index(result.grid.argmax(), result.grid.shape)
    peak = np.unravel_index(result.map_HW.argmax(), result.map_HW.shape)
    assert (peak[0] // 8, peak[1] // 8) == (row, column)


@pytest.mark.parametrize("domain", ["volumetric", "video"])
def test_heatmaps_of_volumes_and_clips_show_their_best_slice(tmp_path, domain):
    rng = np.random.default_rng(0)
    if domain == "volumetric":
        contract = CtPreprocessConfig(shape=(16, 32, 32))
        image = Vit3dConfig(width=12, depth=1, heads=2, patch=(4, 8, 8))
        stored = rng.integers(-1000, 1000, (16, 32, 32)).astype(np.int16)
    else:
        contract = ClipPreprocessConfig(frames=4, size=32)
        image = FrameEncoderConfig(frame=IMAGE)
        stored = rng.integers(0, 255, (4, 32, 32, 3)).astype(np.uint8)
    model, tokenizer = build_model(image, contract.channels)
    write_bundle(
        tmp_path / "bundle", domain=domain, preprocess=contract, image=image, model=model,
        tokenizer=tokenizer, objectives={}, prompts=None,
    )  # fmt: skip
    bundle = medvlp.load(tmp_path / "bundle")
    result = bundle.heatmap_stored(stored, "Edema.")
    assert result.grid.shape == (4, 4, 4)
    assert result.map_HW.shape == (32, 32)
    best = np.unravel_index(result.grid.argmax(), result.grid.shape)[0]
    assert result.index * 4 // len(stored) == best
    if domain == "video":
        np.testing.assert_array_equal(result.picture, stored[result.index])
    else:
        grey = np.clip((stored[result.index].astype(np.float32) + 1000) / 2000, 0, 1) * 255
        np.testing.assert_array_equal(result.picture[..., 0], grey.astype(np.uint8))
    expected = bundle.embed_stored([stored])[0] @ bundle.embed_text("Edema.")[0]
    assert result.similarity == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.gpu
def test_a_bundle_computes_the_same_on_a_gpu(made):
    cpu, gpu = medvlp.load(made[0]), medvlp.load(made[0], device="cuda")
    np.testing.assert_allclose(gpu.embed_image(arrays(3)), cpu.embed_image(arrays(3)), atol=1e-2)
    np.testing.assert_allclose(gpu.embed_text("Edema."), cpu.embed_text("Edema."), atol=1e-2)
    assert gpu.heatmap(arrays(1)[0], "Edema.").map_HW.shape == (32, 32)


def test_a_heatmap_is_of_one_sample(made, pictures):
    bundle = medvlp.load(made[0])
    assert bundle.heatmap(pictures[0], "Edema.").map_HW.shape == (32, 32)
    with pytest.raises(InputError, match="holds 5"):
        bundle.heatmap(pictures[0].parent, "Edema.")


def test_a_bundle_of_pretrained_weights_needs_their_folder_no_more(tmp_path):
    pretrained = tmp_path / "bert"
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=400, intermediate_size=32, **small)).save_pretrained(pretrained)
    text = dataclasses.replace(TEXT, pretrained=str(pretrained))
    model, *_ = write_bundle(tmp_path / "bundle", text=text)
    shutil.rmtree(pretrained)
    bundle = medvlp.load(tmp_path / "bundle")
    assert str(tmp_path) not in (tmp_path / "bundle" / "bundle.json").read_text()
    for name, value in model.state_dict().items():
        assert torch.equal(bundle.model.state_dict()[name], value)
