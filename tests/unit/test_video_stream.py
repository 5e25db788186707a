"""What the timeline is made of: frames in sequence, steady labels, the pace, the blanking gate."""

import itertools

import av
import numpy as np
import pytest
from catalogue.cases_video import bytes_turned, holed, video
from clocks import ToldClock
from PIL import Image
from scipy.linalg import expm

from medvlp.archive.verdict import Reject
from medvlp.errors import InputError
from medvlp_video.border import picture_box
from medvlp_video.preprocess import ClipPreprocessConfig
from medvlp_video.read import open_reader
from medvlp_video.timeline.blank import Gate, load_rule, redness
from medvlp_video.timeline.clips import SETTLE_S, CausalBorder
from medvlp_video.timeline.live import Newest
from medvlp_video.timeline.smooth import ForwardFilter, MinimumDuration
from medvlp_video.timeline.subtitles import ass, vtt
from medvlp_video.timeline.track import Segment


@pytest.fixture
def film(tmp_path):
    def write(data):
        path = tmp_path / "film.mp4"
        path.write_bytes(data)
        return path

    return write


UNEVEN = tuple(40 * k + 300 * (k > 20) + 11 * (k % 3) for k in range(60))


@pytest.mark.parametrize("group", [4, 60], ids=["short-groups", "one-group"])
@pytest.mark.parametrize("times_ms", [tuple(range(0, 2400, 40)), UNEVEN], ids=["even", "uneven"])
def test_a_stream_gives_the_frames_that_are_asked_for_one_by_one(film, times_ms, group):
    reader = open_reader((film(video(times_ms, group=group)),))
    for times in ([0.0, 0.5, 0.52, 0.9, 0.9, 2.0], np.arange(0, 2.4, 0.1)):
        streamed = np.stack(list(reader.stream(times)))
        np.testing.assert_array_equal(streamed, reader.frames_at(times))


@pytest.mark.parametrize("data", [holed(0.6, 600, frames=240), bytes_turned(0.35, 12)])
def test_a_stream_has_nothing_in_place_of_damaged_frames(film, data):
    reader = open_reader((film(data),))
    bad = reader.bad_frames().tolist()
    streamed = list(reader.stream(reader.times))
    assert [i for i, frame in enumerate(streamed) if frame is None] == bad != []
    good = np.array([i for i in range(len(streamed)) if i not in bad])
    np.testing.assert_array_equal(np.stack([streamed[i] for i in good]), reader.decode(good))


def test_a_stream_takes_a_time_only_when_its_frame_is_wanted(film):
    reader = open_reader((film(video()),))
    asked = []

    def times():
        for time_s in (0.0, 0.4, 0.8):
            asked.append(time_s)
            yield time_s

    stream = reader.stream(times())
    next(stream)
    assert asked == [0.0]
    next(stream)
    assert asked == [0.0, 0.4]


def test_a_file_without_its_end_is_read_as_far_as_it_goes(film):
    path = film(b"")
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for _ in range(100):
            noise = rng.integers(0, 256, (32, 48, 3), np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(noise, "rgb24")))
        file.mux(stream.encode(None))
    whole = path.read_bytes()
    want = open_reader((path,)).decode(np.arange(100))
    path.write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.raises(Reject, match="truncated"):
        open_reader((path,))
    reader = open_reader((path,), cut=True)
    assert reader.cut_tail
    got = list(reader.stream(reader.times))
    assert 40 < len(got) < 80
    # the last one is cut in the middle, and others that come out with it are doubtful
    good = [frame is not None for frame in got].index(False)
    assert len(got) - good < 9
    assert got[good:] == [None] * (len(got) - good)
    np.testing.assert_array_equal(np.stack(got[:good]), want[:good])


def by_hand(reader, rate):
    """The first tick at which each shown frame is shown."""
    ticks = np.arange(int(reader.duration_s * rate) + 1) / rate
    ticks = ticks[(ticks >= reader.times[0] - 1e-4) & (ticks < reader.duration_s)]
    shown = reader.index_at(ticks)
    return ticks[np.flatnonzero(np.diff(shown, prepend=-1))]


