"""Frame readers against videos whose frames carry their own number."""

import av
import numpy as np
import pytest
from films import (
    CONSTANT,
    COUNT,
    FPS,
    OPEN_GOP,
    SIDE,
    VARIABLE,
    cut_copy,
    numbered_frame,
    numbers_in,
    spoilt,
    write_counted,
    write_video,
)
from PIL import Image

from medvlp.archive.stage.child import Children
from medvlp.archive.verdict import Reject
from medvlp.data.proxy_files import SUFFIX
from medvlp.digest import digest_file
from medvlp.errors import InputError
from medvlp_video.check import look, looking, try_decord, trying
from medvlp_video.fast import CLOSE, has_decord
from medvlp_video.proxy_make import make
from medvlp_video.read import open_reader, probe, resolve


@pytest.fixture(
    params=[
        ("a.mp4", CONSTANT, {}),
        ("a.mp4", VARIABLE, {}),
        ("a.mkv", CONSTANT, {"options": OPEN_GOP}),
        ("a.mp4", VARIABLE, {"options": OPEN_GOP}),
        ("a.avi", CONSTANT, {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}}),
        ("a.mov", CONSTANT, {"codec": "mjpeg", "pixels": "yuvj420p"}),
    ],
    ids=["constant", "variable", "open-gop-mkv", "open-gop-variable", "avi", "mjpeg"],
)
def video(request, tmp_path):
    name, times_ms, how = request.param
    if "codec" in how:
        return write_counted(tmp_path / name, **how), CONSTANT / 1000
    return write_video(tmp_path / name, times_ms, **how), (times_ms - times_ms[0]) / 1000


def test_every_frame_comes_at_its_own_time(video):
    path, times_s = video
    reader = open_reader((path,))
    np.testing.assert_allclose(reader.times, times_s, atol=0.0011)
    order = np.random.default_rng(1).permutation(COUNT)
    assert numbers_in(reader.frames_at(times_s[order] + 0.002)) == order.tolist()


def test_between_two_timestamps_the_earlier_frame_is_shown(tmp_path):
    path = write_video(tmp_path / "a.mp4", [0, 100, 500, 520])
    reader = open_reader((path,))
    assert numbers_in(reader.frames_at([0.0, 0.09, 0.1, 0.4999, 0.51, 0.52, 9.0])) == [
        0, 0, 1, 2, 2, 3, 3,
    ]  # fmt: skip
    assert reader.shape == (4, 32, 80)


def test_a_stream_copied_cut_begins_where_a_player_begins(tmp_path):
    options = {"g": "12", "bf": "2"}
    whole = write_video(tmp_path / "whole.mp4", CONSTANT, options=options)
    cut = cut_copy(whole, tmp_path / "cut.mp4", first=29)
    reader = open_reader((cut,))
    shown = numbers_in(reader.frames_at(reader.times))
    with av.open(str(cut)) as container:
        player = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert shown == numbers_in(np.stack(player))
    assert shown[-1] == COUNT - 1
    assert len(shown) < COUNT - 20


@pytest.mark.skipif(not has_decord(), reason="decord is not installed (no wheel for this machine)")
def test_decord_reads_only_files_on_which_it_is_right(tmp_path):
    plain = write_video(tmp_path / "plain.mp4", CONSTANT)
    cut = cut_copy(plain, tmp_path / "cut.mp4", first=29)
    assert try_decord((plain,)).decord
    fast = open_reader((plain,), "decord")
    assert numbers_in(fast.frames_at([0.0, 1.0, 3.0])) == [0, 25, 75]
    assert not try_decord((cut,)).decord
    assert look((cut,), frame_rate=1.0).probe.reader == "pyav"


