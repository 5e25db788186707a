"""After training: the temperature and the decision thresholds of the bundle's prompt set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlp.data.cache import ArrayCache
from medvlp.data.dataset import reason
from medvlp.data.items import Item
from medvlp.errors import RunError
from medvlp.models.bundle import Bundle
from medvlp.models.zero_shot import Calibration, fit_calibration, margins
from medvlp.progress import track


def calibrate(bundle: Bundle, items: Sequence[Item], cache: ArrayCache | None) -> Calibration:
    """Fit what `medvlp.models.zero_shot.fit_calibration` fits on the validation split.

    Args:
        bundle: The trained model with its prompts, not yet calibrated.
        items: Validation items whose `labels_L` follow the order of the prompts.
        cache: Decoded arrays.

    Raises:
        RunError: A sample cannot be read.
    """
    prompts = bundle.embed_prompts()
    image_NE = bundle.embed_stored(_stored(bundle, items, cache))
    labels_NL = np.stack([item.labels_L for item in items])
    return fit_calibration(margins(image_NE, prompts, bundle.scale), labels_NL, prompts)


def _stored(
    bundle: Bundle, items: Sequence[Item], cache: ArrayCache | None
) -> Iterator[NDArray[Any]]:
    read = bundle.preprocess.read
    for item in track(items, "Calibrating"):
        try:
            yield (
                read(item.source_paths, item.span, item.flags)
                if cache is None
                else cache.get(item, read)
            )
        except Exception as error:
            raise RunError(
                f"sample {item.sample} cannot be read ({reason(error)})",
                remedy="run medvlp verify on the manifest, or index the archive again without it",
            ) from error
