"""`medvlp narrate`: from transcripts to a table of texts, and from there into a manifest."""

from __future__ import annotations

import json
import stat
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from transformers import GPT2Config, GPT2LMHeadModel

import medvlp
from medvlp.archive.intake import Intake
from medvlp.archive.options import IndexConfig
from medvlp.archive.privacy.pseudonyms import Pseudonyms
from medvlp.cli import _add_domain_commands, app
from medvlp.data.tokenizer import save_tokenizer, train_tokenizer
from medvlp.doctor import write_clip
from medvlp.errors import ArchiveError, ConfigError, InputError
from medvlp.guarded import run_guarded
from medvlp.models.inputs import Source, read
from medvlp_video.narration.captions import _PROMPT, usable
from medvlp_video.narration.lexicon import load_lexicon
from medvlp_video.narration.run import Asked, narrate_transcripts
from medvlp_video.narration.settings import NarrationConfig
from medvlp_video.narration.sight import LEAST_PARTNERS, MOST_PARTNERS, Shown, shares_beaten
from medvlp_video.source import index_video

TALK = [
    (0.0, 1.2, "Good morning and welcome."),
    (1.2, 2.4, "First we expose the gallbladder."),
    (2.4, 3.2, "Who brought the coffee?"),
    (3.2, 4.4, "In the next step the cystic duct is clipped."),
    (4.4, 5.4, "Then we cut the cystic duct."),
]
QUICK = ["step.shortest_s=0.5", "phase.shortest_s=2", "phase.least=1"]


def whisper(path, rows=TALK, **more):
    segments = [{"start": a, "end": b, "text": t, "avg_logprob": -0.1} for a, b, t in rows]
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps({"language": "en", "segments": segments, **more}))


def run(tmp_path, *transcripts, name="out", settings=QUICK, **asked):
    folder = tmp_path / name
    words = [str(one) for one in transcripts]
    return folder, narrate_transcripts(
        Asked(transcripts=words, out=folder, settings=settings, **asked)
    )


def table(folder, name):
    return pl.read_csv(folder / f"{name}.csv", infer_schema_length=None)


def call(*words):
    _add_domain_commands()
    return run_guarded(lambda: app([str(word) for word in words], standalone_mode=False))


def test_a_tree_with_all_levels_and_what_was_left_out(tmp_path):
    whisper(tmp_path / "talks" / "a.json")
    folder, line = run(tmp_path, tmp_path / "talks")
    texts = table(folder, "texts")
    columns = ["node", "parent", "level", "source", "start_s", "end_s", "text"]
    clipped = "In the next step the cystic duct is clipped."
    assert texts.select(columns).rows() == [
        ("procedure", None, "procedure", "central", None, None, clipped),
        ("phase0", "procedure", "phase", "central", 1.2, 5.4, clipped),
        ("step0", "phase0", "step", "central", 1.2, 2.4, "First we expose the gallbladder."),
        ("clip0", "step0", "clip", "asr", 1.2, 2.4, "First we expose the gallbladder."),
        ("step1", "phase0", "step", "central", 3.2, 5.4, clipped),
        ("clip1", "step1", "clip", "asr", 3.2, 4.4, clipped),
        ("clip2", "step1", "clip", "asr", 4.4, 5.4, "Then we cut the cystic duct."),
    ]  # fmt: skip
    assert texts["confidence"].to_list() == pytest.approx([round(float(np.exp(-0.1)), 3)] * 7)
    left = table(folder, "left_out").select("video", "source", "start_s", "reason", "text").rows()
    assert left == [
        ("a", "asr", 0.0, "off_topic", "Good morning and welcome."),
        ("a", "asr", 2.4, "off_topic", "Who brought the coffee?"),
    ]
    units = table(folder, "units")
    assert units.filter(pl.col("node") == "step1")["sentences"].item() == "clip1 clip2"
    info = json.loads((folder / "narration.json").read_text())
    assert info["counts"]["levels"] == {"clip": 3, "phase": 1, "procedure": 1, "step": 2}
    assert info["counts"]["left_out"] == {"off_topic": 2}
    assert "1 transcripts" in line
    assert "left out 2: off_topic 2" in line
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_nothing_that_was_said_is_lost(tmp_path):
    """Every segment stands in the tree or among what was left out."""
    rng = np.random.default_rng(0)
    words = [
        "we cut the duct",
        "hello to all",
        "it hurts him",
        "clip",
        "",
        "[Music]",
        "we wash the liver",
    ]
    rows = [(float(i), i + rng.choice([1.0, 0.0]), str(rng.choice(words))) for i in range(80)]
    whisper(tmp_path / "talks" / "a.json", rows)
    folder, _ = run(tmp_path, tmp_path / "talks")
    clips = table(folder, "texts").filter(pl.col("level") == "clip")
    left = table(folder, "left_out")
    assert len(clips) + len(left) == 80
    assert set(left["reason"]) >= {"off_topic", "bad_row", "no_words", "not_surgical", "too_short"}
    counted = json.loads((folder / "narration.json").read_text())["counts"]["left_out"]
    assert sum(counted.values()) == len(left)


