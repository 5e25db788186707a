"""Frames from outside the body are blanked: they show staff and rooms, and no phase.

A rule says of a frame whether it is inside. What it cannot say of a frame, for whatever reason,
counts as outside: a frame that is let through by mistake cannot be taken back.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlp.errors import InputError
from medvlp_video.border import BLACK

Inside = Callable[[NDArray[np.uint8]], Any]
"""(H,W,3) RGB frame -> True inside the body, False outside."""

RULES = ("redness",)

REDDER = 1.1
"""How much red exceeds green and blue in tissue, at least."""

TISSUE = 0.5
"""Fraction of the lit pixels that have to look like tissue."""

LIT = 0.1
"""Fraction of the pixels that have to be lit at all."""


class Gate:
    """Lets frames from inside the body pass, and nothing else.

    Args:
        inside: The rule; None lets every frame pass.
    """

    def __init__(self, inside: Inside | None) -> None:
        self._inside = inside
        self.failed = 0
        """Frames of which the rule said nothing: it raised, or gave no yes or no."""

    def passes(self, frame_HWC: NDArray[np.uint8]) -> bool:
        """Whether the frame may be used."""
        if self._inside is None:
            return True
        try:
            # A copy: a rule that draws on its frame draws on nobody else's.
            told = self._inside(frame_HWC.copy())
        except Exception:
            told = None
        if not isinstance(told, bool | np.bool_):
            self.failed += 1
            return False
        return bool(told)


def redness(frame_HWC: NDArray[np.uint8]) -> bool:
    """Whether at least half of what is lit looks red, as tissue does under an endoscope's light.

    A crude rule without training: rooms, drapes and gloves are blue, green, grey or white. It
    blanks dark frames, and tissue behind thick smoke.
    """
    red_HW, green_HW, blue_HW = np.moveaxis(frame_HWC[::4, ::4].astype(np.float32), -1, 0)
    lit_HW = frame_HWC[::4, ::4].max(axis=-1) > 2 * BLACK
    if lit_HW.mean() < LIT:
        return False
    tissue_HW = red_HW > REDDER * np.maximum(green_HW, blue_HW)
    return bool(tissue_HW[lit_HW].mean() >= TISSUE)


def load_rule(word: str | None) -> Inside | None:
    """The rule that a user names: one of `RULES`, or ``package.module:function``.

    Raises:
        InputError: There is none of that name.
    """
    if word is None:
        return None
    if word in RULES:
        return redness
    module, _, name = word.partition(":")
    try:
        found = getattr(import_module(module), name)
    except Exception as error:
        raise InputError(
            f"--blank: no rule {word!r} ({type(error).__name__})",
            remedy=f"name {RULES[0]}, or a function that can be imported as package.module:name",
        ) from error
    if not callable(found):
        raise InputError(
            f"--blank: {word!r} is no function", remedy="name a function of one frame, (H,W,3)"
        )
    rule: Inside = found
    return rule
