"""RadGraph F1 from annotations in RadGraph's form, by hand."""

import json

import polars as pl
import pytest

from medvlp.digest import digest_bytes
from medvlp.errors import InputError
from medvlp.evaluate.metrics.radgraph import add_radgraph, scored


def entity(tokens, label, *relations):
    return {"tokens": tokens, "label": label, "relations": list(relations)}


ANNOTATED = {
    "left effusion": {
        "1": entity("left", "ANAT-DP"),
        "2": entity("effusion", "OBS-DP", ["located_at", "1"]),
    },
    "Effusion right": {
        "1": entity("Effusion", "OBS-DP", ["located_at", "2"]),
        "2": entity("right", "ANAT-DP"),
    },
    "no effusion": {"1": entity("effusion", "OBS-DA")},
    "": {},
}
JSON = {
    digest_bytes(text.encode()): {"text": text, "entities": entities}
    for text, entities in ANNOTATED.items()
}


def texts(*pairs):
    return pl.DataFrame(
        [
            {"model": "m", "seed": 0, "sample": f"s{i}", "generated": g, "reference": r}
            for i, (g, r) in enumerate(pairs)
        ]
    )


@pytest.mark.parametrize(
    ("generated", "reference", "entity_f1", "relation_f1"),
    [
        ("left effusion", "left effusion", 1, 1),
        ("Effusion right", "left effusion", 0.5, 0),
        ("no effusion", "left effusion", 0, 0),
        ("no effusion", "no effusion", 1, 1),
        ("", "no effusion", 0, 1),
        ("", "", 1, 1),
    ],
)
def test_hand_cases(generated, reference, entity_f1, relation_f1):
    row = scored(texts((generated, reference)), JSON).row(0, named=True)
    assert (row["entity_f1"], row["relation_f1"]) == (entity_f1, relation_f1)
    assert row["radgraph_f1"] == (entity_f1 + relation_f1) / 2


def test_scores_are_written_beside_the_texts_without_their_words(tmp_path):
    texts(("left effusion", "no effusion"), ("", "")).write_parquet(tmp_path / "texts.parquet")
    (tmp_path / "radgraph.json").write_text(json.dumps(JSON))
    assert add_radgraph(tmp_path, tmp_path / "radgraph.json") == 2
    table = pl.read_parquet(tmp_path / "radgraph.parquet")
    assert table["radgraph_f1"].to_list() == [0, 1]
    assert not {"generated", "reference"} & set(table.columns)


def test_a_text_without_an_annotation_is_refused():
    with pytest.raises(InputError, match="1 of 2 texts have no annotation"):
        scored(texts(("new words", "no effusion")), JSON)


@pytest.mark.parametrize(
    "annotation",
    [[], {}, {"entities": {"1": {}}}, {"entities": {"1": entity("a", "b", ["x", "9"])}}],
)
def test_an_annotation_of_another_form_is_refused(annotation):
    with pytest.raises(InputError, match="not of RadGraph's form"):
        scored(texts(("", "")), {digest_bytes(b""): annotation})


def test_a_folder_without_texts_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no texts\.parquet"):
        add_radgraph(tmp_path, tmp_path / "radgraph.json")
