"""Do a step's frames look like what is said? Cosines of a bundle against mismatched pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvlp.archive.stage.child import Children
from medvlp.archive.verdict import Verdict
from medvlp.data.randomness import generator
from medvlp.errors import InputError
from medvlp.evaluate.files import BATCH, open_bundle
from medvlp.models.inputs import Source, chunks, read_each
from medvlp.progress import track
from medvlp_video.check import looking
from medvlp_video.read import resolve
from medvlp_video.source import names_in_tables

Floats = NDArray[np.float32]

MOST_PARTNERS = 256
"""Other steps that a step is compared with."""

_ROUNDING = 1e-6
"""Cosines of unit vectors in single precision that differ by less are the same."""

LEAST_PARTNERS = 8
"""Below so many, nothing can be said of a step."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A step: what is said while what is seen."""

    video: str
    span: tuple[float, float]
    """Seconds."""
    text: str


class Sight:
    """Compares steps' texts with their frames by a bundle.

    Args:
        bundle: The bundle's folder.
        videos: The recordings: a folder of them, as `medvlp index --kind video` takes it.

    Raises:
        BundleError: It cannot be opened.
        InputError: It is no bundle of videos, or there is no recording.
    """

    def __init__(self, bundle: Path, videos: Path) -> None:
        self._model = open_bundle(bundle)
        if self._model.info.domain != "video":
            raise InputError(
                f"the bundle is of the domain {self._model.info.domain}",
                remedy="name a bundle of the domain video with --bundle",
            )
        if not videos.exists():
            raise InputError(
                "the folder of videos does not exist", remedy="name an existing one with --videos"
            )
        root = videos if videos.is_dir() else videos.parent
        named = names_in_tables(root, resolve(videos))
        self._paths = {name: paths for paths, names in named.items() for name in names}
        self.digest = self._model.digest

    def compare(self, steps: Sequence[Shown]) -> list[float | str | None]:
        """For each step the share of mismatched pairs that it beats, or why it was not seen.

        None where there are too few other steps to compare it with; a code such as
        ``unknown_video`` or ``span_outside`` where its frames cannot be read.
        """
        sound = self._sound(step.video for step in steps)
        answers: list[float | str | None] = [
            sound.get(step.video, "unknown_video") for step in steps
        ]
        read = [i for i, answer in enumerate(answers) if answer == ""]
        sources = [
            Source(position=0, paths=self._paths[steps[i].video], span=steps[i].span) for i in read
        ]
        arrays = zip(read, read_each(sources, self._model.preprocess), strict=True)
        seen: list[int] = []
        images: list[Floats] = []
        for chunk in chunks(track(arrays, "Looking at steps", total=len(read)), BATCH):
            for i, (_, array) in chunk:
                answers[i] = array if isinstance(array, str) else None
            good = [(i, array) for i, (_, array) in chunk if not isinstance(array, str)]
            if good:
                seen += [i for i, _ in good]
                images.append(self._model.embed_stored([array for _, array in good]))
        if seen:
            text_NE = self._model.embed_text([steps[i].text for i in seen])
            shares = shares_beaten(np.concatenate(images), text_NE, [steps[i] for i in seen])
            for i, share in zip(seen, shares, strict=True):
                answers[i] = share
        return answers

    def _sound(self, videos: Iterable[str]) -> dict[str, str]:
        """Video -> the code why it cannot be read, or nothing.

        Recordings are looked at in a process of their own first, which a damaged one cannot take
        this one with.
        """
        wanted = sorted({video for video in videos if video in self._paths})
        found: dict[tuple[Path, ...], str] = {}
        with Children(1) as children:
            answers = children.run(looking(), [self._paths[video] for video in wanted])
            for paths, answer in track(answers, "Checking videos", total=len(wanted)):
                found[tuple(paths)] = answer.code if isinstance(answer, Verdict) else ""
        return {video: found[self._paths[video]] for video in wanted}


def shares_beaten(image_NE: Floats, text_NE: Floats, steps: Sequence[Shown]) -> list[float | None]:
    """The share of mismatched pairs whose cosine is below that of a step's own pair.

    Mismatched are the step's frames with another step's text, and the other's frames with its
    text, so that a text which resembles everything beats no more than one that resembles little.
    Equal cosines, up to rounding, count half. Other steps at the same time of the same video are
    left out.

    Args:
        image_NE: Unit vectors of the steps' frames.
        text_NE: Unit vectors of their texts.
        steps: The N steps.
    """
    shares: list[float | None] = []
    for i in range(len(steps)):
        partner_M = _partners(i, steps)
        if len(partner_M) < LEAST_PARTNERS:
            shares.append(None)
            continue
        own = float(image_NE[i] @ text_NE[i])
        other_M = np.concatenate(
            [text_NE[partner_M] @ image_NE[i], image_NE[partner_M] @ text_NE[i]]
        )
        equal_M = np.isclose(other_M, own, rtol=0, atol=_ROUNDING)
        beaten = np.mean((other_M < own) & ~equal_M) + np.mean(equal_M) / 2
        shares.append(float(beaten))
    return shares


def _partners(i: int, steps: Sequence[Shown]) -> NDArray[np.int64]:
    """Up to `MOST_PARTNERS` other steps, drawn by the step's place alone."""
    other = np.arange(len(steps) - 1)
    if len(other) > MOST_PARTNERS:
        rng = generator(0, 0, str(i), "mismatched pairs")
        other = np.sort(rng.choice(len(other), MOST_PARTNERS, replace=False))
    other += other >= i
    start_s, end_s = steps[i].span
    apart = [
        steps[j].video != steps[i].video or steps[j].span[1] <= start_s or steps[j].span[0] >= end_s
        for j in other.tolist()
    ]
    return np.asarray(other[np.array(apart, bool)])
