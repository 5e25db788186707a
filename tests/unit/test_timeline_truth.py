"""A timeline beside what people annotated: metrics by hand, and the truth of a manifest."""

import numpy as np
import pytest

from medvlp.data.manifest import write_manifest
from medvlp.errors import InputError
from medvlp_video.timeline.asked import Asked, find_recording
from medvlp_video.timeline.stream import Moment
from medvlp_video.timeline.track import Track
from medvlp_video.timeline.truth import judged, truth_from_table

PHASES = ("mild", "none", "large")


def seen(labels):
    for i, label in enumerate(labels):
        p = np.full(3, 0.1, np.float32)
        p[label] = 0.8
        yield Moment(
            time_s=float(i), state="seen", probability_L=p, label=label, smoothed=label,
            confidence=0.8,
        )  # fmt: skip


def test_metrics_are_those_of_the_segments(tmp_path):
    (tmp_path / "t.csv").write_text("name,start_s,end_s\nmild,0,4\nnone,4,8\nmild,8,10\n")
    truth = truth_from_table(tmp_path / "t.csv", PHASES)
    track = Track(PHASES, pictures=False)
    for moment in seen([0, 0, 0, 0, 1, 1, 0, 0, 0, 0]):
        track.add(moment, None, 0.01)
    found = judged(track, truth)["smoothed"]
    assert found["accuracy"] == pytest.approx(0.8)
    # mild: 6 right of 8 called and 6 true; none: 2 right of 2 called and 4 true
    assert found["f1_macro"] == pytest.approx((12 / 14 + 4 / 6) / 2)
    assert found["edit_score"] == 1
    # overlaps: 4/4, 2/4, 2/4
    assert found["segment_f1_50"] == 1


def test_the_truth_of_a_manifests_sample(tmp_path):
    film, prompts = tmp_path / "film.mp4", tmp_path / "phases.yaml"
    tables = {
        "samples": [
            {
                "sample": "s1", "domain": "video", "patient": "p1", "source": "src1",
                "sha256": "0" * 64, "kind": "video", "split": "train", "reader": "decord",
                "duration_s": 4.0,
            }
        ],
        "regions": [
            {"sample": "s1", "name": name, "kind": "interval", "geometry": [a, b]}
            for name, a, b in (("mild", 0.0, 2.0), ("none", 1.0, 3.0), ("other", 0.0, 4.0))
        ],
    }  # fmt: skip
    sources = [{"source": "src1", "part": 0, "path": str(film)}]
    info = {"key_id": "test", "counts": {}}
    write_manifest(tmp_path / "m", tables, sources, info, key=b"k" * 32)
    asked = Asked(
        video="s1", bundle=tmp_path, prompts=prompts, out=tmp_path / "o", manifest=tmp_path / "m"
    )
    recording, truth = find_recording(asked, PHASES)
    assert recording.paths == (film,)
    assert recording.told == {"sample": "s1"}
    # between 1 and 2 two are true: nobody knows which
    assert truth.at(np.array([0.5, 1.5, 2.5, 3.5])).tolist() == [0, -1, 1, -1]
    with pytest.raises(InputError, match="no video sample"):
        find_recording(Asked(**{**asked.__dict__, "video": "s2"}), PHASES)
