"""RadGraph's annotations become our triples, by hand."""

import sys
from types import SimpleNamespace

import pytest

from medvlp.data.structure.extract import load_extractor
from medvlp.data.structure.radgraph import RadGraphReader, triples_of
from medvlp.errors import ConfigError, InputError

CXR = load_extractor("cxr")


def annotated(*entities):
    return {
        "entities": {
            str(i + 1): {"tokens": tokens, "label": label, "relations": list(relations)}
            for i, (tokens, label, *relations) in enumerate(entities)
        }
    }


CASES = [
    (
        "Small opacity in the left base.",
        annotated(
            ("small", "OBS-DP", ["modify", "2"]),
            ("opacity", "OBS-DP", ["located_at", "4"]),
            ("left", "ANAT-DP", ["modify", "4"]),
            ("base", "ANAT-DP"),
        ),
        [("lung_base", "opacity", 1, "left", "mild", "opacity")],
    ),
    (
        "No pleural effusion or pneumothorax.",
        annotated(
            ("pleural", "ANAT-DP"),
            ("effusion", "OBS-DA", ["located_at", "1"]),
            ("pneumothorax", "OBS-DA"),
        ),
        [
            ("pleural_space", "pleural_effusion", 0, "", "", "effusion"),
            ("pleural_space", "pneumothorax", 0, "", "", "pneumothorax"),
        ],
    ),
    (
        "Opacity may represent pneumonia.",
        annotated(
            ("Opacity", "OBS-DP", ["suggestive_of", "2"]),
            ("pneumonia", "OBS-U"),
        ),
        [
            ("lung", "opacity", 1, "", "", "Opacity"),
            ("lung", "pneumonia", -1, "", "", "pneumonia"),
        ],
    ),
    (
        "The lungs are clear.",
        annotated(("lungs", "ANAT-DP"), ("clear", "OBS-DP", ["located_at", "1"])),
        [("lung", "opacity", 0, "", "", "clear")],
    ),
    # That something is not clear says nothing of what is there.
    (
        "The lungs are not clear.",
        annotated(("lungs", "ANAT-DP"), ("clear", "OBS-DA", ["located_at", "1"])),
        [],
    ),
    (
        "The heart is mildly enlarged.",
        annotated(
            ("heart", "ANAT-DP"),
            ("mildly", "OBS-DP", ["modify", "3"]),
            ("enlarged", "OBS-DP", ["located_at", "1"]),
        ),
        [("heart", "cardiomegaly", 1, "", "mild", "enlarged")],
    ),
    (
        "Right edema.",
        annotated(("edema", "Observation::definitely present")),
        [("lung", "edema", 1, "", "", "edema")],
    ),
    ("Something else.", annotated(("something", "OBS-DP")), []),
    ("Nothing.", {"entities": {}}, []),
]


@pytest.mark.parametrize(("sentence", "annotation", "told"), CASES)
def test_annotations(sentence, annotation, told):
    found = triples_of(annotation, sentence, CXR)
    assert [
        (t.anatomy, t.observation, t.presence, t.side, t.severity, sentence[slice(*t.span)])
        for t in found
    ] == told
    assert all(t.sentence == sentence for t in found)


@pytest.mark.parametrize(
    "annotation",
    [None, [], {}, {"entities": []}, {"entities": {"1": {}}}, annotated((1, "OBS-DP")),
     annotated(("edema", None)), annotated(("edema", "OBS-DP", ["modify"]))],
)  # fmt: skip
def test_another_form_is_refused(annotation):
    with pytest.raises(InputError, match="another form"):
        triples_of(annotation, "Edema.", CXR)


def test_the_package_is_asked_in_batches(tmp_path, monkeypatch):
    asked = []

    class RadGraph:
        def __init__(self, model_cache_dir):
            assert model_cache_dir == str(tmp_path)

        def __call__(self, texts):
            asked.append(len(texts))
            return {str(i): annotated(("edema", "OBS-DP")) for i, _ in enumerate(texts)}

    monkeypatch.setitem(sys.modules, "radgraph", SimpleNamespace(RadGraph=RadGraph))
    found = RadGraphReader(tmp_path, CXR).read(["Edema."] * 300)
    assert len(found) == 300
    assert asked == [256, 44]
    assert {t.observation for triples in found for t in triples} == {"edema"}


def test_what_is_missing_is_told(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no folder of weights"):
        RadGraphReader(None, CXR)
    monkeypatch.setitem(sys.modules, "radgraph", None)
    with pytest.raises(ConfigError, match="not installed; remedy: install the package radgraph"):
        RadGraphReader(tmp_path, CXR)

    def broken(**_):
        raise OSError("no weights at a private path")

    monkeypatch.setitem(sys.modules, "radgraph", SimpleNamespace(RadGraph=broken))
    with pytest.raises(ConfigError, match="no weights that the package takes") as refusal:
        RadGraphReader(tmp_path, CXR)
    assert "private" not in str(refusal.value)
