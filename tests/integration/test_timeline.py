"""`medvlp timeline`: causal scores, what is written, what is blanked, and files that fail."""

import io
import json
import os
import signal
from pathlib import Path

import av
import numpy as np
import polars as pl
import pytest
import torch
import yaml
from catalogue.cases_video import video
from clocks import ToldClock
from PIL import Image
from rich.console import Console

import medvlp
from medvlp.archive.stage.child import Limits
from medvlp.archive.verdict import Reject
from medvlp.config import plain, validate
from medvlp.data.prompts import load_prompts
from medvlp.data.proxies import Proxies
from medvlp.data.proxy_files import ProxyConfig
from medvlp.digest import digest_file
from medvlp.errors import ConfigError, InputError
from medvlp.models.bundle import save_bundle
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower
from medvlp_video.border import picture_box
from medvlp_video.encoders import FrameEncoderConfig
from medvlp_video.proxy_make import FilmProxyConfig, make
from medvlp_video.read import open_reader
from medvlp_video.timeline.apart import ApartReader
from medvlp_video.timeline.asked import Asked
from medvlp_video.timeline.command import timeline
from medvlp_video.timeline.run import Watch, write_timeline
from medvlp_video.timeline.stream import PhaseStream, StreamConfig
from medvlp_video.timeline.track import BLANKED, Track

