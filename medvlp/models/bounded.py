"""Building a model that a file describes, within what its weights can fill.

A description is a few numbers: one of them can ask for a terabyte, or for a billion layers. What
is built is counted, so that such a file is refused before the memory or the time is spent.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from medvlp.errors import ConfigError

IMPOSSIBLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    StrictDataclassError,
)
"""What the code of an architecture raises at values that it was not written for."""

_SPARE_VALUES = 1 << 24
_SPARE_TENSORS = 1 << 14


class Bounded(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which tensors can be made for about four times the given weights, no more.

    Layers that are replaced at once (another norm, a dropped pooler) and initial values are what
    the factor is for.

    Args:
        weights: The tensors that the model will be filled with.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values = 4 * sum(value.numel() for value in weights.values()) + _SPARE_VALUES
        self.tensors = 64 * len(weights) + _SPARE_TENSORS

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Count an operation that makes a tensor from numbers alone.

        Raises:
            ConfigError: It would exceed the bound.
        """
        if not any(isinstance(value, Tensor) for value in args):
            self.tensors -= 1
            self.values -= max((_asked(value) for value in args), default=0)
            if self.values < 0 or self.tensors < 0:
                raise ConfigError(
                    "the description asks for a far larger model than there are weights for",
                    remedy="use the description that belongs to the weights",
                )
        return func(*args, **(kwargs or {}))


def _asked(value: Any) -> int:
    """The most values that a factory's argument can ask for: a shape, or a length."""
    if isinstance(value, list | tuple) and all(isinstance(n, int) for n in value):
        return abs(prod(value))
    return abs(int(value)) if isinstance(value, int | float) and abs(value) < float("inf") else 0
