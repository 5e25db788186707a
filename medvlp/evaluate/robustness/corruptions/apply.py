"""One stored array, corrupted: the same bytes for the same (seed, sample, kind, level)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medvlp.config import read_yaml
from medvlp.data.randomness import generator
from medvlp.errors import ConfigError
from medvlp.evaluate.robustness.corruptions import ct, video, xray
from medvlp.evaluate.robustness.forms import Form, Kind, form_of

Level = Literal[1, 2, 3, 4, 5]
LEVELS: tuple[Level, ...] = (1, 2, 3, 4, 5)
Floats = NDArray[np.float32]
Corruption = Callable[[Floats, np.random.Generator, float], Floats]

KINDS: Mapping[Kind, Mapping[str, Corruption]] = MappingProxyType(
    {"xray": xray.KINDS, "ct": ct.KINDS, "video": video.KINDS}
)


@cache
def strengths() -> Mapping[str, Mapping[str, tuple[float, ...]]]:
    """Form -> kind -> the strengths of levels 1 to 5."""
    table = read_yaml(Path(__file__).with_name("levels.yaml"))
    return {form: {k: tuple(v) for k, v in kinds.items()} for form, kinds in table.items()}


def corrupted(
    stored: NDArray[Any], kind: str, level: int, *, seed: int, sample: str
) -> NDArray[Any]:
    """A stored array as it would be stored after a corruption.

    All levels of a kind share their random draws, so that a higher level is more of the same.

    Args:
        stored: An array of one of the three forms.
        kind: A name of `levels.yaml`.
        level: 1 to 5.
        seed: Of the draws.
        sample: Whose array it is.

    Raises:
        ConfigError: The form is unknown, or has no corruption of that name.
    """
    form = form_of(stored)
    known = KINDS[form.kind]
    if kind not in known:
        raise ConfigError(
            f"no corruption {kind!r} of {form.kind} arrays",
            remedy=f"choose among {', '.join(known)}",
        )
    rng = generator(seed, 0, sample, f"corruption {kind}")
    values = _planes(form, form.physical(stored))
    changed = known[kind](values, rng, strengths()[form.kind][kind][level - 1])
    return np.ascontiguousarray(form.restored(_frames(form, changed)))


def _planes(form: Form, values: Floats) -> Floats:
    """Rows and columns last."""
    return np.ascontiguousarray(np.moveaxis(values, -1, 1)) if form.kind == "video" else values


def _frames(form: Form, values: Floats) -> Floats:
    return np.moveaxis(values, 1, -1) if form.kind == "video" else values


def psnr(before: NDArray[Any], after: NDArray[Any]) -> float:
    """Peak signal-to-noise ratio in dB, over the form's full range; infinite for equal arrays."""
    form = form_of(before)
    gap = form.physical(before).astype(np.float64) - form.physical(after)
    error = float(np.mean(np.square(gap)))
    span = form.highest - form.lowest
    return float("inf") if error == 0 else 10 * float(np.log10(span * span / error))
