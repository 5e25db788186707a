"""Phantom surgical procedures: real MP4 files with phases, steps, actions and narration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import polars as pl
from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.phantom.patients import draw_patient, patient_generator
from medvlp.phantom.write import Phantom, PhantomConfig, Row, Rows
from medvlp_video.phantom_film import Film, write_film
from medvlp_video.phantom_story import Story, draw_story
from medvlp_video.phantom_words import tell

VIDEOS, NARRATION = "videos.csv", "narration.csv"
INTERVALS, BOXES, NOISE = "truth/intervals.csv", "truth/boxes.csv", "truth/narration_noise.csv"

_SPREAD = 0.15
"""Recordings last this much more or less than the setting says, whatever they show."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VideoPhantomConfig(PhantomConfig):
    """Settings of the surgical phantom; `n` counts procedures."""

    seconds: Annotated[float, Field(ge=4, le=7200)] = 60.0
    """Mean length of a procedure."""
    size: Annotated[int, Field(ge=64, le=1024, multiple_of=16)] = 224
    """Side of the picture in pixels."""
    fps: Annotated[int, Field(ge=1, le=60)] = 25
    gop: Annotated[int, Field(ge=1, le=1000)] = 15
    """Frames from one key frame to the next."""


def write_procedure(folder: Path, config: VideoPhantomConfig, index: int) -> Rows:
    """Write procedure `index` as ``videos/<patient>.mp4`` and return its tables' rows."""
    patient = draw_patient("video", config.seed, index)

    def rng(purpose: str) -> Any:
        return patient_generator("video", config.seed, index, purpose)

    seconds = config.seconds * float(rng("length").uniform(1 - _SPREAD, 1 + _SPREAD))
    story = draw_story(rng("story"), round(seconds * config.fps) / config.fps)
    name = f"{patient.id}.mp4"
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    film = Film(story, rng("film"), config.size, config.fps)
    write_film(folder / "videos" / name, film, config.gop)
    texts = [asdict(text) for text in tell(rng("words"), story)]
    told = {"node", "parent", "level", "source", "start_s", "end_s", "text", "confidence"}
    noise = {"node", "fault", "true_start_s", "true_end_s"}
    return {
        VIDEOS: [
            {
                "video": name,
                "patient": patient.id,
                "sex": patient.sex,
                "age": patient.age,
                "site": patient.site,
                "acquired": patient.acquired.isoformat(),
            }
        ],
        NARRATION: [{"video": name, **{k: text[k] for k in told}} for text in texts],
        NOISE: [
            {"video": name, **{k: text[k] for k in noise}}
            for text in texts
            if text["level"] == "clip"
        ],
        INTERVALS: [{"video": name, **row} for row in _intervals(story)],
        BOXES: [
            {
                "video": name,
                "time_s": box.time_s,
                "name": f"instrument:{box.instrument}",
                **dict(zip(("x0", "y0", "x1", "y1"), box.box, strict=True)),
            }
            for box in film.boxes
        ],
    }


def index_options(config: VideoPhantomConfig) -> Mapping[str, Any]:
    """The ``index.yaml`` of this archive."""
    return {
        "options": {
            "videos": VIDEOS,
            "texts": NARRATION,
            "intervals": INTERVALS,
            "boxes": BOXES,
        }
    }


def _intervals(story: Story) -> list[Row]:
    parts = [
        *(("phase", phase) for phase in story.phases),
        *(("step", step) for step in story.steps),
        *(("triplet", deed) for deed in story.deeds),
    ]
    named = [(part, f"{kind}:{part.name}") for kind, part in parts]
    named += [(deed, f"instrument:{deed.action[0]}") for deed in story.deeds]
    return [{"start_s": part.start_s, "end_s": part.end_s, "name": name} for part, name in named]


_TEXT, _NUMBER = pl.String(), pl.Float64()
_SPAN = {"start_s": _NUMBER, "end_s": _NUMBER}

PHANTOM = Phantom(
    config=VideoPhantomConfig,
    patient=write_procedure,
    tables={
        VIDEOS: {
            "video": _TEXT, "patient": _TEXT, "sex": _TEXT, "age": pl.Int32(), "site": _TEXT,
            "acquired": _TEXT,
        },
        NARRATION: {
            "video": _TEXT, "node": _TEXT, "parent": _TEXT, "level": _TEXT, "source": _TEXT,
            **_SPAN, "text": _TEXT, "confidence": _NUMBER,
        },
        INTERVALS: {"video": _TEXT, **_SPAN, "name": _TEXT},
        BOXES: {
            "video": _TEXT, "time_s": _NUMBER, "name": _TEXT,
            "x0": _NUMBER, "y0": _NUMBER, "x1": _NUMBER, "y1": _NUMBER,
        },
        NOISE: {
            "video": _TEXT, "node": _TEXT, "fault": _TEXT, "true_start_s": _NUMBER,
            "true_end_s": _NUMBER,
        },
    },
    index=index_options,
)  # fmt: skip
