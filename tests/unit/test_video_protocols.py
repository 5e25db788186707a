"""Protocols of surgical video: each loads, and asks for what it says."""

import json
from pathlib import Path

import pytest
import yaml

from medvlp.errors import ConfigError
from medvlp.evaluate.metrics.triplets import groups
from medvlp.evaluate.protocol import load_protocol
from medvlp_video.preprocess import ClipPreprocessConfig
from medvlp_video.tasks.triplets import TripletWords, prompts_of

FOLDER = Path(__file__).parents[2] / "configs" / "evaluate" / "video"
PATHS = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_video_protocol_loads_and_its_contract_is_one(path):
    protocol = load_protocol(path)
    assert protocol.name == path.stem
    ClipPreprocessConfig(**protocol.task.contract)
    assert protocol.task.headlines


def test_the_named_conventions_and_data_sets_are_there():
    names = {path.stem for path in PATHS}
    assert {
        "cholec80-surgvlp-32", "cholec80-tecno-40", "cholec80-surglavi", "autolaparo",
        "multibypass140-strasbourg", "multibypass140-bern", "grasp-phases", "grasp-steps",
        "cholect50-triplets", "cataract-1k",
    } <= names  # fmt: skip


@pytest.mark.parametrize(
    ("name", "labels"),
    [("cholec80-surgvlp-32", 7), ("autolaparo", 7), ("multibypass140-bern", 12),
     ("grasp-phases", 11), ("grasp-steps", 21), ("cataract-1k", 12), ("cholect50-tools", 6)],
)  # fmt: skip
def test_prompts_have_a_label_for_every_class(name, labels):
    prompts = load_protocol(FOLDER / f"{name}.yaml").task.prompts
    assert len(prompts.names) == labels
    sentences = [s for words in prompts.labels.values() for s in words.positive]
    assert len(set(sentences)) == len(sentences)


def test_conventions_show_their_own_averages():
    shown = {
        name: load_protocol(FOLDER / f"cholec80-{name}.yaml").task.headlines
        for name in ("surgvlp-32", "tecno-40", "surglavi")
    }
    assert shown["surgvlp-32"] == ("f1_macro_video", "accuracy_video")
    assert shown["surglavi"] == ("f1_macro", "accuracy")
    assert {"accuracy_video", "precision_present_macro"} <= set(shown["tecno-40"])


def test_the_contract_is_part_of_what_makes_numbers_comparable():
    path = FOLDER / "cholec80-surgvlp-32.yaml"
    digest = load_protocol(path).digest
    assert load_protocol(path, ["task.contract.frames=8"]).digest != digest
    assert load_protocol(path, ["task.tolerance_s=5"]).digest != digest


def test_classes_come_from_a_label_file_of_the_data_set(tmp_path):
    labels = {"categories": {"triplet": {"1": "hook,cut,gut", "0": "hook,grasp,gut", "-1": "x"}}}
    (tmp_path / "VID01.json").write_text(json.dumps(labels))
    values = yaml.safe_load((FOLDER / "cholect50-triplets.yaml").read_text())
    values["task"]["classes"] = "VID01.json"
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(values))
    task = load_protocol(tmp_path / "p.yaml").task
    assert task.classes == ("hook,grasp,gut", "hook,cut,gut")
    (tmp_path / "VID01.json").write_text("{}")
    with pytest.raises(ConfigError, match="does not list triplets"):
        load_protocol(tmp_path / "p.yaml")


def test_a_template_with_an_unknown_gap_is_refused(tmp_path):
    values = yaml.safe_load((FOLDER / "cholect50-triplets.yaml").read_text())
    values["task"]["words"] = {"triplet": ["the {tool} works"]}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match="gap of another name"):
        load_protocol(tmp_path / "p.yaml")


def test_sentences_are_filled_in_and_nothing_is_done_by_a_null_verb():
    triplets = ("triplet:hook,dissect,cystic_duct", "triplet:hook,null_verb,null_target")
    alone = prompts_of(triplets, TripletWords(), "triplets")
    assert alone.labels[triplets[0]].positive == ("the hook is used to dissect the cystic duct",)
    assert alone.labels[triplets[1]].positive == ("the hook is in view",)
    both = prompts_of(triplets, TripletWords(), "both")
    assert set(both.names) - set(triplets) == {
        "instrument:hook", "verb:dissect", "verb:null_verb", "target:cystic_duct",
        "target:null_target",
    }  # fmt: skip
    assert groups(triplets, "iv")[0] == ("hook,dissect", "hook,null_verb")