def test_the_same_input_gives_the_same_bytes_and_an_existing_folder_is_refused(tmp_path):
    whisper(tmp_path / "talks" / "b.json")
    whisper(tmp_path / "talks" / "sub" / "a.json")
    one, _ = run(tmp_path, tmp_path / "talks")
    two, _ = run(tmp_path, tmp_path / "talks", name="two")
    names = sorted(path.name for path in one.iterdir())
    assert names == ["left_out.csv", "narration.json", "refused.csv", "texts.csv", "units.csv"]
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    with pytest.raises(InputError, match="exists already"):
        run(tmp_path, tmp_path / "talks")


def test_bad_transcripts_are_listed_and_the_others_go_on(tmp_path):
    talks = tmp_path / "talks"
    whisper(talks / "a.json")
    whisper(talks / "b.json", language="de")
    whisper(talks / "c.json", [(0, 1, "Good morning.")])
    (talks / "Meier_Anna.json").write_text("{")
    (talks / "a.srt").write_text("00:00:01,0 --> 00:00:02,0\nno")
    (talks / "notes.txt").write_text("no")
    folder, line = run(tmp_path, talks)
    refused = dict(table(folder, "refused").select("file", "code").iter_rows())
    assert refused == {
        "a.srt": "another_form", "notes.txt": "not_of_the_set", "Meier_Anna.json": "bad_json",
        "b.json": "other_language", "c.json": "nothing_surgical",
    }  # fmt: skip
    assert "refused 5" in line
    assert "Meier" not in line
    (talks / "a.json").unlink()
    with pytest.raises(InputError, match="nothing is left") as error:
        run(tmp_path, talks, name="none")
    assert "Meier" not in str(error.value)
    assert [path for path in tmp_path.iterdir() if "none" in path.name] == []


def test_several_recognisers_titles_and_silent_videos(tmp_path):
    whisper(tmp_path / "one" / "a.json")
    whisper(tmp_path / "two" / "a.json", TALK[3:])
    (tmp_path / "titles.csv").write_text(
        "video,title,abstract\na,Cholecystectomy,We show it.\nsilent,Hernia,\n,x,y\na,again,\n"
    )
    folder, _ = run(
        tmp_path, f"w={tmp_path / 'one'}", f"aws={tmp_path / 'two'}",
        titles=tmp_path / "titles.csv",
    )  # fmt: skip
    texts = table(folder, "texts")
    tops = texts.filter(pl.col("level") == "procedure").select("video", "node", "source").rows()
    assert tops == [
        ("a", "procedure:abstract", "abstract"), ("a", "procedure:title", "title"),
        ("a", "w:procedure", "central:w"), ("a", "aws:procedure", "central:aws"),
        ("silent", "procedure:title", "title"),
    ]  # fmt: skip
    phases = texts.filter(pl.col("level") == "phase")
    assert phases["parent"].to_list() == ["procedure:abstract"] * 2
    assert set(texts.filter(pl.col("level") == "clip")["source"]) == {"asr:w", "asr:aws"}
    assert texts.select("video", "node").is_unique().all()
    refused = table(folder, "refused").select("source", "row", "code").rows()
    assert refused == [("titles", 3, "blank"), ("titles", 4, "duplicate_row")]


def test_the_texts_are_indexed_with_the_videos(tmp_path):
    (tmp_path / "films" / "a").mkdir(parents=True)
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 256, (24, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "films" / "a" / f"{i:06d}.png")
    whisper(tmp_path / "talks" / "a.json", [*TALK, (5.4, 5.7, "Mrs. Anna Meier has a liver.")])
    folder, _ = run(tmp_path, tmp_path / "talks")
    written = table(folder, "texts")
    options = {"texts": str(folder / "texts.csv")}
    config = IndexConfig(options=options)
    intake = Intake(tmp_path / "films", config, Pseudonyms(bytes(32)), "video")
    index_video(tmp_path / "films", intake)
    tables, *_ = intake.finish()
    assert list(tables["rejects"]) == []
    rows = list(tables["texts"])
    assert sorted(row["level"] for row in rows) == sorted(written["level"])
    level = {row["node"]: row["level"] for row in rows}
    above = {(row["level"], level.get(row["parent"])) for row in rows}
    assert above == {("procedure", None), ("phase", "procedure"), ("step", "phase"),
                     ("clip", "step")}  # fmt: skip
    spans = {row["text"]: (row["start_s"], row["end_s"]) for row in rows if row["level"] == "clip"}
    assert spans["Then we cut the cystic duct."] == (4.4, 5.4)
    # The scrubber of the index takes out what narrate had to leave.
    assert "Meier" in (folder / "texts.csv").read_text()
    assert not any("Meier" in row["text"] for row in rows)


