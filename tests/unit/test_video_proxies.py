"""Proxies against their originals: same frames at the same times, and nothing else of theirs."""

from pathlib import Path

import av
import numpy as np
import pytest
from films import (
    CONSTANT,
    COUNT,
    OPEN_GOP,
    VARIABLE,
    cut_copy,
    numbers_in,
    spoilt,
    write_counted,
    write_video,
)

from medvlp.archive.verdict import Reject
from medvlp.data.whole_files import is_whole
from medvlp.digest import digest_file
from medvlp_video.border import recording_box
from medvlp_video.preprocess import ClipPreprocessConfig
from medvlp_video.proxy import ProxyReader, read_note
from medvlp_video.proxy_make import PROXIES, make
from medvlp_video.read import open_reader
from medvlp_video.timestamps import TimestampReader

STATED_DB = 29.0
"""What every frame keeps, in dB of peak signal to noise; pictures of the body keep more."""


def proxy_of(path, **settings):
    """The proxy, and what was told of it."""
    target = path.with_name(f"{digest_file(path)}-{'0' * 32}.proxy")
    settings = {"short_side": 360, "key_every": 25, "crf": 20, **settings}
    made = make((path,), target=target, alive=lambda: None, **settings)
    return target, made


def turned(path):
    """A quarter turn with the clock by the track's matrix."""
    data = bytearray(write_video(path, CONSTANT).read_bytes())
    place, one = data.index(b"tkhd") + 44, 1 << 16
    numbers = (0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    data[place : place + 36] = b"".join(n.to_bytes(4, "big", signed=True) for n in numbers)
    path.write_bytes(data)
    return path


def textured(path):
    """Waves that move, so that each frame differs from its neighbours everywhere."""
    y, x = np.mgrid[:64, :96]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.options = {"crf": "10"}
        for k in range(40):
            waves = [np.sin(x / (3 + c) + y / 5 + k * (c + 1) / 3) for c in range(3)]
            picture = (120 + 90 * np.stack(waves, axis=-1)).astype(np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        out.mux(stream.encode(None))
    return path


ORIGINALS = {
    "textured": lambda d: textured(d / "a.mp4"),
    "constant": lambda d: write_video(d / "a.mp4", CONSTANT),
    "variable": lambda d: write_video(d / "a.mp4", VARIABLE),
    "variable-mkv": lambda d: write_video(d / "a.mkv", VARIABLE + 70),
    "open-gop": lambda d: write_video(d / "a.mp4", CONSTANT, options=OPEN_GOP),
    "cut": lambda d: cut_copy(write_video(d / "w.mp4", CONSTANT), d / "a.mp4", first=29),
    "avi": lambda d: write_counted(d / "a.avi", "mpeg4", options={"g": "12", "bf": "2"}),
    "turned": lambda d: turned(d / "a.mp4"),
}


@pytest.mark.parametrize("original", ORIGINALS.values(), ids=ORIGINALS)
def test_frame_i_of_a_proxy_is_frame_i_of_its_original(original, tmp_path):
    path = original(tmp_path)
    target, made = proxy_of(path, key_every=7)
    ours, theirs = open_reader((target,)), open_reader((path,))
    assert isinstance(ours, ProxyReader)
    np.testing.assert_array_equal(ours.times, theirs.times)
    assert (ours.shape, ours.fps, ours.duration_s) == (
        theirs.shape, theirs.fps, theirs.duration_s,
    )  # fmt: skip
    order = np.random.default_rng(0).permutation(len(theirs.times))
    shown, true = ours.decode(order), theirs.decode(order)
    error = np.square(shown.astype(float) - true).mean(axis=(1, 2, 3))
    worst_db = 10 * np.log10(255**2 / max(error.max(), 1e-6))
    assert worst_db > STATED_DB
    # What the note says of some of the frames holds, within 2 dB, for all of them.
    assert worst_db > made.psnr_db - 2
    assert made.frames == len(ours.times)
    with av.open(str(target)) as film:
        packets = [p for p in film.demux(video=0) if p.size]
        assert [p.is_keyframe for p in packets] == [k % 7 == 0 for k in range(len(packets))]


def test_a_proxy_is_scaled_down_and_never_up(tmp_path):
    path = write_video(tmp_path / "a.mp4", VARIABLE)
    small, _ = proxy_of(path, short_side=16)
    reader = open_reader((small,))
    assert reader.shape == (COUNT, 16, 40)
    assert numbers_in(reader.decode(np.arange(COUNT))) == list(range(COUNT))
    whole, _ = proxy_of(path, short_side=720)
    assert open_reader((whole,)).shape == (COUNT, 32, 80)


def test_bad_frames_are_listed_with_the_proxy_and_have_no_stand_in(tmp_path):
    path = spoilt(tmp_path / "a.mp4", 0.5, 12, options={"g": "6", "bf": "2"})
    bad = TimestampReader(path).bad_frames()
    target, made = proxy_of(path)
    reader = open_reader((target,))
    assert 0 < len(bad) == made.bad_frames
    assert reader.bad_frames().tolist() == bad.tolist()
    assert len(reader.times) == COUNT
    with av.open(str(target)) as film:
        assert film.streams.video[0].frames == COUNT - len(bad)
    for place in range(COUNT):
        if place in bad:
            with pytest.raises(Reject, match="bad_frame"):
                reader.frames_at([reader.times[place]])
        else:
            assert numbers_in(reader.decode(np.array([place]))) == [place]


def colourful(path, full):
    """A red, a green and a blue field, by the matrix of high definition."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height = 96, 64
        stream.pix_fmt = "yuvj420p" if full else "yuv420p"
        stream.codec_context.colorspace = 1
        stream.codec_context.color_range = 2 if full else 1
        stream.options = {"crf": "4"}
        picture = np.repeat(np.array([[[220, 30, 40], [40, 200, 60], [30, 60, 210]]]), 32, axis=1)
        picture = np.repeat(picture, 64, axis=0).astype(np.uint8)
        for _ in range(4):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame = frame.reformat(
                format=stream.pix_fmt, dst_colorspace="ITU709", dst_color_range=2 if full else 1
            )
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("full", [False, True])
def test_colours_are_those_of_the_original(full, tmp_path):
    path = colourful(tmp_path / "a.mp4", full)
    target, _ = proxy_of(path, crf=4)
    first = np.array([0])
    gap = open_reader((target,)).decode(first).astype(int) - open_reader((path,)).decode(first)
    assert np.abs(gap[:, 8:-8, 8:24]).max() <= 4
    assert np.abs(gap[:, 8:-8, 40:56]).max() <= 4


def test_sound_and_metadata_are_left_behind(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        out.metadata["title"] = "Miller^Anna"
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 80, 32, "yuv420p"
        stream.metadata["handler_name"] = "Miller^Anna"
        voice = out.add_stream("aac", rate=16000, layout="mono")
        for _ in range(8):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            sound.sample_rate = 16000
            out.mux(voice.encode(sound))
            picture = np.full((32, 80, 3), 90, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        out.mux(stream.encode(None))
        out.mux(voice.encode(None))
    assert b"Miller" in path.read_bytes()
    target, _ = proxy_of(path)
    assert b"Miller" not in target.read_bytes()
    with av.open(str(target)) as film:
        assert [stream.type for stream in film.streams] == ["video"]


def test_a_proxy_that_is_not_whole_or_of_another_content_is_none(tmp_path):
    path = write_video(tmp_path / "a.mp4", CONSTANT)
    target, _ = proxy_of(path)
    sha256 = digest_file(path)
    assert PROXIES.holds(target, sha256)
    assert is_whole(target)
    assert not PROXIES.holds(target, "0" * 64)
    assert not PROXIES.holds(tmp_path / "none.proxy", sha256)
    data = target.read_bytes()
    for size in (0, 5, 1000, len(data) - 1):
        target.write_bytes(data[:size])
        assert not PROXIES.holds(target, sha256)
        assert not is_whole(target)
        with pytest.raises(Reject, match="undecodable"):
            open_reader((target,))
    target.write_bytes(data[:900] + bytes([data[900] ^ 1]) + data[901:])
    assert not is_whole(target)
    # An MP4 that is no proxy, with a length in its last bytes that leads nowhere.
    target.write_bytes(path.read_bytes() + (64).to_bytes(4, "big") + bytes(4))
    assert read_note(target) is None


def test_a_file_that_changed_since_it_was_indexed_gets_no_proxy(tmp_path):
    path = write_video(tmp_path / "a.mp4", CONSTANT)
    target = tmp_path / f"{'0' * 64}-{'0' * 32}.proxy"
    with pytest.raises(Reject, match="changed"):
        make((path,), target=target, alive=lambda: None, short_side=360, key_every=25, crf=20)


def test_a_disk_that_takes_nothing_is_no_fault_of_the_original(tmp_path):
    path = write_video(tmp_path / "a.mp4", CONSTANT)
    target = tmp_path / "gone" / f"{digest_file(path)}-{'0' * 32}.proxy"
    with pytest.raises(Reject, match="unwritten"):
        make((path,), target=target, alive=lambda: None, short_side=360, key_every=25, crf=20)


def bordered(path, lights):
    """A picture inside black bars, as bright as `lights` says frame by frame; 255 fills all."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for light in lights:
            picture = np.full((96, 160, 3), 255 if light == 255 else 0, np.uint8)
            picture[:, 32:128] = light
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        out.mux(stream.encode(None))
    return path


def test_the_border_is_that_of_the_recording_for_every_clip(tmp_path):
    # A title fills the picture at first, and in the end it is too dark to see where it stops.
    path = bordered(tmp_path / "a.mp4", [255] * 2 + [120] * 40 + [4] * 8)
    target, _ = proxy_of(path)
    x0, y0, x1, y1 = open_reader((target,)).border
    assert (y0, y1) == (0, 96)
    assert abs(x0 - 32) <= 2
    assert abs(x1 - 128) <= 2
    contract = ClipPreprocessConfig(frames=2, size=32).build()
    dark = (10.75, 12.5)
    for span in ((2.0, 4.0), dark):
        clip = contract.read([target], span)
        assert clip[:, :, 1:-1].max(axis=(0, 1, 3)).min() >= (3 if span == dark else 110)
    alone = contract.read([path], dark)
    assert alone[:, :, :5].max() < 3  # by itself, the clip does not show where its border is


def test_rare_titles_and_dark_moments_do_not_move_a_recordings_border():
    frames = np.zeros((20, 40, 80, 3), np.uint8)
    frames[4:, 4:36, 10:70] = 100
    frames[:2] = 255
    assert recording_box(frames) == (10, 4, 70, 36)
    frames[:3] = 255
    assert recording_box(frames) == (0, 0, 80, 40)
    assert recording_box(np.zeros((3, 8, 8, 3), np.uint8)) == (0, 0, 8, 8)


def test_a_proxy_of_a_real_clip(shared, tmp_path):
    clips = sorted(Path(shared / "data" / "surg-cctpg-mp4").rglob("*.mp4"))
    source = next(clip for clip in clips if clip.stat().st_size > 10_000)
    path = tmp_path / "a.mp4"
    with av.open(str(source)) as read, av.open(str(path), "w") as out:
        copy = out.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.dts is not None and packet.pts * packet.time_base < 3:
                packet.stream = copy
                out.mux(packet)
    target, made = proxy_of(path)
    reader = open_reader((target,))
    assert made.psnr_db > 36
    assert reader.shape[1:] == (360, 640)
    np.testing.assert_array_equal(reader.times, open_reader((path,)).times)
