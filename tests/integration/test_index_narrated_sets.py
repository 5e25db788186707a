"""Published sets of narrated and described video, and the hierarchy of their texts."""

import sqlite3

import pytest
from minifilms import film, frames, texts, timed
from minisets import Indexed, write

from medvlp.archive.duplicates.across import compare_manifests
from medvlp.data.manifest import write_manifest
from medvlp.errors import ArchiveError

VD01, VD02 = "videos/vd01/000000.png", "videos/vd02/000000.png"


@pytest.fixture(scope="module")
def svl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("svl")
    root = folder / "data"
    frames(root / "videos/vd01", (0, 39))
    frames(root / "videos/vd02", (0, 9))
    film(root / "videos/other.mp4")
    head = "start,end,text\n"
    told = {
        "aws_narration_texts/vd01": f"{head}1,4,we open\n3,6,we clip\n30,36,we close\n9,,no end\n",
        "whisper_narration_texts/vd01": f"{head}0.0,5.5,today we open\n50,60,too late\n",
        "keystep_texts/vd01": "start,end,step,text\n0,20,Access,A port\n20,28,Clipping,\n",
        "abstract_texts/vd01": f'{head}0,41,"Title: X. Abstract: a, b"\n',
        "keystep_texts/vd02": f"{head}0,9,Suture\n",
        "keystep_texts/gone": f"{head}0,9,Suture\n",
        "keystep_texts/torn": "begin,words\n0,Suture\n",
        "splits/train_narration": "video_path\nvd01.mp4\n",
        "splits/train_keystep": "video_path\nvd01.mp4\ngone.mp4\n",
        "splits/val": "video_path\nvd02.mp4\nvd01.mp4\n",
    }  # fmt: skip
    for name, text in told.items():
        write(root / f"{name}.csv", text)
    return Indexed(root, "svl", folder / "m"), folder


def test_svl_texts_of_all_sources_hang_in_one_tree(svl):
    found, _ = svl
    assert texts(found, VD01) == [
        ("procedure", "abstract", 0.0, 40.0, "Title: X. Abstract: a, b"),
        ("phase", "keystep", 0.0, 20.0, "Access"),
        ("phase", "llm:keystep", 0.0, 20.0, "A port"),
        ("phase", "keystep", 20.0, 28.0, "Clipping"),
        ("clip", "asr:whisper", 0.0, 5.5, "today we open"),
        ("clip", "asr:aws", 1.0, 4.0, "we open"),
        ("clip", "asr:aws", 3.0, 6.0, "we clip"),
        ("clip", "asr:aws", 30.0, 36.0, "we close"),
    ]
    rows = found.manifest.texts.to_dicts()
    by_words = {row["text"]: row for row in rows}
    above = {row["node"]: row["text"] for row in rows}
    parent = {words: above.get(row["parent"]) for words, row in by_words.items()}
    assert parent["Access"] == parent["we close"] == "Title: X. Abstract: a, b"
    assert parent["today we open"] == parent["we clip"] == "Access"


def test_svl_says_what_contradicts_itself(svl):
    found, _ = svl
    # One recogniser says two things at once; one clip lies in no phase.
    flags = {"overlapping_spans", "outside_phases", "rows_refused", "patient_is_video"}
    assert flags <= set(found.samples[VD01]["flags"])
    # Of the video whose only table is torn nothing is known.
    assert found.notes == {
        "overlapping_spans": 1, "outside_phases": 1, "recordings_without_video": 1,
    }  # fmt: skip
    assert found.codes == sorted([
        ("row", "half_span"), ("row", "span_outside"), ("row", "split_conflict"),
        ("join", "missing_frames"), ("read", "bad_labels"), ("join", "no_row"),
    ])  # fmt: skip
    assert found.columns("source_split") == {
        VD01: ("train",), VD02: ("valid",),
    }  # fmt: skip


def test_svl_texts_are_taken_without_their_video_where_that_is_asked_for(tmp_path):
    root = tmp_path / "data"
    write(root / "keystep_texts/gone.csv", "start,end,text\n0,9,Suture\n")
    write(root / "splits/test.csv", "video_path\ngone.mp4\n")
    found = Indexed(root, "svl", tmp_path / "m", "options.without_video=true")
    row = found.samples["keystep_texts/gone.csv"]
    assert (row["kind"], row["source_split"], row["duration_s"]) == ("report", "test", None)
    assert found.codes == []