@pytest.fixture
def films(tmp_path):
    """Three films of twelve steps, one that is damaged, and talks about these and one more."""
    (tmp_path / "films").mkdir()
    verbs = ["clipped", "cut", "coagulated", "retracted"]
    for n, (video, organ) in enumerate(
        [("a", "liver"), ("b", "spleen"), ("c", "colon"), ("bad", "uterus"), ("gone", "lung")]
    ):
        rows = [
            (1.4 * i, 1.4 * i + 1.3, f"{n}{i} {organ}: the next step, it is {verb}")
            for i, verb in enumerate(verbs)
        ]
        whisper(tmp_path / "talks" / f"{video}.json", rows)
        if video in "abc":
            write_clip(tmp_path / "films" / f"{video}.mp4", frames=140 + n)
    (tmp_path / "films" / "bad.mp4").write_bytes(b"\0" * 999)
    return tmp_path / "films"


def test_steps_unlike_their_frames_are_left_out(films, tiny_bundle, tmp_path):
    talks = tmp_path / "talks"
    plain, _ = run(tmp_path, talks)
    folder, line = run(
        tmp_path, talks, name="seen", videos=films, bundle=tiny_bundle("video"),
        settings=[*QUICK, "quantile=0.6"],
    )  # fmt: skip
    steps = table(plain, "texts").filter(pl.col("level") == "step").to_dicts()
    seen = [s for s in steps if s["video"] in "abc"]
    assert (len(steps), len(seen)) == (20, 12)
    bundle = medvlp.load(tiny_bundle("video"))
    arrays = [
        read(Source(position=0, paths=(films / f"{s['video']}.mp4",),
                    span=(s["start_s"], s["end_s"])), bundle.preprocess)
        for s in seen
    ]  # fmt: skip
    cosine = bundle.embed_stored(arrays) @ bundle.embed_text([s["text"] for s in seen]).T
    kept = set()
    for i, step in enumerate(seen):
        others = np.delete(np.concatenate([cosine[i], cosine[:, i]]), [i, 12 + i])
        equal = np.abs(others - cosine[i, i]) < 1e-6
        if np.mean(~equal & (others < cosine[i, i])) + np.mean(equal) / 2 >= 0.6:
            kept.add((step["video"], step["start_s"]))
    assert 0 < len(kept) < 12
    found = table(folder, "texts").filter(pl.col("level") == "step")
    assert set(found.select("video", "start_s").rows()) == kept
    reasons = dict(table(folder, "left_out")["reason"].value_counts().iter_rows())
    assert reasons == {"unseen": 8, "unlike_frames": 12 - len(kept)}
    refused = table(folder, "refused").select("source", "file", "code").rows()
    assert refused == [("videos", "bad", "undecodable"), ("videos", "gone", "unknown_video")]
    beaten = table(folder, "units").filter(pl.col("node").str.starts_with("step"))["beaten"]
    assert beaten.min() >= 0.6
    info = json.loads((folder / "narration.json").read_text())
    assert info["bundle"] == bundle.digest
    assert "unlike_frames" in line


def test_a_share_of_mismatched_pairs_by_hand():
    unit = np.eye(10, dtype=np.float32)
    steps = [Shown(video=str(i), span=(0, 1), text="") for i in range(10)]
    assert shares_beaten(unit, unit, steps) == [1.0] * 10
    # A text that is like every frame beats nobody: all pairs with it are equal.
    texts = unit.copy()
    texts[0] = 10**-0.5
    assert shares_beaten(unit, texts, steps)[0] == pytest.approx((9 * 0.5 + 9) / 18)
    few = steps[:LEAST_PARTNERS]
    assert shares_beaten(unit[:8], unit[:8], few) == [None] * 8
    # Steps at the same time of one video are no mismatch.
    together = [Shown(video="v", span=(0, 1), text="")] * 10
    assert shares_beaten(unit, unit, together) == [None] * 10
    many = np.eye(MOST_PARTNERS + 50, dtype=np.float32)
    steps = [Shown(video=str(i), span=(0, 1), text="") for i in range(len(many))]
    assert shares_beaten(many, many, steps) == [1.0] * len(many)


