"""An image and a sentence that anybody can make again, and what a model says of them.

The same image through the original code shows whether an import does what the original does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medvlp.data.preprocess import Preprocess, model_input
from medvlp.data.tokenizer import encode_padded
from medvlp.errors import ConfigError, InputError
from medvlp.models.no_text import NoText
from medvlp.models.two_tower import TwoTower

SENTENCE = "No acute cardiopulmonary process."
LEAST_COSINE = 0.999


def known_picture(size: int) -> NDArray[np.uint8]:
    """A square grey picture: row y, column x is ``(7 x + 13 y) mod 256``.

    >>> known_picture(32).min(), known_picture(32).max()
    (np.uint8(0), np.uint8(255))
    """
    side = np.arange(size)
    return ((7 * side + 13 * side[:, None]) % 256).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Known:
    """The known image of a domain."""

    array: Callable[[Any], NDArray[Any]]
    """From a preprocessing contract to an array of its size, which `Preprocess.from_array` takes
    and neither resamples nor stretches."""

    words: str
    """How to make it again."""

    labels: str = "Pneumonia,Edema"
    """Names to ask such a model for, as an example."""


PICTURE = Known(
    array=lambda contract: known_picture(contract.size),
    words="row y, column x: (7 x + 13 y) mod 256, of the contract's size",
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Embeddings of the known image and of the known sentence."""

    image: str
    """How to make the image again."""

    image_E: NDArray[np.float32]
    text_E: NDArray[np.float32] | None
    """None where the model reads no text."""

    @property
    def cosine(self) -> float | None:
        """Of image and sentence."""
        return None if self.text_E is None else float(self.image_E @ self.text_E)

    @property
    def embeddings(self) -> dict[str, NDArray[np.float32]]:
        """What there is, by name."""
        named = {"image": self.image_E, "text": self.text_E}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def plain(self) -> dict[str, Any]:
        """For the bundle's provenance."""
        rows = {k: [round(float(v), 6) for v in row] for k, row in self.embeddings.items()}
        return {
            "picture": self.image,
            "sentence": SENTENCE,
            **rows,
        }


@torch.inference_mode()
def answer_of(model: TwoTower, preprocess: Preprocess, tokenizer: Any, known: Known) -> Answer:
    """What a model in evaluation mode says."""
    stored = preprocess.from_array(known.array(preprocess.config))
    _, image_BE, _ = model.encode_image(model_input(preprocess, [stored]))
    if isinstance(model.text, NoText):
        return Answer(image=known.words, image_E=image_BE[0].numpy(), text_E=None)
    text_ME, _ = model.encode_text(*encode_padded(tokenizer, [SENTENCE]))
    return Answer(image=known.words, image_E=image_BE[0].numpy(), text_E=text_ME[0].numpy())


def compare(answer: Answer, given: Any) -> dict[str, float]:
    """Cosines of an answer with the original code's.

    Args:
        answer: Ours.
        given: ``{"image": [...], "text": [...]}``, either may be missing.

    Raises:
        InputError: It holds no such lists.
        ConfigError: A cosine is below 0.999.
    """
    ours = answer.embeddings
    given = given if isinstance(given, dict) else {}
    found = {k: _cosine(ours[k], given[k]) for k in ours if k in given}
    if not found:
        raise InputError(
            "import: the known answer holds neither image nor text",
            remedy='write {"image": [...], "text": [...]} with the original\'s embeddings',
        )
    for name, cosine in found.items():
        if not cosine >= LEAST_COSINE:
            raise ConfigError(
                f"import: cosine {cosine:.4f} with the original's embedding of the known {name}, "
                f"below {LEAST_COSINE}",
                remedy="compare the contract (--set preprocess.KEY=VALUE) and the tokenizer",
            )
    return found


def _cosine(ours: NDArray[np.float32], theirs: Sequence[float]) -> float:
    try:
        other = np.asarray(theirs, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        other = np.empty(0)
    if other.shape != ours.shape or not np.isfinite(other).all():
        raise InputError(
            f"import: the known answer must be lists of {len(ours)} numbers",
            remedy="write the original's embeddings as plain lists",
        )
    lengths = float(np.linalg.norm(other)) * float(np.linalg.norm(ours))
    return float(ours @ other / max(lengths, 1e-12))
