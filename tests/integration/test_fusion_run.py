"""One decoder from training to a bundle that writes and answers, and to its evaluation."""

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from PIL import Image
from sided import REPORTS, write_sided, write_sided_bundle

import medvlp
from medvlp.data.manifest import Manifest
from medvlp.encoding import ImageFeatures
from medvlp.errors import BundleError, ConfigError, InputError
from medvlp.evaluate.run import evaluate_protocol
from medvlp.losses.fusion.decoder import DecoderConfig, TextDecoder
from medvlp.losses.fusion.objective import FusionConfig
from medvlp.models.bundle import save_bundle
from medvlp.models.image2d import ResNet2dConfig
from medvlp.models.text import TextTowerConfig
from medvlp.models.writing import Scribe, continuations
from medvlp.plain_files import read_json
from medvlp.train.fit import train_run

QUESTION = "Is there effusion?"
DECODER = {"depth": 1, "width": 32, "heads": 2, "dropout": 0.0, "max_tokens": 48}


def experiment(manifest, **more):
    return {
        "domain": "cxr",
        "data": {
            "manifests": [str(manifest)], "batch_size": 16, "labels": ["effusion"],
            "entities": {"observations": ["opacity"]}, "cache": "memory",
            "tokenizer": {"vocab_size": 320}, "texts": {"levels": ["report"]},
        },
        "preprocess": {"kind": "cxr", "size": 32},
        "image": {"kind": "resnet", "depths": [1, 1], "widths": [8, 16], "stem": 8,
                  "norm": "group"},
        "text": {"width": 16, "depth": 1, "heads": 2, "max_tokens": 32, "dropout": 0.0},
        "model": {"embed": 8},
        "objectives": [
            {"kind": "clip"},
            {"kind": "fusion", "answering": 1.0, "decoder": DECODER},
            {"kind": "knowledge", "edges": [["opacity", "lung"]], "width": 8, "heads": 2},
        ],
        "optim": {"lr": 0.005, "warmup_steps": 10},
        "trainer": {"steps": 150, "accelerator": "cpu", "log_every": 5, "valid_every": 150,
                    "save_every": 150},
        **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_sided(tmp_path_factory.mktemp("sided"))


@pytest.fixture(scope="module")
def run(manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fusion")
    (folder / "fusion.yaml").write_text(yaml.safe_dump(experiment(manifest)))
    train_run(folder / "fusion.yaml", [], folder / "mine")
    return folder / "mine"


@pytest.fixture(scope="module")
def bundle(run):
    return medvlp.load(run / "bundle")


@pytest.fixture(scope="module")
def pictures(manifest):
    """The test images, and on which side each is bright."""
    samples = Manifest.open(manifest)
    tests = samples.samples.filter(pl.col("split") == "test")
    paths = [samples.paths(source)[0] for source in tests["source"]]
    arrays = [np.asarray(Image.open(path)) for path in paths]
    return paths, ["left" if a[:, 16:].mean() > a[:, :16].mean() else "right" for a in arrays]


def share(texts, sides):
    """How often a text is the report of its side."""
    wanted = [REPORTS[side].lower() for side in sides]
    return np.mean([text == report for text, report in zip(texts, wanted, strict=True)])


def test_the_loss_falls(run):
    losses = pl.read_csv(run / "metrics.csv")["loss"].to_list()
    assert np.mean(losses[-3:]) < 0.5 * losses[0]


def test_a_report_says_what_the_image_shows_and_another_image_does_not(bundle, pictures):
    paths, sides = pictures
    texts = bundle.write(paths)
    assert share(texts, sides) > 0.9
    # Blind: the same texts beside other patients' images.
    blind = np.random.default_rng(0).permutation(len(sides))
    assert share(texts, [sides[i] for i in blind]) < 0.75


def test_closed_and_open_answers_agree_with_the_image(bundle, pictures):
    paths, sides = pictures
    wanted = ["yes" if side == "left" else "no" for side in sides]
    for choices in (None, ["yes", "no"], ("no", "yes")):
        found = bundle.answer(paths, QUESTION, choices)
        assert np.mean([a == b for a, b in zip(found, wanted, strict=True)]) > 0.9
    assert bundle.answer(paths[:2], QUESTION, ["no"]) == ["no", "no"]
    with pytest.raises(InputError, match="no choice"):
        bundle.answer(paths[0], QUESTION, [])


def test_a_report_goes_on_from_a_prompt(bundle, pictures):
    paths, sides = pictures
    left = paths[sides.index("left")]
    assert bundle.write(left, prompt="Left pleural") == ["effusion. no pneumothorax."]
    assert bundle.write(left, max_tokens=1) != bundle.write(left)


def test_batches_and_beams_change_no_text_of_a_sure_model(bundle, pictures):
    paths, _ = pictures
    texts = bundle.write(paths)
    assert bundle.write(paths, batch_size=3) == texts
    assert bundle.write(paths) == texts
    assert bundle.write(paths, beams=3) == texts


def test_the_entities_head_answers_by_name(bundle, pictures):
    assert bundle.answers == ("opacity",)
    assert bundle.label_scores(pictures[0][:2]).shape == (2, 1)


def test_a_bundle_saved_again_writes_the_same(bundle, pictures, tmp_path):
    configs = experiment("")
    objective = FusionConfig(answering=1.0, decoder=DecoderConfig(**DECODER))
    image = {k: tuple(v) if isinstance(v, list) else v for k, v in configs["image"].items()}
    save_bundle(
        tmp_path / "again", model=bundle.model, domain="cxr", preprocess=bundle.preprocess.config,
        image=ResNet2dConfig(**image), text=TextTowerConfig(**configs["text"]),
        tokenizer=bundle.tokenizer, names=bundle.info.names,
        objectives={"fusion": (objective, bundle.objectives["fusion"])},
    )  # fmt: skip
    again = medvlp.load(tmp_path / "again")
    paths, _ = pictures
    assert again.write(paths) == bundle.write(paths)
    assert again.answer(paths, QUESTION) == bundle.answer(paths, QUESTION)


def test_a_bundle_without_a_decoder_says_so(tmp_path, pictures):
    bare = medvlp.load(write_sided_bundle(tmp_path / "bundle"))
    with pytest.raises(BundleError, match="no decoder"):
        bare.write(pictures[0][0])
    with pytest.raises(BundleError, match="no decoder"):
        bare.answer(pictures[0][0], QUESTION)


class Hand(TextDecoder):
    """Prefers the first of two words beside a bright image, and the second beside a dark one."""

    def __init__(self, size):
        super().__init__(DecoderConfig(depth=1, width=2, heads=1, max_tokens=16), size, 1)

    def memory(self, token_BPD, grid):
        return token_BPD

    def one_way(self, ids_BT, memory_BPW):
        return memory_BPW[:, :1].expand(-1, ids_BT.shape[1], -1)

    def logits(self, hidden_XW):
        bright = hidden_XW[..., 0] > 0
        logits = torch.zeros(*bright.shape, self.token.weight.shape[0])
        logits[..., self.said[0]] = torch.where(bright, 2.0, 1.0)
        logits[..., self.said[1]] = torch.where(bright, 1.0, 2.0)
        return logits


def test_a_hand_made_decoder_chooses_by_hand_made_likelihoods(bundle):
    hand = Hand(len(bundle.tokenizer))
    ids = [bundle.tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("a", "b")]
    hand.said = [one[-1] for one in ids]
    scribe = Scribe(hand, bundle.tokenizer)
    tokens = torch.tensor([[[1.0]], [[-1.0]]])
    features = ImageFeatures(pooled_BD=tokens[:, 0], tokens_BPD=tokens, grid=(1,), maps=(tokens,))
    assert scribe.answer([features], "?", ["a", "b"]) == ["a", "b"]
    assert scribe.answer([features], "?", ["b", "a"]) == ["a", "b"]


def test_one_beam_is_greedy(bundle, pictures):
    decoder, end = bundle.decoder, bundle.tokenizer.sep_token_id
    torch.manual_seed(0)
    memory = torch.randn(3, 4, DECODER["width"])
    start = torch.full((3, 1), bundle.tokenizer.cls_token_id)
    found = continuations(decoder, memory, start, end=end)
    for row, expected in enumerate(found):
        ids = [bundle.tokenizer.cls_token_id]
        while len(ids) < DECODER["max_tokens"] and ids[-1] != end:
            with torch.no_grad():
                logits = decoder(torch.tensor([ids]), memory[row : row + 1])
            ids.append(int(logits[0, -1].argmax()))
        assert [token for token in ids[1:] if token != end] == expected


def protocol(folder, manifest, task):
    values = {
        "name": "judge", "version": 1, "domain": "cxr", "task": task,
        "data": {"manifests": [str(manifest)]}, "bootstrap": {"draws": 20},
    }  # fmt: skip
    path = folder / "judge.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def judged(folder, manifest, run, task):
    evaluate_protocol(protocol(folder, manifest, task), [run / "bundle"], folder / "out", [])
    rows = read_json(folder / "out" / "judge" / "metrics.json")["rows"]
    return {(row["model"], row["metric"], row["name"]): row["value"] for row in rows}


def test_generation_judges_the_trained_decoder_as_it_is(run, bundle, manifest, tmp_path):
    task = {"kind": "generation", "decoder": "bundle", "search": None}
    rows = judged(tmp_path, manifest, run, task)
    assert rows["mine", "exact_match", "report"] > 0.9
    for control in ("text-only", "image-blind"):
        assert rows[control, "exact_match", "report"] < 0.8
    texts = pl.read_parquet(tmp_path / "out" / "judge" / "texts.parquet")
    mine = texts.filter(pl.col("model") == "mine").sort("sample")
    samples = Manifest.open(manifest)
    sources = dict(samples.samples.select("sample", "source").iter_rows())
    paths = [samples.paths(sources[sample])[0] for sample in mine["sample"]]
    assert mine["generated"].to_list() == bundle.write(paths)


def test_generation_may_train_on_from_the_bundles_decoder(run, manifest, tmp_path):
    search = {"rates": [1e-5], "steps": 2, "batch_size": 16, "checks": 1}
    task = {"kind": "generation", "decoder": "bundle", "search": search, "controls": []}
    before = (run / "bundle" / "model.safetensors").read_bytes()
    rows = judged(tmp_path, manifest, run, task)
    # Two steps teach a new decoder nothing.
    assert rows["mine", "exact_match", "report"] > 0.9
    assert (run / "bundle" / "model.safetensors").read_bytes() == before
    assert len(pl.read_parquet(tmp_path / "out" / "judge" / "trials.parquet")) == 1


@pytest.mark.parametrize("reverse", [False, True])
def test_answers_are_matched_by_case_in_any_order_and_of_more_than_yes_and_no(
    run, manifest, tmp_path, reverse
):
    rows = []
    for sample, value in Manifest.open(manifest).labels.select("sample", "value").iter_rows():
        answer = "yes" if value == 1 else "no"
        base = {"sample": sample, "question": QUESTION, "answer": answer, "topic": "presence"}
        rows.append({**base, "kind": "closed", "options": "no|perhaps|yes"})
        rows.append({**base, "kind": "open", "question": "Say whether there is effusion"})
    rows = rows[::-1] if reverse else rows
    pl.DataFrame(rows, schema_overrides={"options": pl.String}).write_csv(tmp_path / "asked.csv")
    task = {"kind": "vqa", "questions": "asked.csv", "decoder": "bundle", "search": None,
            "closed": "likelihood", "controls": ["text-only"]}  # fmt: skip
    found = judged(tmp_path, manifest, run, task)
    assert found["mine", "accuracy", "closed"] > 0.9
    assert found["text-only", "accuracy", "closed"] < 0.8
    assert ("mine", "exact_match", "open") in found


def test_a_new_decoder_may_answer_by_likelihood(run, manifest, tmp_path):
    task = {
        "kind": "vqa", "closed": "likelihood", "controls": [],
        "decoder": {"depth": 1, "width": 32, "heads": 2, "dropout": 0.0, "max_tokens": 32},
        "search": {"rates": [0.005], "steps": 150, "batch_size": 16, "checks": 5},
    }  # fmt: skip
    found = judged(tmp_path, manifest, run, task)
    assert found["mine", "accuracy", "closed/presence"] > 0.9
    assert found["mine", "accuracy", "closed/side"] > 0.9


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"kind": "generation", "search": None}, "needs decoder=bundle"),
        ({"kind": "generation", "search": None, "decoder": "bundle", "tune": True}, "tune"),
        ({"kind": "vqa", "search": None}, "needs decoder=bundle"),
        ({"kind": "vqa", "decoder": "bundle"}, "closed=likelihood"),
    ],
)
def test_what_cannot_be_judged_is_refused(run, manifest, tmp_path, task, said):
    with pytest.raises(ConfigError, match=said):
        judged(tmp_path, manifest, run, task)


def test_a_bundle_without_a_decoder_cannot_be_judged_by_it(manifest, tmp_path):
    write_sided_bundle(tmp_path / "mine" / "bundle")
    task = {"kind": "generation", "decoder": "bundle", "search": None}
    with pytest.raises(BundleError, match="mine: the bundle has no decoder"):
        judged(tmp_path, manifest, tmp_path / "mine", task)


def test_matching_without_text_tokens_is_refused(manifest, tmp_path):
    values = experiment(manifest)
    values["text"]["cache"] = True
    values["optim"]["freeze"] = [{"part": "text"}]
    (tmp_path / "fusion.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=r"text\.cache=false"):
        train_run(tmp_path / "fusion.yaml", [], tmp_path / "run")
