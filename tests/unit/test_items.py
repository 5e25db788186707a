from pathlib import Path

import numpy as np
import polars as pl
import pytest

from medvlp.data.items import DataConfig, Item, count_left_out, pair_items, relabel, window_items
from medvlp.data.manifest import Manifest, write_manifest
from medvlp.data.permuted import permute_images
from medvlp.data.text_policy import TextPolicy
from medvlp.errors import ConfigError


def _manifest(folder: Path) -> Manifest:
    """Two X-rays and a text-less one of three patients, and a procedure of a fourth."""

    def sample(name, patient, split="train", **more):
        return {
            "sample": name,
            "domain": "cxr",
            "patient": patient,
            "source": f"src-{name}",
            "sha256": name * 32,
            "kind": "image",
            "split": split,
            **more,
        }

    def text(sample, node, level, text, parent=None, order=0, **more):
        return {
            "sample": sample,
            "node": node,
            "parent": parent,
            "level": level,
            "source": more.pop("source", "findings"),
            "order": order,
            "text": text,
            **more,
        }

    def label(sample, name, value):
        return {"sample": sample, "name": name, "value": value, "source": "table"}

    def interval(sample, name, start, end):
        return {"sample": sample, "name": name, "kind": "interval", "geometry": [start, end]}

    tables = {
        "samples": [
            sample("x1", "p1"),
            sample("x2", "p2"),
            sample("x3", "p3"),
            sample("v1", "p4", duration_s=10.0),
            sample("x9", "p9", split="valid"),
        ],
        "texts": [
            text("x1", "r", "report", "whole"),
            text("x1", "f", "section", "findings", parent="r", order=0),
            text("x1", "i", "section", "impression", parent="r", order=1, source="impression"),
            text("x1", "i1", "sentence", "third", parent="i", order=0, source="impression"),
            text("x1", "f2", "sentence", "second", parent="f", order=1),
            text("x1", "f1", "sentence", "first", parent="f", order=0),
            text("x2", "g", "sentence", "other"),
            text("x3", "e", "sentence", "  "),
            text("v1", "c2", "clip", "later", start_s=6.0, end_s=9.0),
            text("v1", "c1", "clip", "earlier", start_s=1.0, end_s=3.0),
            text("x9", "h", "sentence", "held out"),
        ],
        "labels": [
            label("x1", "effusion", 1.0),
            label("x1", "mass", -1.0),
            label("x2", "effusion", 0.0),
            label("x2", "mass", None),
        ],
        "regions": [interval("v1", "prepare", 0.0, 5.0), interval("v1", "cut", 5.0, 10.0)],
        "subsets": [{"subset": "1%", "sample": "x2"}],
    }
    sources = [
        {"source": f"src-{row['sample']}", "part": 0, "path": f"/data/{row['sample']}.png"}
        for row in tables["samples"]
    ]
    info = {"key_id": "k", "counts": {}}
    return write_manifest(folder / "manifest", tables, sources, info, key=b"k" * 32)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return _manifest(tmp_path)


def config(**options: object) -> DataConfig:
    levels = options.pop("levels", ("sentence", "clip"))
    sources = options.pop("sources", None)
    policy = TextPolicy(levels=levels, sources=sources)
    return DataConfig(manifests=(Path("m"),), texts=policy, **options)


def test_a_report_without_an_image_is_for_text_training_alone(manifest):
    kind = pl.when(pl.col("sample") == "x1").then(pl.lit("report")).otherwise(pl.lit("image"))
    manifest.__dict__["samples"] = manifest.samples.with_columns(kind=kind)
    with_image = {i.sample for i in pairs(manifest)}
    every = pair_items([manifest], config(), "train", domain="cxr", text_only=True)
    assert {i.sample for i in every} - with_image == {"x1"}
    assert "x1" not in with_image


def pairs(manifest: Manifest, **options: object) -> list[Item]:
    return pair_items([manifest], config(**options), "train", domain="cxr")