@pytest.mark.parametrize("rate", [0.5, 1, 2.5, 30])
def test_frames_are_sampled_where_another_one_is_shown(film, tmp_path, rate):
    for number in (3, 7, 8, 30):
        Image.new("RGB", (20, 10)).save(tmp_path / f"{number:03d}.png")
    for reader in (open_reader((tmp_path,)), open_reader((film(video(UNEVEN)),))):
        np.testing.assert_allclose(reader.sampled(rate), by_hand(reader, rate))


def test_the_filter_equals_the_sum_over_all_paths():
    rng = np.random.default_rng(1)
    labels, dwell, window = 3, 20.0, 4.0
    times = np.array([0.0, 1.0, 2.5, 9.0, 9.5])
    scores = rng.dirichlet(np.ones(labels), len(times))
    leave = (np.ones((labels, labels)) - labels * np.eye(labels)) / (labels - 1) / dwell
    share = np.append(1.0, np.minimum(1, np.diff(times) / window))
    online = ForwardFilter(labels, dwell, window)
    for t in range(len(times)):
        weight = np.zeros(labels)
        for path in itertools.product(range(labels), repeat=t + 1):
            p = 1 / labels * scores[0, path[0]]
            for i in range(1, t + 1):
                step = expm(leave * (times[i] - times[i - 1]))
                p *= step[path[i - 1], path[i]] * scores[i, path[i]] ** share[i]
            weight[path[-1]] += p
        found = online.update(scores[t], times[t])
        np.testing.assert_allclose(found, weight / weight.sum(), atol=1e-12)


def test_what_is_not_seen_is_forgotten_slowly():
    online = ForwardFilter(2, 30.0, 1.0)
    sure = online.update(np.array([0.99, 0.01]), 0.0)
    later = [online.update(None, t)[0] for t in (1.0, 30.0, 3000.0)]
    assert sure[0] > later[0] > later[1] > later[2]
    assert later[2] == pytest.approx(0.5)


def test_a_change_has_to_last():
    steady = MinimumDuration(3.0)
    given = [0, 1, 0, 1, 1, 2, 1, 1, 1, 1, 1, 0]
    told = [steady.update(label, float(t)) for t, label in enumerate(given)]
    assert told == [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1]
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.1, 2, 500))
    steady = MinimumDuration(5.0)
    lead = np.cumsum(rng.random(500) < 0.2) % 2
    found = np.array([steady.update(int(label), t) for label, t in zip(lead, times, strict=True)])
    changes = times[1:][np.diff(found) != 0]
    assert len(changes) > 9
    assert np.diff(changes, prepend=times[0]).min() >= 5 - 1e-6


@pytest.mark.parametrize(
    ("work_s", "seen"),
    [
        (0.0, [5, 6, 7, 8, 9, 10, 11, 12]),
        (0.9, [5, 6, 7, 8, 9, 10, 11, 12]),
        # after 2.5 s of work the frame of second 7 is the newest, after 5 s that of second 10
        (2.5, [5, 7, 10, 12]),
        (100.0, [5, 12]),
    ],
)
def test_the_newest_frame_wins(work_s, seen):
    clock = ToldClock(100.0)
    pace = Newest(np.arange(5.0, 13.0), clock)
    taken = []
    for time_s in pace:
        assert pace.lag_s(time_s) < max(work_s - 6, 1)
        taken.append(time_s)
        clock.time += work_s
    assert taken == seen
    assert pace.dropped == 8 - len(seen)


