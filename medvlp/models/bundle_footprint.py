"""The footprint of the training data as a file of a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from medvlp.archive.duplicates.footprint import KINDS, Footprint
from medvlp.data.paths import with_parent
from medvlp.errors import BundleError
from medvlp.plain_files import own_file

FOOTPRINT = "footprint.safetensors"
"""A vector of 64-bit digests for each kind of trait, and the counts as JSON in the header."""


def write_footprint(folder: Path, footprint: Footprint) -> None:
    """Write a footprint into the folder of a bundle that is being made."""
    told = {
        "key_ids": list(footprint.key_ids),
        "samples": footprint.samples,
        "known": dict(footprint.known),
    }
    vectors = {
        kind: np.ascontiguousarray(footprint.digests.get(kind, np.empty(0)), dtype=np.uint64)
        for kind in KINDS
    }
    save_file(vectors, folder / FOOTPRINT, metadata={"footprint": json.dumps(told)})


def read_footprint(folder: Path) -> Footprint | None:
    """What a bundle knows of its training data; None if it was made without.

    Args:
        folder: A bundle whose files' digests have been checked (`medvlp.load`).

    Raises:
        BundleError: The file is no footprint.
    """
    file = own_file(folder, FOOTPRINT)
    if file is None:
        return None
    try:
        with safe_open(file, framework="numpy") as opened:
            told = json.loads((opened.metadata() or {})["footprint"])
            digests = {kind: opened.get_tensor(kind) for kind in KINDS}
        if any(d.dtype != np.uint64 or d.ndim != 1 for d in digests.values()):
            raise TypeError
        return Footprint(
            key_ids=tuple(str(key) for key in told["key_ids"]),
            samples=int(told["samples"]),
            known={kind: int(told["known"].get(kind, 0)) for kind in KINDS},
            digests=digests,
        )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"{with_parent(folder)}: {FOOTPRINT} cannot be read", remedy="copy the bundle again"
        ) from error
