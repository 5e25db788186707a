"""`medvlp embed` and `medvlp search`: files, manifests, volumes and moments."""

from __future__ import annotations

import io
import json
import shutil
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from rich.console import Console

import medvlp
from medvlp.doctor import write_clip
from medvlp.errors import InputError
from medvlp.evaluate.hits import find, find_moments
from medvlp.evaluate.search import embed_inputs, search_index
from medvlp.report.hits import write_hits


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(1)
    for i in range(18):
        Image.fromarray(rng.integers(0, 255, (40, 36), dtype=np.uint8)).save(folder / f"{i:02}.png")
    (folder / "05.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def index(tiny_bundle, pictures, tmp_path):
    said = embed_inputs(tiny_bundle("cxr"), [pictures], tmp_path / "index")
    assert "17 items; refused 1: not_a_picture 1" in said
    return tmp_path / "index"


def search(query, index, **options):
    shown = io.StringIO()
    full = {"k": 3, "json_file": None, "bundle": None}
    hits = search_index(query, index, **(full | options), console=Console(file=shown, width=200))
    return hits, shown.getvalue()


def test_search_equals_a_search_by_hand(tiny_bundle, pictures, index, tmp_path):
    hits, shown = search("mild edema", index, json_file=tmp_path / "hits.json")
    bundle = medvlp.load(tiny_bundle("cxr"))
    paths = [p for p in sorted(pictures.iterdir()) if p.name != "05.png"]
    scores = bundle.embed_image(paths) @ bundle.embed_text("mild edema")[0]
    order = np.argsort(-scores, kind="stable")[:3]
    assert [hit.source for hit in hits] == [str(paths[i]) for i in order]
    np.testing.assert_allclose([hit.score for hit in hits], scores[order], atol=1e-5)
    assert [hit.rank for hit in hits] == [1, 2, 3]
    written = json.loads((tmp_path / "hits.json").read_text())
    assert written["query"] == "mild edema"
    assert written["hits"][0]["source"] == hits[0].source
    assert str(paths[order[0]].name) in shown


def test_index_holds_unit_vectors_and_the_bundle(tiny_bundle, index):
    vectors = np.load(index / "embeddings.npy", allow_pickle=False)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    items = pl.read_parquet(index / "items.parquet")
    assert items.columns == ["item", "sample", "source", "start_s", "end_s"]
    info = json.loads((index / "index.json").read_text())
    assert info["digest"] == medvlp.load(tiny_bundle("cxr")).digest
    assert info["items"] == len(items) == 17
    assert not (index / "slabs.npy").exists()


def test_more_hits_than_items_are_all_items(index):
    assert len(search("edema", index, k=100)[0]) == 17


def test_moved_bundle_is_named(tiny_bundle, index, tmp_path):
    info = json.loads((index / "index.json").read_text())
    (index / "index.json").write_text(json.dumps(info | {"bundle": str(tmp_path / "gone")}))
    with pytest.raises(InputError, match="not where it was") as refused:
        search("edema", index)
    assert "--bundle" in refused.value.remedy
    copy = shutil.copytree(tiny_bundle("cxr"), tmp_path / "moved")
    assert len(search("edema", index, bundle=copy)[0]) == 3
    with pytest.raises(InputError, match="not the one"):
        search("edema", index, bundle=tiny_bundle("video"))


def test_an_index_made_with_relative_paths_is_searched_from_anywhere(
    tiny_bundle, pictures, tmp_path, monkeypatch
):
    copy = shutil.copytree(tiny_bundle("cxr"), tmp_path / "work" / "bundle")
    shutil.copytree(pictures, tmp_path / "work" / "new")
    monkeypatch.chdir(copy.parent)
    embed_inputs(Path("bundle"), [Path("new")], Path("index"))
    monkeypatch.chdir(tmp_path)
    seen = []
    hits, _ = search("edema", Path("work/index"), look=lambda *found: seen.extend(found[1]))
    assert len(hits) == len(seen) == 3
    assert all(picture is not None for picture in seen)


def test_names_are_shown_whole_in_a_narrow_terminal(tiny_bundle, pictures, tmp_path):
    folder = tmp_path / ("deep" * 20)
    shutil.copytree(pictures, folder)
    embed_inputs(tiny_bundle("cxr"), [folder], tmp_path / "wide")
    shown = io.StringIO()
    (hit,) = search_index("edema", tmp_path / "wide", k=1, json_file=None, bundle=None,
                          console=Console(file=shown, width=80))  # fmt: skip
    cells = [line.split("│")[3].strip() for line in shown.getvalue().splitlines() if "│" in line]
    assert "".join(cells) == hit.source


def test_wrong_use_is_refused(tiny_bundle, pictures, index, tmp_path):
    with pytest.raises(InputError, match="blank"):
        search("  ", index)
    with pytest.raises(InputError, match="no index"):
        search("edema", pictures)
    with pytest.raises(InputError, match="exists already"):
        embed_inputs(tiny_bundle("cxr"), [pictures], index)
    with pytest.raises(InputError, match="none of 1 inputs"):
        embed_inputs(tiny_bundle("cxr"), [pictures / "05.png"], tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (index / "embeddings.npy").write_bytes(b"cut")
    with pytest.raises(InputError, match="damaged"):
        search("edema", index)
    assert not [p for p in tmp_path.iterdir() if "partial" in p.name]


def test_video_is_found_by_moment(tiny_bundle, tmp_path):
    (tmp_path / "films").mkdir()
    write_clip(tmp_path / "films" / "a.mp4", frames=12 * 12)
    embed_inputs(
        tiny_bundle("video"), [tmp_path / "films"], tmp_path / "index", window_s=2, stride_s=1
    )
    items = pl.read_parquet(tmp_path / "index" / "items.parquet")
    # 144 frames at 25 a second are 5.76 s: windows from 0, 1, 2, 3 and one that ends with the film.
    assert items["start_s"].to_list() == pytest.approx([0, 1, 2, 3, 3.76], abs=0.05)
    hits, shown = search("edema", tmp_path / "index", k=5, windows_only=True)
    assert hits[0].end_s - hits[0].start_s == pytest.approx(2, abs=0.01)
    assert f"{hits[0].start_s:.1f}-{hits[0].end_s:.1f} s" in shown


def windows_of(index, recordings):
    """An index whose windows have given likenesses to the unit vector e: {source: scores}."""
    index.mkdir()
    rows = [
        {"item": 0, "sample": "", "source": source, "start_s": 2.0 * i, "end_s": 2.0 * i + 4}
        for source, scores in recordings.items()
        for i in range(len(scores))
    ]
    scores = np.concatenate(list(recordings.values()))
    pl.DataFrame(rows).write_parquet(index / "items.parquet")
    vectors = np.stack([scores, np.sqrt(1 - scores**2)], axis=1).astype(np.float32)
    np.save(index / "embeddings.npy", vectors)
    return np.array([1.0, 0.0], np.float32)


def test_neighbouring_windows_that_answer_are_one_moment(tmp_path):
    low, high = 0.1, 0.9
    query = windows_of(
        tmp_path / "index",
        {"a.mp4": np.array([low] * 6), "b.mp4": np.array([low, low, high, 0.88, high, low, low])},
    )
    hits = find_moments(query, tmp_path / "index", 3)
    assert [(hit.rank, hit.source) for hit in hits] == [(1, "b.mp4"), (2, "a.mp4")]
    first = hits[0]
    # windows 2 to 4 of the second recording, from the start of the first to the end of the last
    assert (first.source, first.start_s, first.end_s) == ("b.mp4", 4.0, 12.0)
    assert first.score == pytest.approx(high)
    assert first.best == (4.0, 8.0)
    scores = np.array([low] * 10 + [high, 0.88, high])
    want = (scores[-3:] - scores.mean()).sum() / (scores.std() * np.sqrt(3))
    assert first.value == pytest.approx(want, rel=1e-5)
    single = find(query, tmp_path / "index", 2)
    assert [(hit.start_s, hit.end_s) for hit in single] == [(4.0, 8.0), (8.0, 12.0)]


def test_moments_to_look_at_do_not_overlap(tmp_path):
    peaks = np.array([0.1, 0.5, 0.9, 0.5, 0.1, 0.6, 0.1, 0.1, 0.4, 0.45])
    query = windows_of(tmp_path / "index", {"a.mp4": peaks})
    hits = sorted(find_moments(query, tmp_path / "index", 10), key=lambda hit: hit.start_s)
    assert len(hits) > 1
    assert all(one.end_s <= other.start_s for one, other in pairwise(hits))


def test_a_page_shows_moments_and_names_files_only_when_asked(tiny_bundle, tmp_path):
    films = tmp_path / "Mueller Hans"
    films.mkdir()
    write_clip(films / "a b.mp4", frames=12 * 12)
    embed_inputs(tiny_bundle("video"), [films], tmp_path / "index", window_s=2, stride_s=1)
    for names in (False, True):
        look = partial(write_hits, tmp_path / "hits.html", "<edema>", names=names)
        hits, _ = search(
            "edema", tmp_path / "index", look=look, json_file=tmp_path / "hits.json"
        )  # fmt: skip
        page = (tmp_path / "hits.html").read_text()
        assert page.count("data:image/png;base64,") == len(hits) > 0
        assert "&lt;edema&gt;" in page
        assert ("Mueller" in page) == names
        link = f'href="Mueller%20Hans/a%20b.mp4#t={hits[0].start_s:.1f}"'
        assert (link in page) == names
    written = json.loads((tmp_path / "hits.json").read_text())["hits"][0]
    assert {"rank", "score", "sample", "source", "start_s", "end_s", "depth"} <= set(written)
    assert written["value"] == hits[0].value
    (films / "a b.mp4").unlink()
    search("edema", tmp_path / "index", look=look)
    assert "no picture at hand" in (tmp_path / "hits.html").read_text()


def test_volume_is_found_with_its_depth(tiny_bundle, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    volume = np.random.default_rng(0).integers(-1000, 500, (20, 20, 12)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([2.0, 2, 3, 1])), tmp_path / "v.nii.gz")
    embed_inputs(tiny_bundle("volumetric"), [tmp_path / "v.nii.gz"], tmp_path / "index")
    hits, shown = search("edema", tmp_path / "index")
    slabs = np.load(tmp_path / "index" / "slabs.npy", allow_pickle=False)
    bundle = medvlp.load(tiny_bundle("volumetric"))
    best = int(np.argmax(slabs[0].astype(np.float32) @ bundle.embed_text("edema")[0]))
    assert hits[0].depth == (best / slabs.shape[1], (best + 1) / slabs.shape[1])
    assert "depth" in shown


def test_equal_scores_keep_the_order_of_items(index):
    vectors = np.load(index / "embeddings.npy", allow_pickle=False)
    vectors[:] = vectors[0]
    np.save(index / "embeddings.npy", vectors)
    hits = find(vectors[0], index, 4)
    items = pl.read_parquet(index / "items.parquet")
    assert [hit.source for hit in hits] == items["source"][:4].to_list()