@pytest.mark.parametrize("times_ms", [CONSTANT, VARIABLE], ids=["constant", "variable"])
def test_all_readers_show_the_same_frame_at_the_same_moment(tmp_path, times_ms):
    path = write_video(tmp_path / "a.mp4", times_ms)
    exact = open_reader((path,))
    moments_s = np.random.default_rng(2).uniform(0, exact.duration_s, 60)
    wanted = exact.frames_at(moments_s)
    exported = tmp_path / "frames"
    exported.mkdir()
    for time_s, frame in zip(exact.times, exact.decode(np.arange(COUNT)), strict=True):
        Image.fromarray(frame).save(exported / f"frame_{round(1000 * time_s):06d}.png")
    np.testing.assert_array_equal(
        open_reader((exported,), "frames@1000").frames_at(moments_s), wanted
    )
    proxy = path.with_name(f"{digest_file(path)}-{'0' * 32}{SUFFIX}")
    make((path,), target=proxy, alive=lambda: None, short_side=360, key_every=25, crf=20)
    assert numbers_in(open_reader((proxy,)).frames_at(moments_s)) == numbers_in(wanted)
    if try_decord((path,)).decord:
        fast = open_reader((path,), "decord").frames_at(moments_s).astype(int)
        assert np.abs(fast - wanted).mean(axis=(1, 2, 3)).max() <= CLOSE
    else:
        assert not has_decord()


def test_readings_of_videos_end_after_30_s_of_silence():
    for reading in (looking(), trying()):
        assert (reading.limits.time_s, reading.tells, reading.makes) == (30, True, False)


def test_probe_tells_what_the_file_holds(tmp_path):
    found = probe((write_video(tmp_path / "a.mp4", CONSTANT),))
    assert found.shape == (COUNT, 32, 80)
    assert found.fps == pytest.approx(FPS, rel=0.01)
    assert found.duration_s == pytest.approx(COUNT / FPS, abs=0.05)


def sound_only(path):
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=16000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 16000
        out.mux(stream.encode(sound))
        out.mux(stream.encode(None))
    return path


def shortened(path, fast_start):
    flags = {"options": {"movflags": "faststart"}} if fast_start else {}
    with av.open(str(path), "w", **flags) as out:
        stream = out.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 5 * SIDE, 2 * SIDE, "yuv420p"
        rng = np.random.default_rng(0)
        for _ in range(4 * FPS):
            noise = rng.integers(0, 256, (32, 80, 3), np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(noise, "rgb24")))
        out.mux(stream.encode(None))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    return path


def holed(path):
    write_video(path, CONSTANT, options={"g": "90"})
    whole = bytearray(path.read_bytes())
    start = whole.index(b"mdat") + 900
    whole[start : start + 400] = b"\xff" * 400
    path.write_bytes(whole)
    return path


def test_files_that_cannot_be_read_are_refused_with_a_code(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "words.mp4").write_text("not a video " * 100)
    wanted = {
        tmp_path / "empty.mp4": {"empty"},
        tmp_path / "words.mp4": {"undecodable"},
        sound_only(tmp_path / "sound.mp4"): {"no_video_stream"},
        shortened(tmp_path / "short.mp4", fast_start=True): {"truncated"},
        shortened(tmp_path / "lost.mp4", fast_start=False): {"truncated"},
        holed(tmp_path / "hole.mp4"): {"undecodable"},
    }
    for path, codes in wanted.items():
        with pytest.raises(Reject) as refusal:
            probe((path,))
        assert refusal.value.code in codes, path.name
        assert path.stem not in refusal.value.message


def test_readings_say_what_the_functions_say(tmp_path):
    item = (write_video(tmp_path / "a.mp4", CONSTANT),)
    with Children(1) as children:
        ((_, seen),) = children.run(looking(), [item])
        ((_, trial),) = children.run(trying(), [item])
    assert seen == look(item, frame_rate=1.0)
    assert trial == try_decord(item)


def write_folder(folder, numbers):
    folder.mkdir()
    for number in numbers:
        Image.fromarray(numbered_frame(number)).save(folder / f"img_{number:06d}.png")
    return folder


def test_frame_numbers_are_seconds_and_gaps_hold_the_last_frame(tmp_path):
    folder = write_folder(tmp_path / "VID01", [10, 7, 300])
    reader = open_reader((folder,))
    assert reader.times.tolist() == [7.0, 10.0, 300.0]
    assert numbers_in(reader.frames_at([0, 7, 9.5, 10, 299, 300, 999])) == [
        7, 7, 7, 10, 10, 300, 300,
    ]  # fmt: skip
    assert reader.duration_s == 301.0
    assert open_reader((folder,), "frames@25").times.tolist() == [0.28, 0.4, 12.0]