def test_whatever_a_rule_does_not_answer_is_blanked():
    def rule(frame):
        frame[:] = 0
        if len(answers) == 1:
            raise RuntimeError
        return answers.pop()

    frame = np.full((8, 8, 3), 99, np.uint8)
    answers = [None, 1, "yes", None, np.True_, False, True]
    gate = Gate(rule)
    assert [gate.passes(frame) for _ in range(7)] == [True, False, True] + [False] * 4
    assert gate.failed == 4
    assert frame.min() == 99
    assert Gate(None).passes(frame)


def test_rules_are_found_by_name():
    assert load_rule(None) is None
    assert load_rule("redness") is redness
    assert load_rule("medvlp_video.timeline.blank:redness") is redness
    for word in (
        "greenness",
        "no_such_module:f",
        "medvlp_video.timeline.blank:none",
        "json:loads:x",
    ):
        with pytest.raises(InputError, match="--blank"):
            load_rule(word)
    with pytest.raises(InputError, match="no function"):
        load_rule("medvlp_video.timeline.blank:LIT")


def picture(colour, noise=20):
    rng = np.random.default_rng(3)
    spread = rng.integers(-noise, noise + 1, (60, 80, 3))
    return np.clip(np.array(colour) + spread, 0, 255).astype(np.uint8)


def test_tissue_is_red_and_rooms_are_not():
    assert redness(picture((170, 70, 60)))
    assert redness(picture((150, 90, 85)))
    for room in ((120, 125, 130), (40, 90, 160), (60, 140, 90), (235, 235, 235), (9, 2, 2)):
        assert not redness(picture(room))
    # a round view of tissue in a black frame
    view = np.zeros((60, 80, 3), np.uint8)
    view[10:50, 20:60] = picture((170, 70, 60))[10:50, 20:60]
    assert redness(view)


def test_redness_on_a_real_operation(shared):
    folder = shared / "data" / "surg-cholect50" / "videos" / "VID73"
    if not folder.is_dir():
        pytest.skip("surg-cholect50 is not there")
    reader = open_reader((folder,))
    times = reader.times[::4]
    inside = [redness(frame) for frame in reader.stream(times)]
    # Most of it is tissue; towards the end the camera looks at the wall of a trocar.
    assert np.mean(inside) > 0.9
    assert not any(redness(frame) for frame in reader.stream([1304.0, 1306.0, 1353.0]))


def test_the_border_is_found_from_the_past_alone():
    preprocess = ClipPreprocessConfig(size=16).build()
    frames = np.zeros((4, 40, 60, 3), np.uint8)
    frames[0, 4:36, 15:45] = 90
    frames[1, 4:36, 10:50] = 90
    frames[2:, :, :] = 90
    border = CausalBorder(preprocess)
    assert border.box(frames[0], 7.0) == picture_box(frames[:1]) == (15, 4, 45, 36)
    assert border.box(frames[1], 8.0) == picture_box(frames[:2]) == (10, 4, 50, 36)
    # by then it stands
    assert border.box(frames[2], 7.0 + SETTLE_S) == (10, 4, 50, 36)
    with pytest.raises(ValueError, match="after"):
        border.box(frames[0, :20], 30.0)
    kept = CausalBorder(ClipPreprocessConfig(size=16, border="keep").build())
    assert kept.box(frames[0], 0.0) == (0, 0, 60, 40)


def test_subtitles_say_what_holds_and_take_no_commands():
    def part(name, label, start_s, end_s):
        return Segment(name=name, label=label, start_s=start_s, end_s=end_s, confidence=0.876)

    parts = [part("a {\\b1} <i>\n& b", 0, 0, 61.5), part("blank", None, 61.5, 3661.25)]
    assert vtt(parts) == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:01:01.500\na {\\b1} &lt;i&gt; &amp; b (88%)\n\n"
        "00:01:01.500 --> 01:01:01.250\nblank\n"
    )
    lines = ass(parts).splitlines()
    assert lines[-2:] == [
        "Dialogue: 0,0:00:00.00,0:01:01.50,Phase,a (/b1) <i> & b (88%)",
        "Dialogue: 0,0:01:01.50,1:01:01.25,Phase,blank",
    ]