def database(path, captions, view=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE videos (video_id INTEGER, name TEXT, youtube_id TEXT, fps REAL)")
        base.executemany(
            "INSERT INTO videos VALUES (?,?,?,25)", [(1, "lap", "yt1"), (2, "eye", "yt2")]
        )
        base.execute(
            "CREATE TABLE told (caption_id INTEGER, video_id INTEGER, level_id INTEGER,"
            " start_time REAL, end_time REAL, duration REAL, caption TEXT, raw_narration TEXT,"
            " is_descriptive INTEGER, is_surgical_content INTEGER)"
        )
        base.executemany("INSERT INTO told VALUES (?,?,?,?,?,?,?,?,?,?)", captions)
        base.execute(
            "CREATE VIEW captions AS SELECT * FROM told"
            if view
            else "ALTER TABLE told RENAME TO captions"
        )
    base.close()
    return path


def caption(number, level, start, end, words="The duct is clipped.", video=1, kept=1):
    return (number, video, level, start, end, None, words, "we clip it", 1, kept)


CAPTIONS = [
    caption(1, 3, 0, 30, "Exposure"), caption(2, 2, 5, 12, "The port is placed"),
    caption(3, 1, 6, 8, "A trocar enters"), caption(4, 1, 9, 700), caption(5, 1, 9, 10, kept=0),
    caption(6, 4, 9, 10), caption(7, 1, 9, 8), caption(8, 1, 9, 10, video=7),
    caption(9, 1, 9, 10, ""), caption(10, 2, 25, 35, "Beyond its phase"),
    caption(11, 1, 1, 2, "An eye", video=2),
]  # fmt: skip


def test_surglavi_captions_of_three_levels(tmp_path):
    root = tmp_path / "surglavi"
    database(root / "surglavi_beta.db", CAPTIONS)
    frames(root / "videos/lap", (0, 39))
    found = Indexed(root, "surglavi", tmp_path / "m")
    assert texts(found, "videos/lap/000000.png") == [
        ("phase", "llm:caption", 0.0, 30.0, "Exposure"),
        ("step", "llm:caption", 5.0, 12.0, "The port is placed"),
        ("step", "llm:caption", 25.0, 35.0, "Beyond its phase"),
        ("clip", "llm:caption", 6.0, 8.0, "A trocar enters"),
    ]
    parents = dict(found.manifest.texts.select("text", "parent").iter_rows())
    assert parents["Beyond its phase"] is None  # it leaves the only phase by five seconds
    assert found.notes == {
        "captions_filtered": 1, "captions_too_long": 1, "outside_phases": 1,
        "recordings_without_video": 1,
    }  # fmt: skip
    assert found.codes == [
        ("row", "blank"), ("row", "inverted_span"), ("row", "unknown_level"),
        ("row", "unknown_video"),
    ]  # fmt: skip


def test_surglavi_without_videos_is_texts_alone(tmp_path):
    root = tmp_path / "surglavi"
    database(root / "surglavi_beta.db", CAPTIONS)
    found = Indexed(
        root, "surglavi", tmp_path / "m", "options.without_video=true", "options.text=both",
        "options.longest_s=null", "options.filtered=false",
    )  # fmt: skip
    assert found.manifest.samples["kind"].to_list() == ["report", "report"]
    sources = found.manifest.texts["source"].value_counts().sort("source").rows()
    assert sources == [("asr:narration", 8), ("llm:caption", 7)]
    assert not list(root.glob("*-*"))  # nothing was written beside the database


def test_a_database_that_is_a_program_is_refused(tmp_path):
    root = tmp_path / "surglavi"
    database(root / "surglavi_beta.db", CAPTIONS, view=True)
    with pytest.raises(ArchiveError, match=r"surglavi_beta\.db cannot be read"):
        Indexed(root, "surglavi", tmp_path / "m")
    (root / "surglavi_beta.db").write_bytes(b"SQLite format 3\0" + bytes(2000))
    with pytest.raises(ArchiveError, match=r"surglavi_beta\.db cannot be read"):
        Indexed(root, "surglavi", tmp_path / "n")


def test_lime_clips_with_their_texts_and_confidences(tmp_path, monkeypatch):
    # As on a machine without decord, which the videos of another set are tried with.
    monkeypatch.setattr("medvlp_video.source.has_decord", lambda: False)
    root = tmp_path / "LIME"
    for name in ("op1/a", "op1/b", "op2/a", "op2/c"):
        film(root / f"{name}.mp4")
    write(root / "op1/a.txt", "The surgeon dissects.\n")
    write(root / "op2/a.txt", "  \n")
    write(root / "op2/z.txt", "Nobody filmed this.")
    write(root / "README.txt", "LIME")
    head = "video_path,text,confidence_weight"
    lines = ["/data/LIME/op1/a.mp4,x,0.25", "/data/LIME/op1/b.mp4,From the table,1.5",
             "/data/LIME/op2/c.mp4,From the table,0.5", "/data/LIME/op9/q.mp4,x,1"]  # fmt: skip
    write(root / "cache.csv", "\n".join([head, *lines]))
    found = Indexed(root, "lime", tmp_path / "m")
    rows = found.manifest.texts.select("text", "level", "source", "confidence", "start_s").rows()
    assert sorted(rows) == [
        ("From the table", "clip", "llm:narrative", 0.5, None),
        ("The surgeon dissects.", "clip", "llm:narrative", 0.25, None),
    ]
    people = {name: row["patient"] for name, row in found.samples.items()}
    assert people["op1/a.mp4"] == people["op1/b.mp4"] != people["op2/a.mp4"] == people["op2/c.mp4"]
    assert found.notes == {"rows_without_video": 1}
    assert found.codes == [
        ("ignored", "not_of_the_set"), ("join", "missing_frames"), ("read", "empty_report"),
        ("row", "not_a_number"),
    ]  # fmt: skip


CASE = "videos/case_0002/000000.png"


def test_ophnet_phases_of_several_operations_become_one(tmp_path):
    root = tmp_path / "OphNet2024"
    frames(root / "videos/case_0002", (0, 39))
    frames(root / "videos/case_0007", (0, 9))
    film(root / "trimmed/case_0007/case_0007_0.mp4")
    head = "video_id,start,end,split,surgery_id,phase_id,operation_id"
    lines = [
        "case_0002,0,10,train,5,3,2", "case_0002,10.5,15,train,5,3,8",
        "case_0002,14.7,20,train,0,1,0", "case_0002,20,22,val,0,1,0",
        "case_0007,0,5,test,0,one,0", "case_0009,0,5,test,0,1,0",
    ]  # fmt: skip
    write(root / "annotation/OphNet2024_loca_all.csv", "\n".join([head, *lines]))
    write(root / "annotation/OphNet2024_loca_challenge.csv", head + "\n")
    write(root / "annotation/OphNet2024_surgery.csv", 'video_id,surgery\ncase_0007,"0,5"\n')
    write(root / "names.csv", "kind,id,name\nphase,3,Drape\nphase,1,Phaco\nsurgery,5,Other\n")
    found = Indexed(root, "ophnet", tmp_path / "m", "options.names=names.csv")
    assert timed(found, CASE) == [
        ("step:2", 0, 10), ("phase:Drape", 0, 15), ("step:8", 10.5, 15), ("phase:Phaco", 14.7, 20),
        ("step:0", 14.7, 20),
    ]  # fmt: skip
    # The publishers' spans overlap by a little; that is said, and nothing is cut.
    assert "overlapping_spans" in found.samples[CASE]["flags"]
    assert found.labels("surgery:Other") == {CASE: 1, "videos/case_0007/000000.png": 1}
    assert ("phase", "synthetic:labels", 0.0, 15.0, "Drape.") in texts(found, CASE)
    assert found.codes == [
        ("ignored", "not_selected"), ("join", "no_row"), ("row", "bad_labels"),
        ("row", "split_conflict"),
    ]  # fmt: skip
    assert found.columns("source_split")[CASE] == ("train",)


def manifest(folder, split, path):
    """A hand-written manifest of one recording."""
    sample = {"sample": split, "domain": "video", "patient": split, "study": split,
              "source": "src", "sha256": f"{hash(path) & 0xFFFF:064x}", "kind": "video",
              "split": split, "duration_s": 10.0}  # fmt: skip
    tables = {"samples": [sample], "texts": [], "labels": [], "regions": []}
    sources = [{"source": "src", "part": 0, "path": str(path)}]
    write_manifest(folder, tables, sources, {"key_id": "k", "counts": {}}, key=b"k" * 32)
    return folder


def test_published_recordings_are_found_by_where_they_lie(tmp_path):
    one = manifest(tmp_path / "a", "train", tmp_path / "Cholec80/video07.mp4")
    two = manifest(tmp_path / "b", "test", tmp_path / "CholecTrack20/VID07/VID07.mp4")
    three = manifest(tmp_path / "c", "valid", tmp_path / "elsewhere/video07.mp4")
    together = compare_manifests([one, two, three])
    assert (together.exact, together.recordings, together.across_splits) == (0, 2, 2)
    assert "one published recording 2" in str(together)
