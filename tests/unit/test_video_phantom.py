"""The surgical phantom: deterministic, true to its tables, and silent about the phase elsewhere."""

from collections import Counter
from itertools import pairwise

import av
import numpy as np
import polars as pl
import pytest

from medvlp.archive.index import index_archive
from medvlp.config import validate
from medvlp.data.manifest import Manifest
from medvlp.data.prompts import load_prompts
from medvlp.errors import ConfigError
from medvlp.phantom.write import write_archive
from medvlp_video import phantom_film
from medvlp_video.phantom import PHANTOM, VideoPhantomConfig
from medvlp_video.phantom_film import Film, blot, paste
from medvlp_video.phantom_scene import TISSUES, draw_tool, yuv
from medvlp_video.phantom_story import PHASES, draw_story
from medvlp_video.phantom_words import PHASE_WORDS, STEP_WORDS, as_heard, tell
from medvlp_video.read import open_reader

SMALL = {"n": 3, "seed": 5, "seconds": 10.0, "size": 64, "fps": 10, "workers": 1}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "archive"
    write_archive(PHANTOM, folder, VideoPhantomConfig(**SMALL))
    return folder


def test_the_same_seed_gives_the_same_bytes(archive, tmp_path):
    again = tmp_path / "again"
    write_archive(PHANTOM, again, VideoPhantomConfig(**SMALL))
    files = sorted(p.relative_to(archive) for p in archive.rglob("*") if p.is_file())
    assert len(files) == 3 + 6
    for name in files:
        assert (archive / name).read_bytes() == (again / name).read_bytes(), name
    other = tmp_path / "other"
    write_archive(PHANTOM, other, VideoPhantomConfig(**{**SMALL, "n": 1, "seed": 6}))
    assert (other / "narration.csv").read_bytes() != (archive / "narration.csv").read_bytes()


def test_videos_have_the_size_rate_and_key_frames_asked_for(archive):
    for path in (archive / "videos").iterdir():
        reader = open_reader((path,))
        assert reader.shape[1:] == (64, 64)
        assert reader.fps == pytest.approx(10)
        assert 8.4 <= reader.duration_s <= 11.6
        with av.open(str(path)) as container:
            keys = [p.pts for p in container.demux(video=0) if p.is_keyframe and p.size]
            assert len(keys) >= reader.shape[0] / 15


def test_index_yaml_does_everything(archive, tmp_path):
    index_archive(archive, kind="video", out=tmp_path / "m", config=archive / "index.yaml")
    manifest = Manifest.open(tmp_path / "m")
    assert manifest.samples.height == 3
    assert set(manifest.texts["level"]) == {"procedure", "phase", "step", "clip"}
    assert manifest.texts.filter(pl.col("level") != "procedure")["parent"].null_count() == 0
    kinds = Counter(manifest.regions["kind"])
    assert kinds["interval"] > 0
    assert kinds["box"] > 0
    assert set(manifest.rejects["code"]) == {"no_video"}


def test_levels_cover_the_recording_and_nest():
    for seed in range(40):
        story = draw_story(np.random.default_rng(seed), 60.0)
        for parts in (story.phases, story.steps, story.deeds):
            assert parts[0].start_s == 0
            assert parts[-1].end_s == 60
            assert all(a.end_s == b.start_s and a.end_s > a.start_s for a, b in pairwise(parts))
        for deed in story.deeds:
            step, phase = story.steps[deed.step], story.phases[deed.phase]
            assert phase.start_s <= step.start_s <= deed.start_s
            assert deed.end_s <= step.end_s <= phase.end_s
            assert deed.action in PHASES[phase.name][step.name]


def test_neither_time_nor_length_tells_the_phase():
    time_of, length_of = Counter(), {}
    stories = [draw_story(np.random.default_rng(seed), 60.0) for seed in range(700)]
    for story in stories:
        at_half = next(p for p in story.phases if p.end_s > 30.0)
        first = story.phases[0]
        time_of[0, first.name] += 1
        time_of[30, at_half.name] += 1
        for phase in story.phases:
            length_of.setdefault(phase.name, []).append(phase.end_s - phase.start_s)
    # 700 draws over 7 phases: 100 expected, standard deviation 9.3.
    assert all(60 <= time_of[when, name] <= 140 for when in (0, 30) for name in PHASES)
    means = [np.mean(lengths) for lengths in length_of.values()]
    assert max(means) / min(means) < 1.06
    assert any(len(story.phases) > len({p.name for p in story.phases}) for story in stories)
    assert any(len({p.name for p in story.phases}) < len(PHASES) for story in stories)


