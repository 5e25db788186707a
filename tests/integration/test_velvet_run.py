"""configs/volumetric/velvet-med.yaml, made small: two steps on phantom CT, and its bundle."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import medvlp
from medvlp.data.prompts import prompts_from_labels
from medvlp.errors import BundleError, ConfigError
from medvlp.models.answers import aligning_objective, word_grids
from medvlp.models.projected import project_text
from medvlp.train.experiment import load_experiment
from medvlp.train.fit import train_run

CONFIG = Path(__file__).resolve().parents[2] / "configs/volumetric/velvet-med.yaml"
PHANTOM = "{n: 8, kind: nifti, settings: [slices=16, size=48, format=nifti, masks=false]}"
SMALL = [
    "data.manifests=[]", f"data.phantom={PHANTOM}", "data.cache=memory", "data.batch_size=4",
    "data.workers=0", "data.tokenizer={vocab_size: 400}", "preprocess.shape=[32, 32, 32]",
    "image={kind: swin3d, embed: 6, depths: [1, 1, 1, 1], heads: [1, 1, 2, 2], window: [2, 2, 2]}",
    "text={kind: tribert, width: 16, depth: 1, heads: 2, max_tokens: 60, max_sentences: 3}",
    "model.embed=8", "objectives.2.decoder={depth: 1, width: 16, heads: 2, max_tokens: 60}",
    "objectives.4.embed=8",
    "trainer={steps: 2, accelerator: cpu, log_every: 1, valid_every: 2, save_every: 2}",
]  # fmt: skip
REPORT = "Aneurysm of the aorta measuring 4.5 cm. No effusion"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("velvet") / "run"
    train_run(CONFIG, SMALL, folder)
    return folder


@pytest.fixture(scope="module")
def bundle(run):
    return medvlp.load(run / "bundle")


def test_every_objective_has_a_finite_value(run, read_losses):
    assert np.isfinite(read_losses(run)).all()
    header = (run / "metrics.csv").read_text().splitlines()[0]
    for name in ("clip", "hierarchical", "fusion", "masked-text", "volume-ssl"):
        assert name in header


def test_the_bundle_marks_the_sentences_of_what_it_is_given(bundle):
    tokenizer, model = bundle.tokenizer, bundle.model
    ids = [tokenizer.cls_token_id]
    for sentence in ("Aneurysm of the aorta measuring 4.5 cm.", "No effusion"):
        mark = tokenizer.convert_tokens_to_ids("[SEN]")
        ids += [mark, *tokenizer(sentence, add_special_tokens=False)["input_ids"]]
    assert len(ids) <= model.text.max_tokens
    with torch.inference_mode():
        features = model.text(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool))
        expected_E = F.normalize(model.text_projection(features.pooled_MD), dim=1)[0]
    # Beside a longer text, and one of more sentences than the tower takes.
    texts = [REPORT, "Effusion. " * 9, "No effusion"]
    together = bundle.embed_text(texts)
    np.testing.assert_allclose(together[0], expected_E, atol=1e-6)
    np.testing.assert_allclose(together[1], bundle.embed_text("Effusion. " * 3)[0], atol=1e-6)
    projected = project_text(model, tokenizer, REPORT, torch.device("cpu"))
    assert projected.words_TE.shape[0] == projected.states_TD.shape[0] == len(ids) - 3
    np.testing.assert_allclose(projected.sentences_SD, features.sentence_MSD[0, :2], atol=1e-6)
    prompts = prompts_from_labels(["effusion"])
    volume = np.zeros((16, 48, 48), np.float32)
    assert np.isfinite(bundle.zero_shot(volume, prompts).probability_NL).all()


def test_words_point_on_the_map_that_they_were_aligned_with(bundle):
    aligned = aligning_objective(bundle)
    stored = bundle.preprocess.from_array(np.zeros((16, 48, 48), np.float32))
    (grid,) = word_grids(bundle, aligned, stored, [bundle.project_texts([REPORT, "Effusion"])])
    # Patches of 2 of 32 voxels, then halved: 16, 8, 4, 2 and 1; the cosines have but the last.
    assert grid.shape == (4, 4, 4)
    assert grid.sum() == pytest.approx(1.0, abs=1e-5)
    assert bundle.heatmap_stored(stored, REPORT).grid.shape == (1, 1, 1)


def test_it_writes_nothing_that_it_has_not_learnt(bundle):
    assert bundle.decoder is None
    with pytest.raises(BundleError, match="no decoder"):
        bundle.write(np.zeros((16, 48, 48), np.float32))


def test_a_run_without_marks_refuses_a_tokenizer_that_marks(run, tmp_path):
    plain = [
        "data.phantom=null", f"data.manifests=[{run / 'phantom/manifest'}]",
        f"data.tokenizer={{path: {run / 'bundle'}}}", "data.texts.mark_sentences=false",
        "text={kind: bert, width: 16, depth: 1, heads: 2}", "objectives=[{kind: clip}]",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="the tokenizer marks sentences"):
        train_run(CONFIG, [*SMALL, *plain], tmp_path / "run")


def test_the_published_ablations_are_overrides():
    def weights(*overrides):
        loaded = load_experiment(CONFIG, overrides)
        return [
            name if name != "hierarchical" else (one.sentence, one.word)
            for name, one in zip(loaded.weights, loaded.objectives, strict=True)
            if loaded.weights[name]
        ]

    alone = "objectives=[{kind: clip, label_smoothing: 0.1}]"
    lower = [f"objectives.{k}.weight=0" for k in (2, 3, 4)]
    assert weights(alone) == ["clip"]
    assert weights("objectives.1.word=0", *lower) == ["clip", (1, 0)]
    assert weights(*lower) == ["clip", (1, 1)]
    assert weights("objectives.2.weight=0") == ["clip", (1, 1), "masked-text", "volume-ssl"]
    assert weights() == ["clip", (1, 1), "fusion", "masked-text", "volume-ssl"]


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("data.texts.mark_sentences=false", r"set data\.texts\.mark_sentences=true"),
        (
            "data.mix={streams: {a: {}, b: {texts: {levels: [report]}}}}",
            r"data\.mix: mark_sentences must be the same",
        ),
        ("text.cache=true", r"text\.tribert\.cache"),
        (
            "text={kind: bert, cache: true}",
            r"hierarchical looks at each sentence and word; set text\.cache=false",
        ),
    ],
)
def test_what_does_not_go_together_is_told(override, reason):
    with pytest.raises(ConfigError, match=reason):
        load_experiment(CONFIG, [override])
