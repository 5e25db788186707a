"""Files of unknown state, read apart: in a process that a damaged file may take down.

The preprocessing contract travels there as plain values, and the stored array comes back as the
bytes of a ``.npy`` file.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlp.archive.stage.child import Limits
from medvlp.archive.stage.reading import Reading
from medvlp.config import plain, validate
from medvlp.data.preprocess import Preprocess
from medvlp.domain import Ref

_LIMITS = Limits(time_s=60, memory_mb=8192)


@dataclass(frozen=True, slots=True)
class Packed:
    """An array on its way between two processes."""

    npy: str
    """A ``.npy`` file in base 64."""

    @classmethod
    def of(cls, array: NDArray[Any]) -> Packed:
        """Pack an array of plain numbers."""
        file = BytesIO()
        np.save(file, array, allow_pickle=False)
        return cls(base64.b64encode(file.getvalue()).decode("ascii"))

    @property
    def array(self) -> NDArray[Any]:
        """The array."""
        array: NDArray[Any] = np.load(BytesIO(base64.b64decode(self.npy)), allow_pickle=False)
        return array


def reading_by(preprocess: Preprocess) -> Reading[Packed]:
    """The reading of one sample's files into the stored array of a preprocessing contract."""
    config = preprocess.config
    return Reading(
        read=Ref("medvlp.models.apart:read_stored"),
        result=Packed,
        version=1,
        limits=_LIMITS,
        settings={
            "contract": f"{type(config).__module__}:{type(config).__qualname__}",
            "values": plain(config),
        },
    )


def read_stored(paths: Sequence[Path], *, contract: str, values: Mapping[str, Any]) -> Packed:
    """Build the preprocessing that a contract describes, and read files by it.

    Raises:
        Reject: A bad file.
        Ignore: A file that is none of the domain's.
    """
    config: Any = validate(Ref(contract).load(), dict(values), "preprocess")
    return Packed.of(config.build().read(paths))