def test_bad_folders_are_refused(tmp_path):
    twice = write_folder(tmp_path / "twice", [1])
    Image.fromarray(numbered_frame(1)).save(twice / "other_1.png")
    broken = write_folder(tmp_path / "broken", [1, 2])
    (broken / "img_000002.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "none").mkdir()
    for name, code in (
        ("twice", "duplicate_frames"),
        ("broken", "not_a_picture"),
        ("none", "no_frames"),
    ):
        with pytest.raises(Reject) as refusal:
            probe((tmp_path / name,))
        assert refusal.value.code == code


def test_resolve_finds_videos_and_folders_of_frames(tmp_path):
    folder = write_folder(tmp_path / "VID01", [1, 2])
    (tmp_path / "b.MP4").touch()
    (tmp_path / "notes.txt").touch()
    assert resolve(tmp_path) == [
        (tmp_path / "b.MP4",),
        (folder / "img_000001.png", folder / "img_000002.png"),
    ]
    with pytest.raises(InputError, match="remedy"):
        resolve(tmp_path / "notes.txt")


@pytest.mark.parametrize("start", [0.35, 0.5, 0.62, 0.75, 0.9])
def test_no_frame_stands_in_for_a_bad_one(tmp_path, start):
    reader = open_reader((spoilt(tmp_path / "a.mp4", start, 12, options={"g": "6", "bf": "2"}),))
    bad = set(reader.bad_frames().tolist())
    assert 0 < len(bad) <= 18
    for place in range(COUNT):
        if place in bad:
            with pytest.raises(Reject, match="bad_frame"):
                reader.decode(np.array([place]))
        else:
            assert numbers_in(reader.decode(np.array([place]))) == [place]


def test_a_sound_video_has_no_bad_frames(video):
    path, times = video
    reader = open_reader((path,))
    assert reader.bad_frames().tolist() == []
    assert "bad_frames" not in probe((path,)).flags
    assert ("variable_rate" in probe((path,)).flags) == (np.ptp(np.diff(times)) > 0.05)


def test_frames_are_turned_as_a_player_turns_them(tmp_path):
    path = write_video(tmp_path / "a.mp4", CONSTANT)
    upright = open_reader((path,)).decode(np.array([0, 37]))
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    one = 1 << 16
    clockwise = (0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = b"".join(n.to_bytes(4, "big", signed=True) for n in clockwise)
    path.write_bytes(data)
    reader = open_reader((path,))
    assert reader.shape == (COUNT, 80, 32)
    turned = reader.decode(np.array([0, 37]))
    np.testing.assert_array_equal(turned, np.rot90(upright, -1, axes=(1, 2)))


def test_an_mp4_without_its_index_or_cut_says_so(tmp_path):
    whole = write_video(tmp_path / "a.mp4", CONSTANT).read_bytes()
    cases = {
        "no_index": whole[: whole.index(b"moov") - 4],
        "truncated": whole[: whole.index(b"mdat") + 900],
    }
    for code, data in cases.items():
        (tmp_path / "b.mp4").write_bytes(data)
        with pytest.raises(Reject) as verdict:
            probe((tmp_path / "b.mp4",))
        assert verdict.value.code == code


def test_bad_frames_of_a_folder_are_listed_until_they_are_too_many(tmp_path):
    folder = write_folder(tmp_path / "frames", range(20))
    (folder / "img_000007.png").write_bytes(b"no picture")
    found = probe((folder,))
    assert (found.bad_frames, found.flags) == ((7,), ("bad_frames",))
    (folder / "img_000000.png").write_bytes(b"")
    assert probe((folder,)).bad_frames == (0, 7)
    (folder / "img_000003.png").write_bytes(b"")
    with pytest.raises(Reject, match="empty"):
        probe((folder,))
