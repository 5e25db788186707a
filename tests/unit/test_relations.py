import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from medvlp.data.dataset import PairDataset, collater
from medvlp.data.items import DataConfig, pair_items
from medvlp.data.manifest import Manifest, write_manifest
from medvlp.data.relations import (
    EntityConfig,
    Names,
    Relation,
    RelationVectors,
    check_relation_names,
    present_places,
    relation_matrix,
    told_vector,
)
from medvlp.data.text_policy import TextPolicy
from medvlp.data.tokenizer import train_tokenizer
from medvlp.errors import ConfigError

RULES = EntityConfig(
    anatomies=("left lung", "right lung", "heart"),
    observations=("opacity", "effusion"),
    source="rules",
)
NAMES = Names(anatomies=("left lung", "right lung", "heart"), observations=("opacity", "effusion"))


def _manifest(folder: Path) -> Manifest:
    """One X-ray whose report has a section of two sentences, and one without entities."""

    def entity(node, anatomy, observation, presence, side=None, source="rules"):
        return {
            "sample": "x1", "node": node, "anatomy": anatomy, "observation": observation,
            "presence": presence, "laterality": side, "source": source,
        }  # fmt: skip

    def text(node, level, parent, order=0):
        words = f"words of {node}"
        return {
            "sample": "x1", "node": node, "level": level, "parent": parent, "source": "findings",
            "order": order, "text": words,
        }  # fmt: skip

    samples = [
        {
            "sample": name, "domain": "cxr", "patient": f"p-{name}", "source": f"src-{name}",
            "sha256": name * 32, "kind": "image", "split": "train",
        }
        for name in ("x1", "x2")
    ]  # fmt: skip
    tables = {
        "samples": samples,
        "texts": [
            text("r", "report", None),
            text("f", "section", "r"),
            text("s0", "sentence", "f", 0),
            text("s1", "sentence", "f", 1),
            {**text("t", "sentence", None), "sample": "x2"},
        ],
        "entities": [
            entity("s0", "lung", "opacity", 1.0, "left"),
            entity("s1", "lung", "effusion", 0.0),
            entity("s1", "heart", "opacity", -1.0),
            entity(None, "lung", "effusion", 1.0, "bilateral", source="truth"),
        ],
    }
    sources = [
        {"source": f"src-{name}", "part": 0, "path": f"/nowhere/{name}"} for name in ("x1", "x2")
    ]
    info = {"key_id": "test", "counts": {}}
    return write_manifest(folder / "m", tables, sources, info, key=b"k" * 32)


def _relation(values, observation, value, nodes=(), side=0):
    return Relation(
        nodes=frozenset(nodes), values=values, observation=observation, value=value, side=side
    )


def test_sides_and_negations_reach_the_columns_that_they_speak_of(tmp_path):
    told = RelationVectors(_manifest(tmp_path), RULES).of("x1")
    assert relation_matrix(told, NAMES).tolist() == [[1, 0], [-2, 0], [-1, -2]]


def test_only_the_chosen_source_counts(tmp_path):
    manifest = _manifest(tmp_path)
    truth = RelationVectors(manifest, dataclasses.replace(RULES, source="truth")).of("x1")
    assert relation_matrix(truth, NAMES).tolist() == [[-2, 1], [-2, 1], [-2, -2]]
    both = RelationVectors(manifest, dataclasses.replace(RULES, source=None)).of("x1")
    assert relation_matrix(both, NAMES).tolist() == [[1, 1], [-2, 1], [-1, -2]]


def test_an_affirmation_without_a_side_leaves_open_which(tmp_path):
    manifest = _manifest(tmp_path)
    names = Names(anatomies=("left heart", "right heart"), observations=("opacity",))
    found = relation_matrix(
        RelationVectors(
            manifest,
            EntityConfig(
                anatomies=names.anatomies, observations=names.observations, source="rules"
            ),
        ).of("x1"),
        names,
    )
    assert found.tolist() == [[-1], [-1]]
    plain = Names(anatomies=("lung",), observations=("opacity",))
    assert relation_matrix(
        RelationVectors(manifest, EntityConfig(anatomies=("lung",), observations=("opacity",))).of(
            "x1"
        ),
        plain,
    ).tolist() == [[1]]


def test_what_is_seen_once_outweighs_doubt_and_doubt_outweighs_denial():
    names = Names(anatomies=("a",), observations=("q",))
    for values, expected in (((0, -1), -1), ((-1, 1, 0), 1), ((), -2), ((0, -2), 0)):
        told = [_relation(((0, value),), 0, value) for value in values]
        assert relation_matrix(told, names).tolist() == [[expected]]