def test_every_phase_and_step_has_a_look_and_words():
    assert set(TISSUES) == set(PHASES) == set(PHASE_WORDS)
    assert set(STEP_WORDS) == {step for steps in PHASES.values() for step in steps}


def test_the_prompt_set_names_the_phases_as_the_regions_do(request):
    path = request.config.rootpath / "configs" / "evaluate" / "prompts" / "surgical-phantom.yaml"
    prompts = load_prompts(path)
    assert set(prompts.labels) == {f"phase:{name}" for name in PHASES}
    assert prompts.mode == "exclusive"


def test_boxes_hold_the_instrument(monkeypatch):
    """Within a box the film with instruments differs from the same film without."""
    story = draw_story(np.random.default_rng(3), 30.0)
    film = Film(story, np.random.default_rng(4), 96, 5)
    frames = [frame[:96].copy() for frame in film.frames()]
    monkeypatch.setattr(phantom_film, "paste", lambda *_: None)
    bare = Film(story, np.random.default_rng(4), 96, 5)
    empty = [frame[:96].copy() for frame in bare.frames()]
    assert len(film.boxes) > 10
    inside, outside = [], []
    for box in film.boxes:
        changed = frames[round(box.time_s * 5)] != empty[round(box.time_s * 5)]
        x0, y0, x1, y1 = (round(v * 96) for v in box.box)
        inside.append(changed[y0:y1, x0:x1].mean())
        outside.append((changed.sum() - changed[y0:y1, x0:x1].sum()) / changed.sum())
    assert np.mean(np.array(inside) > 0.15) > 0.9
    # What lies outside the box is the shaft, along one line.
    assert np.mean(outside) < 0.95


def test_a_sprite_is_pasted_with_its_tip_where_asked():
    sprite = draw_tool("hook", 0.0, 0.0, 96)
    picture = yuv(np.full((96, 96, 3), 120, np.uint8))
    before = picture[0].copy()
    paste(picture, sprite, (60, 48))
    rows, columns = np.nonzero(picture[0] != before)
    # Pointing right, the shaft enters from the left and ends at the tip.
    assert columns.min() == 0
    assert 58 <= columns.max() <= 62
    assert 44 <= rows.min() <= rows.max() <= 56
    paste(picture, sprite, (-500, 48))


def test_a_blot_is_a_disc_and_stays_inside():
    planes = yuv(np.zeros((40, 40, 3), np.uint8))
    blot(planes, yuv(np.full((2, 2, 3), 255, np.uint8)), (0.0, 20.0), 6.0)
    assert (planes[0] == 235).sum() == pytest.approx(np.pi * 36 / 2, rel=0.15)
    blot(planes, yuv(np.full((2, 2, 3), 255, np.uint8)), (-50.0, 20.0), 6.0)


def test_planes_follow_bt601():
    """Limited-range anchors: black 16, white 235, pure red (81, 90, 240)."""
    for colour, wanted in (
        ((0, 0, 0), (16, 128, 128)),
        ((255, 255, 255), (235, 128, 128)),
        ((255, 0, 0), (81, 90, 240)),
    ):
        planes = yuv(np.full((2, 2, 3), colour, np.uint8))
        assert [int(p.flat[0]) for p in planes] == pytest.approx(wanted, abs=1)


def test_faults_of_the_narration_are_as_told():
    stories = [draw_story(np.random.default_rng(seed), 60.0) for seed in range(30)]
    texts = [t for i, s in enumerate(stories) for t in tell(np.random.default_rng(i), s)]
    clips = [t for t in texts if t.level == "clip"]
    share = {fault: n / len(clips) for fault, n in Counter(t.fault for t in clips).items()}
    assert 0.8 < share["none"] < 0.9
    assert 0.02 < share["off-topic"] < 0.09
    shifted = [abs(t.start_s - t.true_start_s) for t in clips if t.fault == "none"]
    assert np.mean(shifted) < 0.6
    assert all(0 <= t.start_s < t.end_s <= 60 for t in texts)
    assert len({t.text for t in clips}) > 0.9 * len(clips)


def test_speech_is_heard_with_losses():
    words = "the hook is dissecting the cystic duct from its bed of fat today"
    heard = [as_heard(np.random.default_rng(seed), words) for seed in range(200)]
    kept = np.mean([fraction for _, fraction in heard])
    assert 0.92 < kept < 0.98
    assert any("uh" in text.split() for text, _ in heard)


def test_settings_are_strict():
    with pytest.raises(ConfigError, match="size"):
        validate(VideoPhantomConfig, {"size": 100}, "settings")