SECRET = "Mueller^Hans"
RATE = 5.0
PHASES = {"mild": "mild edema", "none": "no edema is seen", "large": "cardiomegaly"}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "phases.yaml"
    labels = {name: {"positive": [text]} for name, text in PHASES.items()}
    path.write_text(yaml.safe_dump({"mode": "exclusive", "labels": labels}, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Four seconds that change colour every second, in a black border, at 25 a second."""
    folder = tmp_path_factory.mktemp("films") / SECRET
    folder.mkdir()
    path = folder / f"{SECRET}.mp4"
    colours = ((200, 60, 50), (40, 160, 90), (60, 70, 190), (180, 170, 60))
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"g": "10"}
        for i in range(100):
            picture = np.zeros((48, 64, 3), np.uint8)
            spread = rng.integers(-30, 31, (40, 48, 3))
            picture[4:44, 8:56] = np.clip(np.array(colours[i // 25]) + spread, 30, 255)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        file.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def attention_bundle(tiny_bundle, tmp_path_factory):
    """The tiny bundle with a tower that weighs its frames by their place."""
    own = medvlp.load(tiny_bundle("video"))
    frame = own.info.image["frame"]
    image = validate(FrameEncoderConfig, {"frame": frame, "pool": "attention"}, "image")
    torch.manual_seed(1)
    tower = image.build(3)
    with torch.no_grad():
        tower.pool.place_FD.mul_(50)
    folder = tmp_path_factory.mktemp("bundles") / "attention"
    save_bundle(
        folder,
        model=TwoTower(own.model.config, tower, own.model.text),
        domain="video",
        preprocess=own.preprocess.config,
        image=image,
        text=validate(TextTowerConfig, own.info.text, "text"),
        tokenizer=own.tokenizer,
    )
    return folder


def run(film, bundle, prompts, out, **options):
    options = {"rate": RATE} | options
    asked = Asked(video=str(film), bundle=bundle, prompts=prompts, out=out, **options)
    shown = io.StringIO()
    result = write_timeline(asked, Console(file=shown, width=200))
    assert f"{len(result.track)} moments" in shown.getvalue()
    assert "p95" in shown.getvalue()
    return result


def scores_in(folder):
    table = pl.read_csv(folder / "timeline.csv")
    return table["time_s"].to_numpy(), table.select(list(PHASES)).to_numpy()


def fed(bundle, prompts, frames, times, window_s):
    """The public class, frame by frame."""
    stream = PhaseStream(bundle, load_prompts(prompts), StreamConfig(window_s=window_s))
    told = [stream.push(f, float(t)) for f, t in zip(frames, times, strict=True)]
    return np.stack([moment.probability_L for moment in told])


def windows_of(times, window_s):
    return [np.flatnonzero((times <= t) & (times > t - window_s + 1e-6)) for t in times]


def causally_stored(preprocess, frames):
    """Frames by the contract, each within the border that is known when it comes."""
    boxes = [picture_box(frames[: i + 1]) for i in range(len(frames))]
    return np.concatenate(
        [preprocess.fitted(frames[i : i + 1], box) for i, box in enumerate(boxes)]
    )


@pytest.fixture(scope="module")
def out(film, tiny_bundle, prompts, tmp_path_factory):
    """What the command writes of the film, with the truth for its first three seconds."""
    folder = tmp_path_factory.mktemp("told")
    truth = folder / "truth.csv"
    truth.write_text("name,start_s,end_s\nmild,0,1.5\nnone,0:01.5,3\n")
    timeline(
        video=str(film), bundle=tiny_bundle("video"), prompts=prompts, folder=folder / "out",
        rate=RATE, least=0.4, truth=truth,
    )  # fmt: skip
    return folder / "out"


def test_the_file_the_stream_and_each_window_alone_agree(film, tiny_bundle, prompts, out):
    times, found = scores_in(out)
    np.testing.assert_allclose(times, np.arange(20) / RATE)
    bundle = medvlp.load(tiny_bundle("video"))
    frames = open_reader((film,)).frames_at(times)
    window_s = 4 / RATE
    np.testing.assert_allclose(fed(bundle, prompts, frames, times, window_s), found, atol=1e-5)
    stored = causally_stored(bundle.preprocess, frames)
    alone = [bundle.embed_stored([stored[own]])[0] for own in windows_of(times, window_s)]
    want = bundle.score(np.stack(alone), load_prompts(prompts)).probability_NL
    np.testing.assert_allclose(found, want, atol=1e-5)
    assert np.ptp(want, axis=0).max() > 1e-3


def test_a_tower_that_knows_order_is_given_each_clip_whole(film, attention_bundle, prompts):
    bundle = medvlp.load(attention_bundle)
    times = np.arange(12) / RATE
    frames = open_reader((film,)).frames_at(times)
    found = fed(bundle, prompts, frames, times, 6 / RATE)
    stored, contract = causally_stored(bundle.preprocess, frames), bundle.preprocess
    clips = [
        stored[own[contract.times((0.0, len(own))).astype(int)]]
        for own in windows_of(times, 6 / RATE)
    ]
    want = bundle.score(bundle.embed_stored(clips), load_prompts(prompts)).probability_NL
    np.testing.assert_allclose(found, want, atol=1e-5)
    # and nothing depends on what comes later
    np.testing.assert_array_equal(fed(bundle, prompts, frames[:7], times[:7], 6 / RATE), found[:7])


def test_what_is_written(tiny_bundle, prompts, out):
    names = {f"timeline.{end}" for end in ("csv", "json", "html", "png", "vtt", "ass")}
    assert {path.name for path in out.iterdir()} == names
    told = json.loads((out / "timeline.json").read_text())
    bundle = medvlp.load(tiny_bundle("video"))
    assert told["bundle"] == bundle.digest
    assert told["prompts"] == load_prompts(prompts).digest
    assert told["reader"] == "pyav"
    assert told["moments"]["seen"] == 20
    assert told["ended"] is None
    assert told["segments"][0]["start_s"] == 0
    assert told["segments"][-1]["end_s"] == pytest.approx(4, abs=0.05)
    assert (out / "timeline.vtt").read_text().count("-->") == len(told["segments"])
    with Image.open(out / "timeline.png") as ribbon:
        assert ribbon.size[0] > 1000
    table = pl.read_csv(out / "timeline.csv")
    best = [list(PHASES)[i] for i in table.select(list(PHASES)).to_numpy().argmax(axis=1)]
    assert table["label"].to_list() == best
    # 1.4 s is the eighth moment; what comes from 3 s on has no truth
    true = ["mild"] * 8 + ["none"] * 7
    for column, row in (("label", "clips"), ("smoothed", "smoothed")):
        right = np.mean([a == b for a, b in zip(table[column], true, strict=False)])
        assert told["metrics"][row]["moments"] == 15
        assert told["metrics"][row]["accuracy"] == pytest.approx(right)
    page = (out / "timeline.html").read_text()
    assert "http" not in page
    assert "data:image/png" in page
    for path in out.iterdir():
        assert SECRET.encode() not in path.read_bytes()
        assert str(out.parent).encode() not in path.read_bytes()


def test_what_is_outside_is_blanked_and_so_is_what_the_rule_leaves_open(
    film, tiny_bundle, prompts, tmp_path, monkeypatch
):
    # red is inside; of green the rule says nothing, on blue it fails
    (tmp_path / "our_rule.py").write_text(
        "def inside(frame):\n"
        "    red, green, blue = frame.mean((0, 1))\n"
        "    if blue > max(red, green):\n"
        "        raise ValueError('no idea')\n"
        "    return True if red > green else None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    bundle = tiny_bundle("video")
    result = run(film, bundle, prompts, tmp_path / "out", blank="our_rule:inside")
    told = json.loads((tmp_path / "out" / "timeline.json").read_text())
    assert told["moments"] == {
        "seen": 10, "blanked": 10, "damaged": 0, "dropped": 0, "rule_failed": 10,
    }  # fmt: skip
    assert told["blank"] == "our_rule:inside"
    assert [s["name"] for s in told["segments"]].count(BLANKED) == 1
    table = pl.read_csv(tmp_path / "out" / "timeline.csv")
    blanked = table.filter(state="blanked")
    assert blanked["time_s"].to_list() == [1 + i / RATE for i in range(10)]
    assert blanked.select("label", *PHASES).null_count().row(0) == (10,) * 4
    assert BLANKED in (tmp_path / "out" / "timeline.vtt").read_text()
    # the rest is scored as if the blanked frames had never been there
    times = table.filter(state="seen")["time_s"].to_numpy()
    frames = open_reader((film,)).frames_at(times)
    want = fed(medvlp.load(bundle), prompts, frames, times, 4 / RATE)
    np.testing.assert_allclose(
        table.filter(state="seen").select(list(PHASES)).to_numpy(), want, atol=1e-5
    )
    for _, time_s, _ in result.track.pictures():
        assert not 1 <= time_s < 3


def test_a_film_without_its_end_is_told_to_the_last_good_frame(tiny_bundle, prompts, tmp_path):
    path, rng = tmp_path / "cut.mp4", np.random.default_rng(0)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for _ in range(100):
            noise = rng.integers(0, 256, (32, 48, 3), np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(noise, "rgb24")))
        file.mux(stream.encode(None))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    reader = open_reader((path,), cut=True)
    good = np.array([frame is not None for frame in reader.stream(reader.times)])
    result = run(path, tiny_bundle("video"), prompts, tmp_path / "out", rate=25.0)
    assert result.track.counts() == {"seen": good.sum(), "blanked": 0, "damaged": (~good).sum()}
    told = json.loads((tmp_path / "out" / "timeline.json").read_text())
    assert told["ended"] == "truncated"
    assert told["end_s"] == pytest.approx(good.sum() / 25)
    assert told["segments"][-1]["end_s"] == told["end_s"]
    _, found = scores_in(tmp_path / "out")
    assert np.isnan(found).all(axis=1).tolist() == (~good).tolist()
    page = (tmp_path / "out" / "timeline.html").read_text()
    assert "(truncated): the timeline ends with the last good frame" in page


def test_a_reader_that_dies_or_hangs_ends_the_timeline_there(film, tiny_bundle, prompts):
    limits = Limits(time_s=2.0)
    phases = load_prompts(prompts)
    bundle = medvlp.load(tiny_bundle("video"))
    for deed, code in ((signal.SIGSEGV, "decoder_crash"), (signal.SIGSTOP, "timeout")):
        stream = PhaseStream(bundle, phases, StreamConfig(window_s=1))
        watch = Watch(stream, Track(phases.names, pictures=False))
        clock = ToldClock()

        def note(moment, watch=watch, deed=deed, clock=clock):
            clock.time += 0.5
            if len(watch.track) == 3:
                os.kill(reader.process.pid, deed)

        with ApartReader((film,), reader="pyav", rate=RATE, limits=limits) as reader:
            watch.all_of(reader, clock, note)
        assert watch.ended == code
        # half a second of work on five frames a second: the newest wins
        assert watch.track.times_s == pytest.approx([0.0, 0.4, 1.0])
        assert watch.dropped == 3
        assert len(watch.lag_s) == 3
        assert reader.process.returncode is not None


def test_a_file_that_cannot_be_opened_ends_too(tmp_path):
    os.mkfifo(tmp_path / "1.png")
    with pytest.raises(Reject, match="timeout"):
        ApartReader((tmp_path,), reader="frames", rate=1, limits=Limits(time_s=0.5))


def test_a_proxy_is_read_in_the_recordings_place(film, tiny_bundle, prompts, tmp_path):
    proxies = tmp_path / "proxies"
    target = Proxies("video", ProxyConfig(folder=proxies)).path(digest_file(film))
    target.parent.mkdir(parents=True)
    make((film,), target=target, alive=lambda: None, **plain(FilmProxyConfig()))
    outs = [tmp_path / "own", tmp_path / "proxy"]
    own = run(film, tiny_bundle("video"), prompts, outs[0])
    other = run(film, tiny_bundle("video"), prompts, outs[1], proxies=proxies)
    assert (other.frames, other.duration_s) == (own.frames, own.duration_s)
    (own_T, own_TL), (other_T, other_TL) = map(scores_in, outs)
    assert own_T.tolist() == other_T.tolist()
    # Encoded once more, and no smaller: nearly the same pixels.
    assert 0 < np.abs(own_TL - other_TL).max() < 0.1
    told = [json.loads((out / "timeline.json").read_text()) for out in outs]
    assert [one["reader"] for one in told] == ["pyav", "proxy=1.0,360.0,25.0,20.0"]
    assert told[0]["recording"]["sha256"] == told[1]["recording"]["sha256"]


def test_wrong_use_is_refused_and_leaves_nothing(film, tiny_bundle, prompts, tmp_path):
    bundle, out = tiny_bundle("video"), tmp_path / "out"
    loose = tmp_path / "loose.yaml"
    labels = {n: {"positive": ["a"], "negative": ["b"]} for n in PHASES}
    loose.write_text(yaml.safe_dump({"mode": "independent", "labels": labels}))
    text = tmp_path / f"{SECRET}.mp4"
    text.write_text("no video " * 50)
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("name,start_s,end_s\nmildly,0,1\n")
    turned = tmp_path / "turned.csv"
    turned.write_text("name,start_s,end_s\nmild,2,1\n")
    several = tmp_path / "several"
    several.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (several / name).write_bytes(video())
    cases = [
        (ConfigError, "phases", {"prompts": tmp_path / "phases.yaml"}),
        (InputError, "mode: exclusive", {"prompts": loose}),
        (InputError, "domain cxr", {"bundle": tiny_bundle("cxr")}),
        (InputError, "cannot be read: undecodable", {"film": text}),
        (InputError, "does not exist", {"film": tmp_path / "gone.mp4"}),
        (InputError, "2 recordings", {"film": several}),
        (InputError, "--blank", {"blank": "nobody:knows"}),
        (InputError, "no proxy of the recording", {"proxies": tmp_path / "none"}),
        (ConfigError, "nearest names there are: mild", {"truth": wrong}),
        (InputError, "row 1 is no interval", {"truth": turned}),
        (ConfigError, "smooth", {"smooth": "much"}),
    ]
    for kind, words, change in cases:
        asked = {"film": film, "bundle": bundle, "prompts": prompts} | change
        with pytest.raises(kind) as refused:
            run(asked.pop("film"), asked.pop("bundle"), asked.pop("prompts"), out, **asked)
        assert words in str(refused.value)
        assert SECRET not in str(refused.value)
        assert not [p for p in tmp_path.iterdir() if "out" in p.name]
    out.mkdir()
    with pytest.raises(InputError, match="exists already"):
        run(film, bundle, prompts, out)


def test_real_operations_are_told(shared, tiny_bundle, prompts, tmp_path):
    films = sorted((shared / "data" / "surg-cctpg-mp4").rglob("*.mp4"))
    films = [path for path in films if path.stat().st_size > 10_000]
    if not films:
        pytest.skip("surg-cctpg-mp4 is not there")
    shortest = min(films, key=lambda path: path.stat().st_size)
    result = run(shortest, tiny_bundle("video"), prompts, tmp_path / "out", rate=0.2)
    assert result.track.counts()["damaged"] == 0
    assert len(result.track) == np.ceil(result.duration_s / 5)
    assert Path(tmp_path / "out" / "timeline.html").stat().st_size > 10_000