def test_one_item_a_sample_with_its_texts_in_reading_order(manifest: Manifest) -> None:
    items = {
        i.sample: i
        for i in pair_items([manifest], config(levels=("sentence",)), "train", domain="cxr")
    }
    assert set(items) == {"x1", "x2"}
    assert [n.text for n in items["x1"].texts] == ["first", "second", "third"]
    assert items["x1"].source_paths == (Path("/data/x1.png"),)
    assert items["x1"].span is None


def test_a_timed_text_is_an_item_with_its_span(manifest: Manifest) -> None:
    items = pair_items(
        [manifest], config(levels=("clip",), labels=("prepare", "cut")), "train", domain="cxr"
    )
    assert [(i.span, i.texts[0].text) for i in items] == [
        ((1.0, 3.0), "earlier"),
        ((6.0, 9.0), "later"),
    ]
    assert [i.labels_L.tolist() for i in items] == [[1.0, 0.0], [0.0, 1.0]]
    assert len({i.key for i in items}) == 2


def test_other_domains_give_no_item(manifest: Manifest) -> None:
    assert pair_items([manifest], config(), "train", domain="volumetric") == []
    assert count_left_out([manifest], config(), "train", domain="volumetric")[0] == 0


def test_levels_and_sources_narrow_the_texts(manifest: Manifest) -> None:
    (item,) = pair_items([manifest], config(sources=("impression",)), "train", domain="cxr")
    assert [n.text for n in item.texts] == ["third"]
    (item,) = pair_items([manifest], config(levels=("report",)), "train", domain="cxr")
    assert [n.text for n in item.texts] == ["whole"]


def test_textless_samples_are_counted_and_not_trained_on(manifest: Manifest) -> None:
    assert count_left_out([manifest], config(), "train", domain="cxr")[0] == 1
    assert count_left_out([manifest], config(levels=("report",)), "train", domain="cxr")[0] == 3


def test_labels_keep_uncertain_and_unknown_apart(manifest: Manifest) -> None:
    items = pair_items([manifest], config(labels=("mass", "effusion")), "train", domain="cxr")
    by_sample = {i.sample: i.labels_L for i in items}
    assert by_sample["x1"].tolist() == [-1.0, 1.0]
    assert np.isnan(by_sample["x2"][0])
    assert by_sample["x2"][1] == 0.0


def test_a_subset_narrows_the_training_split_only(manifest: Manifest) -> None:
    few = config(subset="1%")
    assert [i.sample for i in pair_items([manifest], few, "train", domain="cxr")] == ["x2"]
    assert [i.sample for i in pair_items([manifest], few, "valid", domain="cxr")] == ["x9"]


def test_views_are_chosen_and_what_they_leave_out_is_counted(manifest: Manifest) -> None:
    views = {"x1": "PA", "x2": "LATERAL", "x9": "AP"}
    manifest.__dict__["samples"] = manifest.samples.with_columns(
        view=pl.col("sample").replace_strict(views, default=None)
    )

    def taken(view: str) -> set[str]:
        return {item.sample for item in pairs(manifest, views=view)}

    assert (taken("all"), taken("frontal"), taken("lateral")) == (
        {"x1", "x2", "v1"}, {"x1"}, {"x2"},
    )  # fmt: skip
    # The other view, the textless image and the recording, whose views nobody knows.
    for view, left_out in (("all", 0), ("frontal", 3), ("lateral", 3)):
        chosen = config(views=view)
        assert count_left_out([manifest], chosen, "train", domain="cxr")[1] == left_out