def test_wrong_use_is_one_line(tmp_path, tiny_bundle, capsys):
    whisper(tmp_path / "talks" / "a.json")
    talks, videos = tmp_path / "talks", tmp_path / "nowhere"
    with pytest.raises(ConfigError, match="go together"):
        run(tmp_path, talks, videos=tmp_path)
    with pytest.raises(InputError, match="domain cxr"):
        run(tmp_path, talks, videos=tmp_path, bundle=tiny_bundle("cxr"))
    with pytest.raises(InputError, match="videos does not exist"):
        run(tmp_path, talks, videos=videos, bundle=tiny_bundle("video"))
    with pytest.raises(ConfigError, match="by one name"):
        run(tmp_path, talks, talks)
    with pytest.raises(ConfigError, match=r"pause_s.*got 0"):
        run(tmp_path, talks, settings=["pause_s=0"])
    with pytest.raises(ConfigError, match="no folder of a language model"):
        run(tmp_path, talks, llm=tmp_path)
    (tmp_path / "t.csv").write_text("film,title\na,b\n")
    with pytest.raises(ArchiveError, match="no column video"):
        run(tmp_path, talks, titles=tmp_path / "t.csv")
    assert not (tmp_path / "out").exists()
    assert call("narrate", tmp_path / "nowhere", "--out", tmp_path / "out") == 2
    assert "does not exist" in capsys.readouterr().err
    assert call("narrate", talks, "--out", tmp_path / "out", "--set", "least_words=2") == 0
    assert "1 transcripts" in capsys.readouterr().out


def test_the_command_line_starts_without_torch():
    code = (
        "import sys; from medvlp import cli; cli._add_domain_commands(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


CAPTION = "the cystic duct is clipped and cut"


@pytest.fixture
def language_model(tmp_path):
    """A small model that has learnt one caption, whatever it is asked."""
    prompts = [
        _PROMPT.format(sentences=words)
        for words in (
            "In the next step the cystic duct is clipped. Then we cut the cystic duct.",
            "First we expose the gallbladder.",
            "First we expose the gallbladder. In the next step the cystic duct is clipped. "
            "Then we cut the cystic duct.",
        )
    ]
    tokenizer = train_tokenizer([*prompts, CAPTION] * 2, 400)
    save_tokenizer(tokenizer, tmp_path / "llm")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=512, n_embd=32, n_layer=1, n_head=2,
        bos_token_id=None, eos_token_id=None, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    answer = tokenizer(" " + CAPTION, add_special_tokens=False)["input_ids"]
    answer.append(tokenizer.sep_token_id)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    asked = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    for step in range(60):
        ids = asked[step % 3]
        tokens = torch.tensor([ids + answer])
        labels = torch.tensor([[-100] * len(ids) + answer])
        optimizer.zero_grad()
        model(input_ids=tokens, labels=labels).loss.backward()
        optimizer.step()
    model.save_pretrained(tmp_path / "llm")
    return tmp_path / "llm"


def test_a_local_model_writes_captions_that_the_talk_bears_out(tmp_path, language_model):
    whisper(tmp_path / "talks" / "a.json")
    folder, line = run(tmp_path, tmp_path / "talks", llm=language_model)
    texts = table(folder, "texts")
    written = texts.filter(pl.col("source") == "llm").select("node", "parent", "level", "text")
    # The step about the gallbladder says nothing of a duct: its caption is not believed.
    assert written.rows() == [
        ("phase0:llm", "procedure", "phase", CAPTION), ("step1:llm", "phase0:llm", "step", CAPTION),
    ]  # fmt: skip
    assert "1 captions of the model were of no use" in line
    # What others said stays.
    assert len(texts.filter(pl.col("source") != "llm")) == 7
    units = dict(table(folder, "units").select("node", "sentences").iter_rows())
    assert units["step1:llm"] == "clip1 clip2"
    info = json.loads((folder / "narration.json").read_text())
    assert set(info["llm"]) == {"model.safetensors"}
    again, _ = run(tmp_path, tmp_path / "talks", name="again", llm=language_model)
    assert (again / "texts.csv").read_bytes() == (folder / "texts.csv").read_bytes()


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("\n - The hook frees the duct.\nSentences: more", "The hook frees the duct."),
        ('"The hook frees the cystic duct."', "The hook frees the cystic duct."),
        ("", None),
        ("hook", None),
        ("a b c d e", None),
        ("The hook frees the liver.", None),
        ("the hook " * 30, None),
        ("Subscribe for the hook and the cystic duct", None),
    ],
)
def test_what_is_believed_of_a_caption(answer, caption):
    said = ["We free the cystic duct.", "The hook is used, and the duct is free."]
    assert usable(answer, said, load_lexicon(), NarrationConfig()) == caption
