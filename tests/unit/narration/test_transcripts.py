"""Every form of transcript as the same speech; whatever else stands in a file as a code."""

import json
import math
import os
from collections import Counter

import numpy as np
import pytest

from medvlp.archive.verdict import Reject, Verdict
from medvlp.errors import InputError
from medvlp_video.narration.lexicon import load_lexicon
from medvlp_video.narration.narrative import listen
from medvlp_video.narration.settings import NarrationConfig
from medvlp_video.narration.speech import Segment, Transcript, believed
from medvlp_video.narration.transcripts import LARGEST, find_transcripts, read_transcript

SAID = [(0.5, 2.25, "We clip the duct."), (3723.0, 3725.5, "Then we cut it.")]
SRT = """1
00:00:00,500 --> 00:00:02,250
We clip the duct.

2
01:02:03,000 --> 01:02:05,500
<i>Then we</i>
{\\an8}cut it.
"""
VTT = """WEBVTT - made by hand

NOTE nothing of this is said

STYLE
::cue { color: red }

00:00.500 --> 00:02.250 align:start
<v Surgeon>We clip the duct.</v>

01:02:03.000 --> 01:02:05.500
Then we cut it.
"""


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def spoken(path):
    return [(s.start_s, s.end_s, s.text) for s in read_transcript(path).segments]


def test_all_forms_say_the_same(tmp_path):
    rows = [{"id": i, "start": a, "end": b, "text": f" {t}"} for i, (a, b, t) in enumerate(SAID)]
    whisper = {"text": "...", "segments": rows, "language": "en"}
    table = "start,end,text\n0.5,2.25,We clip the duct.\n1:02:03,1:02:05.5,Then we cut it.\n"
    for name, content in (
        ("a.json", whisper), ("b.json", rows), ("a.srt", SRT), ("a.vtt", VTT), ("a.csv", table),
        ("b.csv", table.replace("start,end", "start_s,end_s").replace(",", ";")),
    ):  # fmt: skip
        assert spoken(write(tmp_path / name, content)) == SAID, name
    assert read_transcript(tmp_path / "a.json").language == "en"


def test_subtitles_of_windows(tmp_path):
    path = tmp_path / "a.srt"
    path.write_bytes(b"\xef\xbb\xbf" + SRT.replace("\n", "\r\n").encode())
    assert spoken(path) == SAID


def test_confidence_is_the_recognisers(tmp_path):
    row = {"start": 0, "end": 1, "text": "We clip.", "avg_logprob": -0.5, "no_speech_prob": 0.2}
    words = [
        {"word": " We", "start": 0.0, "end": 0.25, "probability": 0.75},
        {"word": " clip.", "start": 0.5, "end": 1.0, "score": 0.5},
    ]
    (segment,) = read_transcript(write(tmp_path / "a.json", [{**row, "words": words}])).segments
    assert segment.confidence == pytest.approx(math.exp(-0.5) * 0.8)
    assert [w.confidence for w in segment.words] == [0.75, 0.5]
    write(tmp_path / "a.csv", "start,end,text,confidence\n0,1,We clip.,0.25\n1,2,We cut.,much\n")
    told = [s.confidence for s in read_transcript(tmp_path / "a.csv").segments]
    assert told == [0.25, None]


def test_rolling_captions_count_once_and_keep_the_times_of_words(tmp_path):
    text = """WEBVTT

00:00:00.000 --> 00:00:02.000
{blank}
we<00:00:00.500><c> clip</c><00:00:01.000><c> the</c>

00:00:02.000 --> 00:00:02.010
we clip the

00:00:02.010 --> 00:00:04.000
we clip the
cystic<00:00:03.000><c> duct</c>

00:00:09.000 --> 00:00:10.000
cystic duct
"""
    path = write(tmp_path / "a.vtt", text.format(blank=" "))
    first, second, third = read_transcript(path).segments
    assert [s.text for s in (first, second, third)] == ["we clip the", "cystic duct", "cystic duct"]
    assert [(w.text, w.start_s) for w in first.words] == [("we", 0), ("clip", 0.5), ("the", 1)]
    assert [(w.text, w.start_s, w.end_s) for w in second.words] == [
        ("cystic", 2.01, 3.0), ("duct", 3.0, 4.0),
    ]  # fmt: skip
    assert third.words == ()


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.json", b"{", "bad_json"),
        ("a.json", b"[" * 100_000, "bad_json"),
        ("a.json", b"\xff\xfe\x00", "bad_json"),
        ("a.json", b"{}", "no_transcript"),
        ("a.json", b'{"segments": 3}', "no_transcript"),
        ("a.json", b'{"segments": [3]}', "no_transcript"),
        ("a.json", b'{"segments": []}', "no_transcript"),
        ("a.srt", b"no times at all", "no_transcript"),
        ("a.srt", b"\x00\x01\x02\x03" * 9, "text_binary"),
        ("a.vtt", b"%PDF-1.7", "text_binary"),
        ("a.csv", b"start,text\n1,x\n", "no_transcript"),
        ("a.csv", b"", "no_table"),
        ("a.csv", b'start,end,text\n1,2,"open', "no_table"),
    ],
)
def test_files_that_are_no_transcript(tmp_path, name, content, code):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Reject) as refused:
        read_transcript(tmp_path / name)
    assert refused.value.code == code


def test_a_file_too_large_is_not_read(tmp_path):
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(Reject, match="file_too_large"):
        read_transcript(tmp_path / "a.json")


BAD_TIMES = [None, "soon", True, float("nan"), float("inf"), -1, 10**400, 1e300, [1]]