def test_each_text_tells_what_its_own_sentences_say(tmp_path):
    told = RelationVectors(_manifest(tmp_path), RULES).of("x1")
    first, side = told_vector(told, {"s0"}, NAMES)
    assert (first.tolist(), side) == ([1, -2], 1)
    second, side = told_vector(told, {"s1"}, NAMES)
    assert (second.tolist(), side) == ([-1, 0], 0)
    section, side = told_vector(told, {"f"}, NAMES)
    assert (section.tolist(), side) == ([1, 0], 1)
    assert told_vector(told, {"elsewhere"}, NAMES)[0].tolist() == [-2, -2]


def test_each_text_has_the_places_at_which_it_affirms_something(tmp_path):
    told = RelationVectors(_manifest(tmp_path), RULES).of("x1")
    for node, expected in (("s0", [1, 0, 0]), ("s1", [0, 0, 0]), ("f", [1, 0, 0])):
        assert present_places(told, {node}, NAMES).tolist() == expected


def test_a_column_may_unite_names(tmp_path):
    config = EntityConfig(
        anatomies=("left chest", "right chest"),
        observations=("disease",),
        united={"chest": ("lung", "heart"), "disease": ("opacity", "mass")},
        source="rules",
    )
    manifest = _manifest(tmp_path)
    names = Names(anatomies=config.anatomies, observations=config.observations)
    check_relation_names([manifest], config)
    told = RelationVectors(manifest, config).of("x1")
    assert relation_matrix(told, names).tolist() == [[1], [-1]]
    with pytest.raises(ValueError, match="united: elsewhere is no column"):
        dataclasses.replace(config, united={"elsewhere": ("lung",)})


def test_one_side_alone_may_deny_the_other(tmp_path):
    config = dataclasses.replace(RULES, other_side="absent")
    told = RelationVectors(_manifest(tmp_path), config).of("x1")
    assert relation_matrix(told, NAMES).tolist() == [[1, 0], [0, 0], [-1, -2]]
    # What another sentence affirms there is affirmed.
    both = [*told, _relation(((1, 1),), 0, 1)]
    assert relation_matrix(both, NAMES).tolist()[1] == [1, 0]


class _Blank:
    config = None

    def read(self, paths, span=None, flags=()):
        return np.zeros((4, 4), np.uint8)


@pytest.mark.parametrize("choose", ["all", "join"])
def test_relations_reach_the_batch(tmp_path, choose):
    manifest = _manifest(tmp_path)
    policy = TextPolicy(levels=("sentence",), choose=choose, n=2 if choose == "all" else 1)
    entities = EntityConfig(
        anatomies=NAMES.anatomies, observations=NAMES.observations, source="rules"
    )
    config = DataConfig(manifests=(tmp_path / "m",), texts=policy, entities=entities)
    items = pair_items([manifest], config, "train", domain="cxr")
    data = PairDataset(
        items, _Blank(), train_tokenizer(["words of s0", "words of s1"] * 2, 300), None, policy, 0,
        max_tokens=16, augment=False, names=config.names,
    )  # fmt: skip
    batch = collater(0, {"items": policy.n})([data[(0, 0)], data[(0, 1)]])
    assert batch.relations_BAQ.dtype == torch.int8
    assert batch.relations_BAQ[0].tolist() == [[1, 0], [-2, 0], [-1, -2]]
    assert (batch.relations_BAQ[1] == -2).all()
    told = {"all": [[1, -2], [-1, 0]], "join": [[1, 0]]}[choose]
    assert batch.told_BNQ[0].tolist() == told
    assert batch.side_BN[0].tolist() == [1, 0][: policy.n]
    # Parts and rows of a batch carry their own.
    one = batch.rows(torch.tensor([1]))
    assert (one.relations_BAQ == -2).all()
    assert (one.told_BNQ == -2).all()
    assert batch.part(slice(0, 1)).relations_BAQ.shape == (1, 3, 2)


def test_without_names_a_batch_has_no_relations(tmp_path):
    manifest = _manifest(tmp_path)
    config = DataConfig(manifests=(tmp_path / "m",), texts=TextPolicy(levels=("sentence",)))
    (first, _) = pair_items([manifest], config, "train", domain="cxr")
    assert first.relations == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observations": ("opacity", "mass")}, "observations: mass: no such name"),
        ({"anatomies": ("left rib",)}, "anatomies: rib: no such name"),
        ({"source": "radgraph"}, "no entities of source radgraph"),
    ],
)
def test_unknown_names_are_refused(tmp_path, change, message):
    manifest = _manifest(tmp_path)
    known = EntityConfig(anatomies=("heart",), observations=("opacity",), source="rules")
    config = DataConfig(
        manifests=(tmp_path / "m",),
        texts=TextPolicy(levels=("sentence",)),
        entities=dataclasses.replace(known, **change),
    )
    with pytest.raises(ConfigError, match=message):
        pair_items([manifest], config, "train", domain="cxr")
