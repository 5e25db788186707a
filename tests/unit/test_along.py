"""Texts that go along with a timed one, and what a batch says of recordings and confidence."""

from pathlib import Path

import numpy as np
import pytest
import torch

from medvlp.data.dataset import PairDataset, collater
from medvlp.data.items import DataConfig, pair_items
from medvlp.data.manifest import write_manifest
from medvlp.data.randomness import generator
from medvlp.data.tables import LEVELS
from medvlp.data.text_draw import spread
from medvlp.data.text_nodes import TextNode
from medvlp.data.text_policy import AlongPolicy, TextPolicy
from medvlp.data.timeline import Timelines
from medvlp.data.tokenizer import train_tokenizer

WORDS = "we clip the duct and cut it with the hook now"


class Grey:
    """A contract for which a span is one grey picture."""

    config = None

    def read(self, paths, span=None, flags=()):
        return np.zeros((4, 4), np.uint8)

    def draw(self, rng):
        return rng.normal(size=2)


def text(sample, node, level, span, **more):
    start_s, end_s = span or (None, None)
    return {
        "sample": sample,
        "node": node,
        "parent": None,
        "level": level,
        "source": "told",
        "order": 0,
        "text": f"{node} {WORDS}",
        "start_s": start_s,
        "end_s": end_s,
        **more,
    }


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Two recordings of one patient; the first has two phases, and two speech recognisers."""
    samples = [
        {"sample": s, "domain": "video", "patient": "p", "source": f"src-{s}", "sha256": s * 32,
         "kind": "video", "split": "train", "duration_s": 40.0}
        for s in ("r1", "r2")
    ]  # fmt: skip
    texts = [
        text("r1", "A", "phase", (0.0, 20.0)),
        text("r1", "B", "phase", (20.0, 40.0)),
        text("r1", "late", "clip", (30.0, 34.0), source="asr:one", confidence=0.25),
        text("r1", "both", "clip", (18.0, 22.0), source="asr:one", confidence=0.5),
        text("r1", "early", "clip", (2.0, 5.0), source="asr:one"),
        text("r1", "touch", "clip", (5.0, 20.0), source="asr:one"),
        text("r1", "heard", "clip", (4.0, 7.0), source="asr:two"),
        text("r1", "none", "clip", None, source="asr:two"),
        text("r2", "C", "phase", (0.0, 40.0)),
        *[text("r2", f"c{i:02}", "clip", (i, i + 1.0), source="asr:one") for i in range(24)],
    ]
    sources = [{"source": f"src-{s}", "part": 0, "path": f"/{s}.mp4"} for s in ("r1", "r2")]
    folder = tmp_path_factory.mktemp("along") / "manifest"
    tables = {"samples": samples, "texts": texts}
    info = {"key_id": "k", "counts": {}}
    return write_manifest(folder, tables, sources, info, key=b"k" * 32)


def items(manifest, along=None, **options):
    """A policy, by default of phases with three clips, and the items that it makes."""
    along = along or AlongPolicy(levels=("clip",), n=3)
    policy = TextPolicy(**{"levels": ("phase",), "along": along, **options})
    config = DataConfig(manifests=(Path("m"),), texts=policy)
    return policy, pair_items([manifest], config, "train", domain="video")


def dataset(policy, found, seed=0, **options):
    tokenizer = train_tokenizer([WORDS] * 3, 300)
    return PairDataset(
        found, Grey(), tokenizer, None, policy, seed, max_tokens=40, augment=True, **options
    )


def names(nodes):
    return [node.node for node in nodes]


def test_what_overlaps_a_span_goes_along_in_the_order_of_time(manifest):
    _, found = items(manifest)
    assert [(i.texts[0].node, names(i.along)[:6]) for i in found] == [
        ("A", ["early", "heard", "touch", "both"]),
        ("B", ["both", "late"]),  # "touch" ends where it begins
        ("C", [f"c{i:02}" for i in range(6)]),
    ]
    assert len(found[2].along) == 24


def test_another_source_tells_of_the_same_moment(manifest):
    _, found = items(manifest, levels=("clip",), sources=("asr:one",))
    told = {i.texts[0].node: names(i.along) for i in found}
    # A text does not go along with itself.
    assert told["early"] == ["heard"]
    assert told["both"] == ["touch"]
    along = AlongPolicy(levels=("clip",), sources=("asr:two",), n=2)
    _, found = items(manifest, along, levels=("clip",), sources=("asr:one",))
    told = {i.texts[0].node: names(i.along) for i in found}
    assert told["early"] == told["touch"] == ["heard"]
    assert told["both"] == told["late"] == []


def test_a_text_of_the_whole_recording_has_all_of_its_texts_beside_it(manifest):
    phases = AlongPolicy(levels=("phase",), n=2)
    _, found = items(manifest, phases, levels=("procedure",), required=False)
    # Without a text of its own, a recording has none that goes along with it either.
    assert [(i.sample, i.texts, i.along) for i in found] == [("r1", (), ()), ("r2", (), ())]
    whole = TextNode(node="w", level="clip", source="t", text="w", start_s=None, end_s=None)
    beside = Timelines(manifest, phases)
    assert names(beside.beside("r1", (whole,), None)) == ["A", "B"]


def test_more_texts_than_wanted_are_taken_from_all_over_the_span(manifest):
    # Published loaders keep the first eight of up to sixteen.
    _, found = items(manifest)
    clips = found[2].along
    rng = generator(0, 0, "r2", "along")
    even = AlongPolicy(levels=("clip",), n=8)
    assert names(spread(clips, even, rng)) == [f"c{i:02}" for i in range(1, 24, 3)]
    assert names(spread(clips[:10], AlongPolicy(levels=("clip",), n=3), rng)) == [
        "c01", "c04", "c07",
    ]  # fmt: skip
    assert spread(clips[:8], even, rng) == list(clips[:8])


def test_drawn_texts_are_of_each_part_and_never_out_of_order(manifest):
    # Published loaders draw unsorted, so that every other span has its end before its start.
    _, found = items(manifest)
    clips, policy = found[2].along, AlongPolicy(levels=("clip",), n=3, choose="random")
    seen = set()
    for epoch in range(60):
        drawn = spread(clips, policy, generator(0, epoch, "r2", "along"))
        places = [clips.index(node) for node in drawn]
        assert [place // 8 for place in places] == [0, 1, 2]
        assert drawn[0].start_s < drawn[-1].end_s
        seen.update(places)
    assert len(seen) == 24


def test_a_batch_holds_the_node_first_and_absent_texts_last(manifest):
    policy, found = items(manifest, AlongPolicy(levels=("clip",), n=5))
    data = dataset(policy, found)
    batch = collater(0, {"items": policy.total})([data[(0, i)] for i in range(3)])
    assert batch.text_BNT.shape[:2] == (3, 6)
    phase, clip = LEVELS.index("phase"), LEVELS.index("clip")
    assert batch.level_BN.tolist() == [
        [phase, clip, clip, clip, clip, -1],
        [phase, clip, clip, -1, -1, -1],
        [phase, *[clip] * 5],
    ]
    assert torch.equal(batch.text_mask_BNT.any(2), batch.level_BN >= 0)
    assert batch.confidence_BN.tolist() == [
        [1, 1, 1, 1, 0.5, 1],
        [1, 0.5, 0.25, 1, 1, 1],
        [1] * 6,
    ]
    own = data.tokenizer.decode(batch.text_BNT[1, 2][batch.text_mask_BNT[1, 2]])
    assert own.replace(" ", "").endswith(WORDS.replace(" ", "") + "[SEP]")
    one, other, third = batch.recording_B.tolist()
    assert one == other != third
    assert len(set(batch.patient_B.tolist())) == 1
    assert batch.rows(torch.tensor([2])).recording_B.tolist() == [third]
    assert batch.part(slice(1, 3)).confidence_BN.tolist() == batch.confidence_BN[1:].tolist()


def test_objectives_draw_from_a_number_of_each_item_and_epoch(manifest):
    policy, found = items(manifest)
    data, again = dataset(policy, found), dataset(policy, found)
    _ = again[(5, 2)]  # what was drawn before must not matter
    draws = {(epoch, i): data[(epoch, i)].seed for epoch in range(2) for i in range(3)}
    assert {(epoch, i): again[(epoch, i)].seed for epoch, i in draws} == draws
    assert len(set(draws.values())) == 6
    assert dataset(policy, found, seed=1)[(0, 0)].seed != draws[0, 0]
    assert collater(0, {"items": 4})([data[(1, 0)], data[(1, 2)]]).seed_B.tolist() == [
        draws[1, 0], draws[1, 2],
    ]  # fmt: skip


def test_other_texts_go_along_with_one_text_alone():
    along = AlongPolicy(levels=("clip",), n=4)
    assert TextPolicy(levels=("phase",), along=along).total == 5
    with pytest.raises(ValueError, match="go along with one text, not with n=2"):
        TextPolicy(levels=("phase",), n=2, along=along)