@pytest.mark.parametrize("start", BAD_TIMES)
def test_a_segment_without_sound_times_is_dropped_and_told(tmp_path, start):
    rows = [{"start": start, "end": 5, "text": "lost"}, {"start": 1, "end": 2, "text": "kept"}]
    kept, dropped = believed(read_transcript(write(tmp_path / "a.json", rows)))
    assert [s.text for s in kept] == ["kept"]
    assert [(d.reason, d.text) for d in dropped] == [("bad_row", "lost")]


def test_rows_of_tables_and_cues_that_run_backwards_are_told(tmp_path):
    write(tmp_path / "a.csv", "start,end,text\n1,2,kept\nx,2,lost\n3,2,lost\n1,2\nnan,3,lost\n")
    kept, dropped = believed(read_transcript(tmp_path / "a.csv"))
    assert [s.text for s in kept] == ["kept"]
    assert [d.reason for d in dropped] == ["bad_row"] * 4
    write(tmp_path / "a.srt", "00:00:05,0 --> 00:00:01,0\nlost\n\n00:00:01,0 --> 00:00:02,0\nkept")
    kept, dropped = believed(read_transcript(tmp_path / "a.srt"))
    assert ([s.text for s in kept], [d.text for d in dropped]) == (["kept"], ["lost"])


def segment(text, start_s=0.0, **more):
    return Segment(start_s=start_s, end_s=start_s + 1, text=text, **more)


def test_silence_needs_both_of_whispers_bounds():
    said = [
        segment("a", 0, log_probability=-1.5, silence=0.9),
        segment("b", 1, log_probability=-0.5, silence=0.9),
        segment("c", 2, log_probability=-1.5, silence=0.1),
        segment("d", 3),
    ]
    kept, dropped = believed(Transcript(segments=tuple(said)))
    assert [s.text for s in kept] == ["b", "c", "d"]
    assert [d.reason for d in dropped] == ["no_speech"]


def test_loops_of_a_recogniser_are_dropped():
    loop = segment("we clip the duct " * 20, 9)
    same = [segment("Thank you.", i) for i in range(5)]
    kept, dropped = believed(Transcript(segments=(*same, segment("We cut.", 6), loop)))
    assert [s.start_s for s in kept] == [0, 1, 6]
    assert [d.reason for d in dropped] == ["repetition"] * 4


def test_what_cannot_be_seen_is_taken_out(tmp_path):
    rows = [
        {"start": 0, "end": 1, "text": "the\u202e cys\u200btic\n duct"},
        {"start": 1, "end": 2, "text": "a\0b"},
        {"start": 2, "end": 3, "text": 7},
    ]
    kept, dropped = believed(read_transcript(write(tmp_path / "a.json", rows)))
    assert [s.text for s in kept] == ["the cystic duct"]
    assert [d.reason for d in dropped] == ["no_words", "no_words"]


def test_finding_one_transcript_a_recording(tmp_path):
    for name in ("x/a.json", "x/a.srt", "x/a.txt", "y/b.vtt", "y/c.csv", "z/c.srt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "out.json").symlink_to("/etc/hostname")
    found, others = find_transcripts(tmp_path)
    assert [(f.video, f.name) for f in found] == [
        ("a", "x/a.json"), ("b", "y/b.vtt"), ("y/c", "y/c.csv"), ("z/c", "z/c.srt"),
    ]  # fmt: skip
    assert sorted((name, verdict.code) for name, verdict in others) == [
        ("out.json", "outside_root"), ("pipe.json", "not_regular"), ("x/a.srt", "another_form"),
        ("x/a.txt", "not_of_the_set"),
    ]  # fmt: skip
    assert [f.video for f in find_transcripts(tmp_path / "y" / "c.csv")[0]] == ["c"]
    with pytest.raises(InputError, match="does not exist"):
        find_transcripts(tmp_path / "nowhere")


def test_a_name_that_is_no_text_is_refused(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff.json", "wb"):  # noqa: PTH123 - no Path of bytes
        pass
    found, ((name, verdict),) = find_transcripts(tmp_path)
    assert (found, verdict.code) == ([], "no_transcript")
    name.encode()


def test_damaged_files_end_with_a_code(tmp_path):
    """Bytes changed, cut and doubled at random: a transcript or a code, never another error."""
    rng = np.random.default_rng(0)
    rows = [{"start": a, "end": b, "text": t, "words": [{"word": t, "start": a, "end": b}]}
            for a, b, t in SAID]  # fmt: skip
    sound = {
        "json": json.dumps({"segments": rows, "language": "en"}), "srt": SRT, "vtt": VTT,
        "csv": "start,end,text\n0.5,2.25,We clip the duct.\n3,4,Then we cut it.\n",
    }  # fmt: skip
    lexicon, config = load_lexicon(), NarrationConfig()
    codes = Counter()
    for suffix, text in sound.items():
        path = tmp_path / f"a.{suffix}"
        for _ in range(60):
            data = bytearray(text.encode())
            for _ in range(int(rng.integers(1, 6))):
                at = int(rng.integers(len(data)))
                size = int(rng.integers(0, 9))
                noise = rng.integers(0, 256, int(rng.integers(0, 9)), np.uint8)
                data[at : at + size] = noise.tobytes()
            path.write_bytes(data)
            try:
                listen(read_transcript(path), lexicon, config)
                codes["sound"] += 1
            except Verdict as verdict:
                codes[verdict.code] += 1
    assert codes["sound"] > 20
    assert set(codes) <= {
        "sound", "bad_json", "no_transcript", "text_binary", "text_encoding", "no_table",
        "nothing_surgical", "other_language",
    }  # fmt: skip