@pytest.mark.parametrize(
    ("option", "reason"),
    [({"labels": ("effuson",)}, "effuson: no such label"), ({"subset": "9%"}, "no such subset")],
)
def test_unknown_names_are_refused_with_the_known_ones(
    manifest: Manifest, option: dict[str, object], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        pair_items([manifest], config(**option), "train", domain="cxr")
    assert "choose from" in caught.value.remedy


def test_windows_cover_a_recording_and_take_the_label_of_their_middle(manifest: Manifest) -> None:
    items = window_items(manifest, "train", 4.0, 3.0, ("prepare", "cut"))
    assert [i.span for i in items] == [(0.0, 4.0), (3.0, 7.0), (6.0, 10.0)]
    # The middle of the second window is 5.0, where one interval ends and the next begins.
    assert [i.labels_L.tolist() for i in items] == [[1, 0], [0, 1], [0, 1]]
    assert [i.span for i in window_items(manifest, "train", 60.0, 1.0, ())] == [(0.0, 10.0)]


def test_a_moment_is_silent_about_what_nobody_annotated(tmp_path: Path) -> None:
    def interval(sample: str, name: str) -> dict[str, object]:
        return {"sample": sample, "name": name, "kind": "interval", "geometry": [0.0, 4.0]}

    tables: dict[str, list[dict[str, object]]] = {
        "samples": [
            {"sample": s, "domain": "video", "patient": s, "source": s, "sha256": s * 64,
             "kind": "video", "split": "train", "duration_s": 8.0}
            for s in "abc"
        ],
        "texts": [],
        "labels": [{"sample": "a", "name": "bleeding", "value": 1.0, "source": "table"}],
        "regions": [interval("a", "phase:one"), interval("b", "phase:two"), interval("b", "clip")],
    }  # fmt: skip
    sources = [{"source": s, "part": 0, "path": str(tmp_path / s)} for s in "abc"]
    info = {"key_id": "test", "counts": {}}
    write_manifest(tmp_path / "m", tables, sources, info, key=b"k" * 32)
    names = ("phase:one", "phase:three", "clip", "tool:hook", "bleeding")
    items = window_items(Manifest.open(tmp_path / "m"), "train", 4.0, 4.0, names)
    nan = np.nan
    # phase:three is in no interval, but its family is; "clip" was annotated in this archive.
    expected = [
        [1, 0, 0, nan, 1], [0, 0, 0, nan, 1],
        [0, 0, 1, nan, nan], [0, 0, 0, nan, nan],
        [nan] * 5, [nan] * 5,
    ]  # fmt: skip
    np.testing.assert_array_equal(np.array([i.labels_L for i in items]), expected)


def test_relabelled_items_take_names_that_no_manifest_knows_as_unknown(manifest: Manifest) -> None:
    items = relabel(pairs(manifest), [manifest], ("effusion", "unheard"))
    values = {i.key: i.labels_L for i in items}
    assert values["x1"][0] == 1.0
    assert np.isnan(values["x1"][1])


def test_nobody_keeps_an_image_in_the_blind_control(manifest: Manifest) -> None:
    items = pairs(manifest)
    blind = permute_images(items, seed=0)
    owner = {i.source_paths: i.patient for i in items}
    taken = {b.patient: owner[b.source_paths] for b in blind}
    assert all(patient != other for patient, other in taken.items())
    assert sorted(taken.values()) == sorted(set(owner.values()))
    for item, other in zip(items, blind, strict=True):
        assert (item.texts, item.sample, item.split) == (other.texts, other.sample, other.split)
    assert [b.source_paths for b in permute_images(items, seed=0)] == [
        b.source_paths for b in blind
    ]
    with pytest.raises(ConfigError, match="cannot be permuted"):
        permute_images(items[:1], seed=0)


def test_an_image_of_one_value_is_no_training_item(tmp_path):
    rows = [
        {
            "sample": f"{split}-{flag}", "domain": "cxr", "patient": f"p-{split}-{flag}",
            "source": "s", "sha256": "0" * 64, "kind": "image", "split": split, "flags": [flag],
        }
        for split in ("train", "valid")
        for flag in ("no_information", "monochrome1")
    ]  # fmt: skip
    texts = [
        {
            "sample": row["sample"], "node": f"n{k}", "parent": None, "level": "sentence",
            "source": "findings", "order": 0, "text": "Clear lungs.",
        }
        for k, row in enumerate(rows)
    ]  # fmt: skip
    sources = [{"source": "s", "part": 0, "path": "/a.dcm"}]
    info = {"key_id": "k", "counts": {}}
    manifest = write_manifest(
        tmp_path / "m", {"samples": rows, "texts": texts}, sources, info, key=bytes(32)
    )
    config = DataConfig(manifests=(tmp_path / "m",))
    found = {
        item.sample
        for split in ("train", "valid")
        for item in pair_items([manifest], config, split, domain="cxr")
    }
    assert found == {"train-monochrome1", "valid-no_information", "valid-monochrome1"}
