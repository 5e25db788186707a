from pathlib import Path

import pytest
import yaml

from medvlp.config import plain, validate
from medvlp.errors import ConfigError
from medvlp.losses.objectives import LabelsConfig
from medvlp.models.image2d import Vit2dConfig
from medvlp.train.experiment import Experiment, load_experiment, schema

BASE = {
    "domain": "cxr",
    "data": {"manifests": ["m"], "batch_size": 8},
    "preprocess": {"kind": "cxr", "size": 32},
    "image": {"kind": "vit", "size": 32, "patch": 8, "width": 16, "depth": 1, "heads": 2},
    "text": {"width": 16, "depth": 1, "heads": 2},
    "objectives": [{"kind": "clip"}],
    "trainer": {"steps": 5},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "e.yaml"
    path.write_text(yaml.safe_dump(BASE))
    return path


def test_components_get_the_types_of_their_kind(file: Path) -> None:
    loaded = load_experiment(
        file, ["data.labels=[a]", "objectives=[{kind: clip},{kind: labels,weight: 2}]"]
    )
    assert isinstance(loaded, Experiment)
    assert isinstance(loaded.image, Vit2dConfig)
    assert isinstance(loaded.objectives[1], LabelsConfig)
    assert loaded.objectives[1].weight == 2


def test_the_resolved_configuration_loads_to_the_same(file: Path) -> None:
    loaded = load_experiment(file)
    assert validate(schema("cxr"), yaml.safe_load(yaml.safe_dump(plain(loaded))), "x") == loaded


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("optim.warmup_steps=6", r"warmup_steps=6 exceeds trainer\.steps=5"),
        ("objectives=[{kind: siglip}]", r"siglip needs a bias; set model\.init_bias"),
        ("objectives=[{kind: labels}]", r"labels needs the names in data\.labels"),
        ("objectives=[{kind: label-text}]", r"label-text needs the names in data\.labels"),
        ("objectives=[{kind: unicl}]", r"unicl needs the names in data\.labels"),
        ("control=supervised-unimodal", "needs an objective of kind labels or label-text"),
        ("trainer.devices=3", r"batch_size=8 is no multiple of trainer\.devices=3"),
        ("objectives=[]", "objectives"),
        ("objectives=[{kind: magic}]", "clip"),
        ("image.kind=resnet3d", "image"),
        ("preprocess.kind=ct", r"preprocess"),
        ("data.batchsize=8", r"data\.batchsize"),
        ("data.manifests=[]", "either manifests or phantom"),
        ("data.texts={choose: join, n: 2}", "n=2 needs choose random or all"),
        ("trainer.precision=fp16", "bf16"),
        ("domain=mars", "'mars' is not installed"),
        ("domain=null", "domain is missing"),
    ],
)
def test_impossible_combinations_are_refused_with_the_reason(
    file: Path, override: str, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        load_experiment(file, [override])


def test_the_supervised_control_keeps_the_label_objectives(file: Path) -> None:
    both = ["data.labels=[a]", "objectives=[{kind: clip},{kind: labels}]"]
    loaded = load_experiment(file, [*both, "control=supervised-unimodal"])
    assert [o.kind for o in loaded.active_objectives] == ["labels"]
    assert [o.kind for o in load_experiment(file, both).active_objectives] == ["clip", "labels"]


def test_the_supervised_control_takes_a_head_of_prototypes_that_reads_no_text(file: Path) -> None:
    both = ["data.labels=[a]", "control=supervised-unimodal"]
    head = "objectives=[{kind: clip, weight: 0.1},{kind: label-text}]"
    loaded = load_experiment(file, [*both, head])
    assert [o.kind for o in loaded.active_objectives] == ["label-text"]
    assert loaded.weights == {"label-text": 1.0}
    with pytest.raises(ConfigError, match="reads no text; set prototypes: learned"):
        load_experiment(file, [*both, "objectives=[{kind: label-text, prototypes: text}]"])


@pytest.mark.parametrize("kind", ["masked-text", "local"])
def test_words_cannot_be_had_from_a_memory_of_whole_texts(file: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"{kind} .*; set text\.cache=false"):
        load_experiment(file, [f"objectives=[{{kind: {kind}}}]", "text.cache=true"])


def test_the_fusion_decoder_is_refused_where_nobody_knows_which_patches_it_sees(
    file: Path,
) -> None:
    fusion = "objectives=[{kind: fusion}]"
    load_experiment(file, [fusion])
    load_experiment(file, ["image.patch_dropout=0.5"])
    reason = r"fusion learns where each patch lies, .*; set image\.patch_dropout=0"
    with pytest.raises(ConfigError, match=reason):
        load_experiment(file, [fusion, "image.patch_dropout=0.5"])
    frames = [
        "domain=video", "preprocess={kind: clip, frames: 4, size: 32}",
        "image={kind: frames, frame: {kind: vit, size: 32, patch: 8, width: 16, heads: 2}}",
    ]  # fmt: skip
    load_experiment(file, [*frames, fusion])
    with pytest.raises(ConfigError, match=r"set image\.frame\.patch_dropout=0"):
        load_experiment(file, [*frames, fusion, "image.frame.patch_dropout=0.5"])


MIXING = [
    "mixing={kind: medcutmix}",
    "data.texts={levels: [sentence], n: 2}",
    "data.entities={anatomies: [lung], observations: [opacity, abnormality]}",
]


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("data.texts.n=1", r"set data\.texts\.levels=\[sentence\] and data\.texts\.n=2"),
        ("data.texts.levels=[section]", r"mixing: sentences are exchanged"),
        ("data.entities={}", r"mixing: no sentence tells what it affirms; name data\.entities"),
        ("trainer.micro_batch=2", r"mixing: both samples .* leave out trainer\.micro_batch"),
        ("trainer.compile=true", r"mixing: .* set trainer\.compile=false"),
        ("image={kind: none}", r"mixing: there is no image to mix"),
        ("image.patch_dropout=0.5", r"mixing: .* set image\.patch_dropout=0"),
        ("mixing.deny_all=[finding]", r"mixing\.deny_all: finding is not in data\.entities"),
        ("mixing.labels={a: [opacity]}", r"mixing\.labels: a is not in data\.labels"),
        ("mixing.area=[0.5, 0.2]", r"area: 0\.5 exceeds 0\.2"),
        ("mixing.kind=cutmix", r"mixing\.kind"),
    ],
)
def test_mixing_says_what_it_lacks(file: Path, override: str, reason: str) -> None:
    assert load_experiment(file, MIXING).active_mixing is not None
    with pytest.raises(ConfigError, match=reason):
        load_experiment(file, [*MIXING, override])


def test_sentences_of_one_stream_are_enough_to_mix(file: Path) -> None:
    streams = "data.mix={streams: {fine: {}, coarse: {texts: {levels: [report]}}}}"
    assert load_experiment(file, [*MIXING, streams]).mixing is not None


def test_an_average_of_weights_that_are_shared_out_is_refused(file: Path) -> None:
    shared = ["trainer.devices=2", "trainer.strategy=fsdp", "optim.ema={decay: 0.9}"]
    with pytest.raises(ConfigError, match=r"optim\.ema averages whole weights"):
        load_experiment(file, shared)
