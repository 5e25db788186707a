"""Made-up data as the source of a run or an evaluation."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.data.text_policy import Positive


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PhantomData:
    """A phantom archive that the training run writes and indexes into its own folder."""

    n: Positive = 100
    """Patients."""

    seed: int = 0
    settings: tuple[str, ...] = ()
    """Phantom settings such as ``size=64``."""

    kind: str
    """The source kind that reads the archive, such as ``dicom``."""
