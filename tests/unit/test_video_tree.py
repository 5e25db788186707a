"""The text tree of a recording, and what is said of one that contradicts itself."""

import pytest

from medvlp.archive.intake import Intake
from medvlp.archive.options import IndexConfig
from medvlp.archive.privacy.pseudonyms import Pseudonyms
from medvlp.archive.verdict import Reject
from medvlp_video.recordings import recording
from medvlp_video.spans import checked_span, overlapping, seconds_of
from medvlp_video.tree import Passage, remark_hierarchy, write_texts


@pytest.fixture
def tree(tmp_path):
    """``tree(passages, regions)``: rows by their words, flags, notes and codes by row."""
    file = tmp_path / "film.mp4"
    file.write_bytes(b"film")

    def write(passages, regions=()):
        intake = Intake(tmp_path, IndexConfig(), Pseudonyms(bytes(32)), "video")
        sample = intake.accept([file], kind="video", patient="P", duration_s=100.0)
        write_texts(intake, sample, passages)
        remark_hierarchy(intake, sample, passages, regions)
        tables, _, info, _ = intake.finish()
        (row,) = tables["samples"]
        rows = {text["text"]: text for text in tables["texts"]}
        codes = [reject["code"] for reject in tables["rejects"]]
        return rows, set(row["flags"]) - {"no_text"}, info["notes"], codes

    write.table = file
    return write


def passage(text, level, span=None, source="table", place=None, **more):
    return Passage(level=level, text=text, source=source, span=span, place=place, **more)


def test_texts_of_one_source_overlap_and_of_two_do_not(tree):
    told = [
        passage("a", "phase", (0, 10)), passage("b", "phase", (10, 20)),
        passage("c", "phase", (8, 12), source="keystep"),
        passage("d", "clip", (1, 5), source="asr:aws"),
        passage("e", "clip", (2, 6), source="asr:whisper"),
    ]  # fmt: skip
    assert tree(told)[1:] == (set(), {}, [])
    told.append(passage("f", "phase", (19, 30)))
    assert tree(told)[1:] == ({"overlapping_spans"}, {"overlapping_spans": 1}, [])


def test_phases_may_not_overlap_among_regions_and_instruments_may(tree):
    regions = [("instrument:hook", (0, 9)), ("instrument:grasper", (0, 9)), ("step:x", (0, 9))]
    assert tree([], [*regions, ("phase:a", (0, 5)), ("phase:b", (5, 9))])[1:] == (set(), {}, [])
    flags = tree([], [*regions, ("phase:a", (0, 5)), ("phase:a", (4, 9)), ("step:y", (8, 9))])[1:]
    assert flags == ({"overlapping_spans"}, {"overlapping_spans": 2}, [])


def test_clips_and_steps_outside_every_phase_are_counted(tree):
    told = [passage("s", "step", (30, 40)), passage("c", "clip", (1, 3)), passage("whole", "clip")]
    assert tree(told)[1:] == (set(), {}, [])  # a recording without phases has nothing to lie in
    assert tree(told, [("phase:a", (0, 20))])[1:] == ({"outside_phases"}, {"outside_phases": 1}, [])
    told.append(passage("p", "phase", (35, 50)))
    assert tree(told)[2] == {"outside_phases": 1}


def test_parents_that_cannot_be_are_listed_and_the_text_stays(tree):
    told = [
        passage("root", "procedure", (0, 90), node="r"),
        passage("p", "phase", (0, 40), node="p", parent="r"),
        passage("lost", "step", (1, 2), parent="nobody", place=(tree.table, 1)),
        passage("level", "phase", (50, 60), parent="p", place=(tree.table, 2)),
        passage("elsewhere", "step", (60, 70), parent="p", place=(tree.table, 3)),
        passage("drifts", "clip", (60, 70), parent="p"),
    ]  # fmt: skip
    rows, flags, notes, codes = tree(told)
    assert sorted(codes) == [
        "orphan_text", "orphan_text", "span_outside_parent",
    ]  # fmt: skip
    assert [rows[name]["parent"] for name in ("lost", "level", "elsewhere")] == [None] * 3
    assert rows["drifts"]["parent"] == rows["p"]["node"]
    assert flags == {"orphan_texts", "outside_parent", "outside_phases"}
    assert (notes["orphan_texts"], notes["outside_parent"]) == (3, 1)


def test_rounding_is_cut_at_the_parents_edge_and_more_is_another_parent(tree):
    told = [
        passage("root", "procedure", (0, 41)), passage("p", "phase", (38, 41.008)),
        passage("s", "step", (37.5, 40)), passage("t", "step", (30, 40)),
        passage("c", "clip", (37, 60)),
    ]  # fmt: skip
    rows, *_ = tree(told)
    assert (rows["p"]["start_s"], rows["p"]["end_s"], rows["p"]["parent"]) == (
        38,
        41,
        rows["root"]["node"],
    )
    assert (rows["s"]["start_s"], rows["s"]["parent"]) == (38, rows["p"]["node"])
    assert (rows["t"]["start_s"], rows["t"]["parent"]) == (30, rows["root"]["node"])
    assert rows["c"]["parent"] is None  # its middle lies beyond them all


@pytest.mark.parametrize(
    ("span", "code"),
    [((5, 3), "inverted_span"), ((5, 5), "inverted_span"), ((-1, 3), "span_outside"),
     ((100, 101), "span_outside"), ((99, 101.1), "span_outside"), ((float("nan"), 3), "not_a_time"),
     ((3, float("inf")), "not_a_time")],
)  # fmt: skip
def test_spans_that_cannot_be_are_refused(span, code):
    with pytest.raises(Reject, match=code):
        checked_span(span, 100)
    assert checked_span((99, 100.9), 100) == (99, 100)


def test_times_and_overlaps():
    assert (seconds_of("1:02:03.5"), seconds_of("12"), seconds_of(None)) == (3723.5, 12, None)
    with pytest.raises(Reject, match="not_a_time"):
        seconds_of("soon")
    assert overlapping([(0, 1), (1, 2)]) == 0
    assert overlapping([(0, 9), (1, 2), (3, 4)]) == 2  # both lie in the first


@pytest.mark.parametrize(
    ("path", "name"),
    [("CholecTrack20/Testing/VID07/VID07.mp4", "cholec:7"),
     ("cholec80/frames/video01/1.png", "cholec:1"),
     ("x/SBP70.mp4", "multibypass140:SBP70"), ("frames/BBP01/img1.jpg", "multibypass140:BBP01"),
     ("GraSP_30fps/frames/CASE001/000000000.jpg", "grasp:1"), ("PSI-AVA/CASE021.mp4", "grasp:21"),
     ("grasping/CASE021.mp4", None), ("mine/CASE021.mp4", None), ("cholec80/VID1234.mp4", None)],
)  # fmt: skip
def test_recordings_that_sets_share(tmp_path, path, name):
    assert recording([tmp_path / path]) == name
