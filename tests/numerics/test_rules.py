"""Zero-shot rules against literal loops over a bundle's vectors; published prompts by hash."""

import hashlib
import math

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import rankdata

from medvlp.cxr.preprocess import CxrPreprocessConfig
from medvlp.data.preprocess import model_input
from medvlp.data.prompts import Prompts, PromptSet
from medvlp.data.published_prompts import PublishedPrompts, read_published
from medvlp.data.tokenizer import train_tokenizer
from medvlp.errors import ConfigError
from medvlp.evaluate.predictions import PREDICTIONS
from medvlp.evaluate.rules import RULES, local_agreement, rule_scores
from medvlp.evaluate.tasks.zero_shot import mean_of_models
from medvlp.models.bundle import load, save_bundle
from medvlp.models.image2d import ResNet2dConfig
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig

WORDS = ("edema of the lung", "no edema", "a mass on the left", "no mass", "clear lungs")
PAIRS = PromptSet(
    mode="independent",
    labels={
        "edema": Prompts(positive=("edema", "edema of the lung"), negative=("no edema", "clear")),
        "mass": Prompts(positive=("a mass on the left",), negative=("no mass",)),
    },
)
ONE_OF = PromptSet(
    mode="exclusive",
    labels={name: Prompts(positive=p.positive) for name, p in PAIRS.labels.items()},
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    image = ResNet2dConfig(depths=(1, 1), widths=(8, 16), stem=8, norm="group")
    text = TextTowerConfig(width=16, depth=1, heads=2, max_tokens=16)
    tokenizer = train_tokenizer(list(WORDS) * 3, 300)
    towers = image.build(1), text.build(len(tokenizer), tokenizer.pad_token_id)
    model = TwoTower(TwoTowerConfig(embed=8), *towers)
    folder = tmp_path_factory.mktemp("rules") / "bundle"
    save_bundle(
        folder, model=model, domain="cxr", preprocess=CxrPreprocessConfig(size=32), image=image,
        text=text, tokenizer=tokenizer,
    )  # fmt: skip
    return load(folder)


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(1)
    return [rng.integers(0, 2**16, (32, 32)).astype(np.uint16) for _ in range(7)]


def unit(vector):
    return vector / np.linalg.norm(vector)


def cosines(bundle, arrays, texts):
    """(N,M) cosines and the texts' unnormalised vectors."""
    image = bundle.embed_stored(arrays).astype(float)
    raw = [t.pooled_E for t in bundle.project_texts(texts)]
    return image @ np.stack([unit(r) for r in raw]).T, image, raw


def literal(rule, bundle, arrays, prompts):
    columns = []
    for label in prompts.labels.values():
        up, image, raw_up = cosines(bundle, arrays, label.positive)
        down, _, raw_down = cosines(bundle, arrays, label.negative)
        if rule == "cxr-clip":
            plus, minus = up.mean(1), down.mean(1)
        elif rule == "biovil":
            plus, minus = image @ unit(np.mean(raw_up, 0)), image @ unit(np.mean(raw_down, 0))
        else:
            each = [unit(np.mean([unit(r) for r in side], 0)) for side in (raw_up, raw_down)]
            plus, minus = image @ each[0], image @ each[1]
        sharp = bundle.scale if rule == "medvlp" else 1.0
        columns.append(
            [1 / (1 + math.exp(-sharp * (p - m))) for p, m in zip(plus, minus, strict=True)]
        )
    return np.array(columns).T


@pytest.mark.parametrize("rule", ["medvlp", "chexzero", "biovil", "cxr-clip"])
def test_two_sided_rules_equal_their_formula(rule, bundle, arrays):
    found = rule_scores(rule, bundle, arrays, PAIRS)
    np.testing.assert_allclose(found, literal(rule, bundle, arrays, PAIRS), atol=2e-6)


def test_rules_differ_where_their_formulas_do(bundle, arrays):
    found = {rule: rule_scores(rule, bundle, arrays, PAIRS)[:, 0] for rule in RULES[:7]}
    values = [tuple(np.round(v, 9)) for v in found.values()]
    assert len(set(values)) == len(values)


def test_chexzero_ranks_as_the_margin_and_stays_between_its_bounds(bundle, arrays):
    chexzero = rule_scores("chexzero", bundle, arrays, PAIRS)
    ours = rule_scores("medvlp", bundle, arrays, PAIRS)
    for column in range(2):
        np.testing.assert_array_equal(rankdata(chexzero[:, column]), rankdata(ours[:, column]))
    # without a temperature, cosines between -1 and 1 cannot leave this range
    assert chexzero.min() >= 1 / (1 + math.exp(2))
    assert chexzero.max() <= 1 / (1 + math.exp(-2))


@pytest.mark.parametrize(("rule", "reduce"), [("medclip", np.max), ("medclip-mean", np.mean)])
def test_medclip_scales_the_best_or_mean_cosine(rule, reduce, bundle, arrays):
    found = rule_scores(rule, bundle, arrays, ONE_OF)
    for column, label in enumerate(ONE_OF.labels.values()):
        expected = bundle.scale * reduce(cosines(bundle, arrays, label.positive)[0], axis=1)
        np.testing.assert_allclose(found[:, column], expected, atol=2e-5)


def literal_local(patches, words):
    """GLoRIA's local similarity with plain loops: patches (P,E), words (T,E)."""
    dot = [[float(w @ v) for v in patches] for w in words]
    shared = [[0.0] * len(patches) for _ in words]
    for place in range(len(patches)):
        total = sum(math.exp(dot[t][place]) for t in range(len(words)))
        for t in range(len(words)):
            shared[t][place] = math.exp(dot[t][place]) / total
    best = -math.inf
    for t, word in enumerate(words):
        weights = [math.exp(4 * s) for s in shared[t]]
        context = sum(w / sum(weights) * v for w, v in zip(weights, patches, strict=True))
        cosine = float(context @ word) / (np.linalg.norm(context) * np.linalg.norm(word))
        best = max(best, 5 * cosine)
    return best


def test_the_local_agreement_equals_plain_loops():
    rng = np.random.default_rng(2)
    for _ in range(50):
        patches = rng.normal(size=(3, rng.integers(1, 7), 5))
        words = rng.normal(size=(rng.integers(1, 5), 5))
        found = local_agreement(torch.from_numpy(patches), torch.from_numpy(words))
        expected = [literal_local(patch, words) for patch in patches]
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_gloria_takes_the_best_prompt_and_standardises_over_the_images(bundle, arrays):
    found = rule_scores("gloria", bundle, arrays, ONE_OF)
    with torch.inference_mode():
        image = model_input(bundle.preprocess, arrays)
        _, _, patches = bundle.model.encode_image(image)
    for column, label in enumerate(ONE_OF.labels.values()):
        texts = bundle.project_texts(label.positive)
        cos = cosines(bundle, arrays, label.positive)[0]
        raw = np.array(
            [
                max(
                    (cos[i, j] + literal_local(patches[i].numpy(), text.words_TE)) / 2
                    for j, text in enumerate(texts)
                )
                for i in range(len(arrays))
            ]
        )
        np.testing.assert_allclose(found[:, column], (raw - raw.mean()) / raw.std(), atol=1e-4)


def test_gloria_counts_words_and_not_special_tokens(bundle):
    (text,) = bundle.project_texts(["edema"])
    ids = bundle.tokenizer("edema").input_ids
    special = set(bundle.tokenizer.all_special_ids)
    assert len(text.words_TE) == sum(i not in special for i in ids) < len(ids)


def test_a_text_reads_alike_alone_and_beside_others(bundle):
    alone = bundle.project_texts(["no mass"])[0]
    beside = bundle.project_texts(["edema of the lung", "no mass"])[1]
    np.testing.assert_array_equal(alone.words_TE, beside.words_TE)
    np.testing.assert_allclose(unit(alone.pooled_E), bundle.embed_text("no mass")[0], atol=1e-6)


@pytest.mark.parametrize("rule", ["chexzero", "biovil"])
def test_a_rule_of_negations_refuses_exclusive_prompts(rule, bundle, arrays):
    with pytest.raises(ConfigError, match="exclusive"):
        rule_scores(rule, bundle, arrays, ONE_OF)


def test_an_ensemble_is_the_mean_of_the_models_alone():
    rows = [
        dict.fromkeys(PREDICTIONS.names())
        | {"model": m, "sample": s, "name": "edema", "label": 1, "score": v, "control": c}
        for m, c, values in (
            ("a", False, (0.2, 0.4)),
            ("b", False, (0.4, 0.8)),
            ("chance", True, (1, 1)),
        )
        for s, v in zip(("s1", "s2"), values, strict=True)
    ]
    frame = pl.DataFrame(rows, schema=PREDICTIONS)
    found = mean_of_models(frame)
    assert found["model"].unique().to_list() == ["ensemble"]
    np.testing.assert_allclose(found["score"], [0.3, 0.6])
    with pytest.raises(ConfigError, match="mean of 1"):
        mean_of_models(frame.filter(pl.col("model") != "b"))


COPY = """OTHER = {}
PROMPTS = {
    "Edema": {"how": ["", "mild"], "what": ["edema"], "where": ["", "left"]},
    "Mass": {"what": ["mass"]},
}
"""


def told(path, text, **more):
    digest = hashlib.sha256(text.encode()).hexdigest()
    values = {"source": "a file", "sha256": digest, "layout": "python-dict",
              "labels": ("Edema", "Mass"), "variable": "PROMPTS", "path": path}  # fmt: skip
    return PublishedPrompts(**(values | more))


def test_a_published_dictionary_is_combined_and_never_run(tmp_path):
    hostile = COPY + "import os\nos.mkdir('escaped')\n"
    (tmp_path / "constants.py").write_text(hostile)
    found = read_published(told("constants.py", hostile), tmp_path)
    assert found.labels["Edema"].positive == (
        "edema",
        "edema left",
        "mild edema",
        "mild edema left",
    )
    drawn = read_published(told("constants.py", hostile, draws=2), tmp_path)
    assert len(drawn.labels["Edema"].positive) == 2
    assert drawn == read_published(told("constants.py", hostile, draws=2), tmp_path)
    assert not (tmp_path / "escaped").exists()


def test_published_lines_belong_to_the_labels_in_order(tmp_path):
    text = "first words\nsecond words\n"
    (tmp_path / "lines.txt").write_text(text)
    lines = told("lines.txt", text, layout="lines", labels=("a", "b"), variable=None)
    assert read_published(lines, tmp_path).labels["b"].positive == ("second words",)
    with pytest.raises(ConfigError, match="does not hold the prompts"):
        read_published(
            told("lines.txt", text, layout="lines", labels=("a",), variable=None), tmp_path
        )


def test_a_copy_of_another_content_is_refused(tmp_path):
    (tmp_path / "constants.py").write_text(COPY.replace("mild", "grave"))
    with pytest.raises(ConfigError, match="SHA-256 differs"):
        read_published(told("constants.py", COPY), tmp_path)


def test_a_dictionary_that_is_computed_is_refused(tmp_path):
    text = "PROMPTS = dict(Mass={}, Edema={'what': ['edema']})\n"
    (tmp_path / "constants.py").write_text(text)
    with pytest.raises(ConfigError, match="does not hold the prompts"):
        read_published(told("constants.py", text), tmp_path)
