"""Vocabulary files: what they may hold, and what is told where they are wrong."""

import shutil
from pathlib import Path

import pytest
import yaml

from medvlp.data.structure.extract import load_extractor
from medvlp.data.structure.labels import NO_FINDING, labels_of
from medvlp.data.structure.vocabulary import load_vocabulary
from medvlp.domain import get_domain
from medvlp.errors import ConfigError

FOLDER = get_domain("cxr").vocabulary
CXR = load_extractor("cxr")
LABELS = {
    "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion",
    "Pleural Other", "Fracture", "Support Devices",
}  # fmt: skip

NAMES = {
    "anatomies": {"lung": {"normal": "spot"}, "base": {"part_of": "lung", "normal": "spot"}},
    "observations": {"spot": {"at": "lung"}},
}
WORDS = {
    "anatomies": {"lung": ["lung"], "base": ["base"]},
    "observations": {"spot": {"words": ["spot"]}},
    "normal": ["clear"],
    "english_terms": True,
}


def changed(values, path, value):
    values = yaml.safe_load(yaml.safe_dump(values))
    *above, last = path.split(".")
    inner = values
    for key in above:
        inner = inner[key]
    inner[last] = value
    return values


def written(folder, names=NAMES, words=WORDS, language="en"):
    folder.mkdir(exist_ok=True)
    (folder / "names.yaml").write_text(yaml.safe_dump(names))
    (folder / f"{language}.yaml").write_text(yaml.safe_dump(words))
    return folder


def test_shipped_files_are_sound_and_whole():
    for language in ("en", "de"):
        load_vocabulary(FOLDER, language)
    english = load_vocabulary(FOLDER)
    # Every name of the names file can be said.
    assert set(english.words.anatomies) == set(english.anatomies)
    assert set(english.words.observations) == set(english.observations)
    told = {label for o in english.observations.values() for label in o.labels}
    assert told == LABELS
    assert len(load_vocabulary(FOLDER, "de").words.observations) >= 25


@pytest.mark.parametrize(
    ("part", "path", "value", "said"),
    [
        ("names", "observations.spot.at", "liver", "unknown liver"),
        ("names", "observations.spot.within", ["liver"], "unknown liver"),
        ("names", "observations.spot.kind_of", "blob", "unknown blob"),
        ("names", "observations.spot.instead", {"lung": "blob"}, "unknown blob"),
        ("names", "anatomies.base.part_of", "liver", "unknown liver"),
        ("names", "anatomies.base.normal", "blob", "unknown blob"),
        ("names", "anatomies.lung.part_of", "base", "part_of leads from"),
        ("names", "observations.spot.kind_of", "spot", "kind_of leads from"),
        ("names", "observations.spot.place", "lung", "place"),
        ("words", "anatomies", {"liver": ["liver"]}, "unknown liver"),
        ("words", "adjectives", {"liver": ["hepatic"]}, "unknown liver"),
        ("words", "observations", {"blob": {"words": ["blob"]}}, "unknown blob"),
        ("words", "states", [{"says": "blob", "of": ["lung"]}], "unknown blob"),
        ("words", "states", [{"says": "spot", "of": ["liver"]}], "unknown liver"),
        ("words", "observations.spot.words", ["~"], "no phrase"),
        ("words", "sides", {"top": ["top"]}, "top"),
        ("words", "severity", {"awful": ["awful"]}, "awful"),
        ("words", "terms", {"maybe": ["maybe"]}, "unknown kind maybe"),
        ("words", "normal", [True], "normal"),
    ],
)
def test_a_wrong_file_is_told_in_a_line(tmp_path, part, path, value, said):
    files = {"names": NAMES, "words": WORDS}
    files[part] = changed(files[part], path, value)
    own = written(tmp_path / "own", files["names"], files["words"])
    with pytest.raises(ConfigError, match=said):
        load_extractor("cxr", "en", own)


def test_a_users_own_files(tmp_path):
    own = written(tmp_path / "own")
    found = load_extractor("cxr", "en", own).sentence("No spot in the base.")
    assert [(t.anatomy, t.observation, t.presence) for t in found] == [("base", "spot", 0)]
    assert load_extractor("cxr", "en", own).sentence("The lung is clear.")[0].observation == "spot"
    # A words file alone goes with the domain's names.
    words = changed(WORDS, "anatomies", {"lung_base": ["bottom"]})
    words["observations"] = {"opacity": {"words": ["whiteness"]}}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(words))
    found = load_extractor("cxr", "en", file).sentence("Whiteness at the bottom.")
    assert [(t.anatomy, t.observation) for t in found] == [("lung_base", "opacity")]
    # A folder without one of the files takes the domain's.
    partial = tmp_path / "partial"
    partial.mkdir()
    shutil.copy(file, partial / "en.yaml")
    assert load_extractor("cxr", "en", partial).sentence("Whiteness.")


def test_what_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="no words of language xx; remedy: use one of de, en"):
        load_extractor("cxr", "xx")
    with pytest.raises(ConfigError, match="not there"):
        load_extractor("cxr", "en", tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="has no vocabulary"):
        load_extractor("video")


def test_the_package_ships_its_words():
    shipped = {path.name for path in Path(FOLDER).iterdir()}
    assert {"names.yaml", "en.yaml", "de.yaml"} <= shipped


@pytest.mark.parametrize(
    ("report", "told"),
    [
        ("No pneumonia.", {"Pneumonia": 0, NO_FINDING: 1}),
        ("Possible pneumonia.", {"Pneumonia": -1, "Lung Opacity": -1, NO_FINDING: 0}),
        ("Clear lungs. Small nodule.", {"Lung Opacity": 1, "Lung Lesion": 1, NO_FINDING: 0}),
        ("No effusion. Left effusion.", {"Pleural Effusion": 1, NO_FINDING: 0}),
        ("No edema. Possible edema.", {"Edema": -1, "Lung Opacity": -1, NO_FINDING: 0}),
        ("Pacemaker.", {"Support Devices": 1, NO_FINDING: 1}),
        ("Calcified granuloma.", {NO_FINDING: 0}),
        ("No acute disease.", {NO_FINDING: 1}),
        ("", {NO_FINDING: 1}),
    ],
)
def test_labels(report, told):
    assert labels_of(CXR.report(report), CXR.vocabulary) == told
