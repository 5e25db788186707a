"""Source kinds of the video domain, on small archives written here."""

import json
from collections import Counter

import numpy as np
import polars as pl
import pytest
from PIL import Image

from medvlp.archive.intake import Intake
from medvlp.archive.options import IndexConfig
from medvlp.archive.privacy.pseudonyms import Pseudonyms
from medvlp.errors import ArchiveError, ConfigError
from medvlp_video.sets.cholect50 import index_cholect50
from medvlp_video.source import index_video


def index(root, kind=index_video, **options):
    intake = Intake(root, IndexConfig(options=options), Pseudonyms(bytes(32)), "video")
    kind(root, intake)
    tables, sources, info, _ = intake.finish()
    return tables, sources, info


def write_frames(folder, numbers, seed=0):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in numbers:
        pixels = rng.integers(0, 256, (24, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:06d}.png")


def write_csv(path, rows):
    pl.DataFrame(rows, strict=False).write_csv(path)


@pytest.fixture
def archive(tmp_path):
    root = tmp_path / "archive"
    write_frames(root / "A", range(30), seed=1)
    write_frames(root / "B", range(10), seed=2)
    return root


def text(node, level, start_s, end_s, words="words", **more):
    row = {"video": "A", "node": node, "level": level, "start_s": start_s, "end_s": end_s}
    return {**row, "text": words, "parent": None, **more}


def test_texts_form_a_tree_by_parents_or_by_time(archive):
    write_csv(
        archive / "talk.csv",
        [
            text("c1", "clip", "0:00:02", "0:00:05", "by time"),
            text("c2", "clip", 21, 24, "by name", parent="s1"),
            text("s1", "step", 0, 10),
            text("s2", "step", 20, 25),
            text("p", "procedure", None, None),
            text("f", "phase", 0, 30),
        ],
    )
    tables, _, info = index(archive, texts="talk.csv")
    rows = {row["text"]: row for row in tables["texts"] if row["level"] == "clip"}
    steps = {row["start_s"]: row for row in tables["texts"] if row["level"] == "step"}
    phase = next(row for row in tables["texts"] if row["level"] == "phase")
    root = next(row for row in tables["texts"] if row["level"] == "procedure")
    assert rows["by time"]["parent"] == rows["by name"]["parent"] == steps[0.0]["node"]
    assert (rows["by time"]["start_s"], rows["by time"]["end_s"]) == (2.0, 5.0)
    assert {step["parent"] for step in steps.values()} == {phase["node"]}
    assert phase["parent"] == root["node"]
    assert root["parent"] is None
    assert info["counts"] == {"found": 41, "accepted": 41, "quarantined": 0, "ignored": 0}


def test_bad_spans_and_unknown_videos_are_listed_by_row(archive):
    write_csv(
        archive / "talk.csv",
        [
            text("a", "clip", 5, 3),
            text("b", "clip", 28, 60),
            text("c", "clip", 29, 30.9, "kept"),
            text("d", "clip", "soon", 3),
            text("e", "chapter", 1, 3),
            text("f", "clip", 1, None),
            text("g", "clip", 1, 2, None),
            {**text("h", "clip", 1, 2), "video": "C"},
        ],
    )
    tables, _, info = index(archive, texts="talk.csv")
    codes = sorted(row["code"] for row in tables["rejects"])
    assert codes == [
        "blank", "half_span", "inverted_span", "not_a_time", "span_outside", "unknown_level",
        "unknown_video",
    ]  # fmt: skip
    assert [(row["text"], row["end_s"]) for row in tables["texts"]] == [("kept", 30.0)]
    assert info["notes"]["rows_refused"] == 6
    assert info["notes"]["rows_unmatched"] == 1
    flags = {row["shape"][0]: row["flags"] for row in tables["samples"]}
    assert flags == {
        30: ["patient_is_video", "rows_refused"], 10: ["no_text", "patient_is_video"],
    }  # fmt: skip


def test_intervals_boxes_and_patients_come_from_tables_with_the_users_columns(archive):
    write_csv(
        archive / "phases.csv",
        [
            {"VideoID": "A", "Start": 0, "End": 12.5, "labelID": "phase:x"},
            {"VideoID": "A", "Start": None, "End": None, "labelID": "robotic"},
        ],
    )
    write_csv(archive / "who.csv", [{"VideoID": name, "Case": "case 7"} for name in "AB"])
    write_csv(
        archive / "boxes.csv",
        [
            {"VideoID": "A", "time_s": 3, "labelID": "hook", "x0": 0.1, "y0": 0.2, "x1": 0.5,
             "y1": 0.6},
            {"VideoID": "A", "time_s": 3, "labelID": "hook", "x0": 0.5, "y0": 0.2, "x1": 0.1,
             "y1": 0.6},
        ],
    )  # fmt: skip
    columns = {
        "video": "VideoID", "start_s": "Start", "end_s": "End", "name": "labelID",
        "patient": "Case",
    }  # fmt: skip
    tables, *_ = index(
        archive, intervals="phases.csv", videos="who.csv", boxes="boxes.csv", columns=columns
    )
    assert len({row["patient"] for row in tables["samples"]}) == 1
    assert [(r["name"], r["value"]) for r in tables["labels"]] == [("robotic", 1)]
    interval, box = tables["regions"]
    assert (interval["name"], interval["kind"]) == ("phase:x", "interval")
    assert interval["geometry"] == [0.0, 12.5]
    assert (box["kind"], box["geometry"], box["ref"]) == ("box", [0.1, 0.2, 0.5, 0.6], "t=3")
    assert [row["code"] for row in tables["rejects"]] == ["bad_box"]


def test_a_wrong_table_or_option_is_refused_in_one_line(archive):
    write_csv(archive / "talk.csv", [{"video": "A", "words": "x"}])
    with pytest.raises(ArchiveError, match="no column text; remedy: name the columns"):
        index(archive, texts="talk.csv")
    with pytest.raises(ConfigError, match="narration"):
        index(archive, narration="talk.csv")
    with pytest.raises(ConfigError, match="neither in the source folder"):
        index(archive, texts="no.csv")


def test_bad_videos_are_quarantined_and_the_rest_goes_on(archive):
    (archive / "empty.mp4").touch()
    (archive / "readme.md").write_text("x")
    tables, _, info = index(archive)
    assert info["counts"] == {"found": 42, "accepted": 40, "quarantined": 1, "ignored": 1}
    assert {(row["stage"], row["code"]) for row in tables["rejects"]} == {
        ("decode", "empty"),
        ("ignored", "no_video"),
    }
    assert {row["reader"] for row in tables["samples"]} == {"frames"}


NAMES = {
    "instrument": {"0": "grasper", "2": "hook"},
    "verb": {"1": "retract", "2": "dissect", "9": "null_verb"},
    "target": {"0": "gallbladder", "14": "null_target"},
    "phase": {"0": "preparation", "1": "carlot-triangle-dissection"},
    "triplet": {"17": "grasper,retract,gallbladder", "60": "hook,dissect,gallbladder"},
}


def frame_row(triplet, instrument, box, phase):
    return [triplet, instrument, 1.0, *box, 1, 0, 1.0, -1.0, -1.0, -1.0, -1.0, phase]


@pytest.fixture
def cholect50(tmp_path):
    root = tmp_path / "cholect50"
    write_frames(root / "videos" / "VID01", [3, 4, 5, 9, 10])
    (root / "labels").mkdir()
    grasper = frame_row(17, 0, (0.5, 0.25, 0.75, 0.5), 0)
    hook = frame_row(60, 2, (-1.0, -1.0, -1.0, -1.0), 1)
    annotations = {"3": [grasper], "4": [grasper, frame_row(-1, -1, (-1,) * 4, 0)], "5": [hook],
                   "9": [hook], "77": [hook]}  # fmt: skip
    labels = {"categories": NAMES, "annotations": annotations}
    (root / "labels" / "VID01.json").write_text(json.dumps(labels))
    (root / "labels" / "VID02.json").write_text(json.dumps(labels))
    return root


def test_cholect50_labels_become_intervals_boxes_and_marked_sentences(cholect50):
    tables, _, info = index(cholect50, index_cholect50)
    intervals = {(r["name"], *r["geometry"]) for r in tables["regions"] if r["kind"] == "interval"}
    assert intervals == {
        ("phase:preparation", 3, 5),
        ("phase:carlot-triangle-dissection", 5, 6),
        ("phase:carlot-triangle-dissection", 9, 10),
        ("triplet:grasper,retract,gallbladder", 3, 5),
        ("triplet:hook,dissect,gallbladder", 5, 6),
        ("triplet:hook,dissect,gallbladder", 9, 10),
        ("instrument:grasper", 3, 5),
        ("instrument:hook", 5, 6),
        ("instrument:hook", 9, 10),
    }
    boxes = [(r["ref"], r["geometry"]) for r in tables["regions"] if r["kind"] == "box"]
    assert boxes == [("t=3", [0.5, 0.25, 1.0, 0.75]), ("t=4", [0.5, 0.25, 1.0, 0.75])]
    assert {row["source"] for row in tables["texts"]} == {"synthetic:labels"}
    told = {(row["level"], row["text"], row["start_s"]) for row in tables["texts"]}
    assert ("phase", "Calot triangle dissection.", 9.0) in told
    assert ("clip", "The grasper is used to retract the gallbladder.", 3.0) in told
    assert [(r["stage"], r["code"]) for r in tables["rejects"]] == [("join", "missing_frames")]
    assert info["counts"] == {"found": 7, "accepted": 6, "quarantined": 1, "ignored": 0}
    assert info["notes"] == {"labels_without_frame": 1, "frames_without_label": 1}


def test_published_videos_go_to_the_split_that_names_them(cholect50):
    tables, *_ = index(cholect50, index_cholect50, splits={"test": [1, 51], "valid": [2]})
    assert [row["source_split"] for row in tables["samples"]] == ["test"]
    tables, *_ = index(cholect50, index_cholect50, splits={"train": [7]})
    assert [row["source_split"] for row in tables["samples"]] == [None]
    with pytest.raises(ConfigError, match="videos 1 stand there twice"):
        index(cholect50, index_cholect50, splits={"test": [1], "train": [1]})


def test_cholect50_file_of_another_layout_is_quarantined(cholect50):
    (cholect50 / "labels" / "VID01.json").write_text('{"categories": {}, "annotations": {"1": 3}}')
    tables, *_ = index(cholect50, index_cholect50)
    assert {(r["stage"], r["code"]) for r in tables["rejects"]} == {
        ("join", "missing_frames"),
        ("read", "bad_labels"),
    }
    assert len(tables["samples"]) == 1
    assert tables["texts"] == []


def test_real_cholect50_frames(shared):
    root = shared / "data" / "surg-cholect50"
    tables, _, info = index(root, index_cholect50)
    assert info["counts"] == {"found": 181, "accepted": 177, "quarantined": 1, "ignored": 3}
    phases = {r["name"] for r in tables["regions"] if r["name"].startswith("phase:")}
    assert len(phases) == 7
    assert info["notes"]["frames_without_label"] == 16


def test_real_segments_without_their_videos(shared, tmp_path):
    """Labels alone are published; two frames stand in for the first of the 296 videos."""
    table = (shared / "data/surg-surch-labels/segments.csv").read_bytes()
    (tmp_path / "segments.csv").write_bytes(table)
    write_frames(tmp_path / "video001", (0, 5099))
    columns = {"video": "VideoID", "name": "labelID", "start_s": "StartTime", "end_s": "EndTime"}
    tables, _, _ = index(tmp_path, intervals="segments.csv", columns=columns)
    found = [(row["name"], row["geometry"]) for row in tables["regions"]]
    assert len(found) == 10
    assert found[1] == ("BN", [2759.0, 3104.0])
    assert found[-1] == ("etc", [4963.0, 5071.633])
    codes = Counter(row["code"] for row in tables["rejects"])
    assert codes == {"unknown_video": 3746}


@pytest.mark.slow
def test_real_clips(shared):
    tables, _, info = index(
        shared / "data" / "surg-cctpg-mp4" / "dataset" / "similarity score above 0.985"
    )
    assert info["counts"] == {"found": 3, "accepted": 2, "quarantined": 1, "ignored": 0}
    assert {tuple(row["shape"]) for row in tables["samples"]} == {(800, 480, 854)}
    assert "no_video_stream" in {row["code"] for row in tables["rejects"]}
