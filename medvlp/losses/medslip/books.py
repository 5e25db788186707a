"""Query books: a vector for every name, read from words by the text tower, or learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from medvlp.data.batch import TokenIds
from medvlp.encoding import TextFeatures
from medvlp.errors import ConfigError

Read = Callable[[Tensor, Tensor], TextFeatures]


class Book(nn.Module):
    """Vectors of M names."""

    def outdate(self) -> None:
        """Say that the text tower may have changed since it was last read with."""

    def vectors(self, read: Read | None = None) -> Tensor:
        """(M,D); `read` is the text tower, where it is at hand."""
        raise NotImplementedError


class LearnedBook(Book):
    """Vectors that are weights.

    Args:
        count: M.
        width: D.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight_MD = nn.Parameter(torch.randn(count, width))

    def vectors(self, read: Read | None = None) -> Tensor:
        """The weights."""
        return self.weight_MD


class TextBook(Book):
    """What the text tower makes of M texts.

    It is read once for each batch, without dropout; once in all where the tower is frozen. What was
    read last is kept, so that a trained model answers without its text tower.

    Args:
        texts: One a name.
        tokens: The tokenizer.
        width: D of the text tower.
        longest: Tokens that the tower takes; None if it takes any number.
        learn: Whether the tower learns from how its vectors are used.

    Raises:
        ConfigError: A text is too long, or there is no tokenizer.
    """

    ids_MT: Tensor
    mask_MT: Tensor
    read_MD: Tensor

    def __init__(
        self,
        texts: Sequence[str],
        tokens: TokenIds | None,
        width: int,
        longest: int | None,
        *,
        learn: bool,
    ) -> None:
        super().__init__()
        if tokens is None or tokens.encode is None:
            raise ConfigError(
                "objective medslip: there is no tokenizer to ask with",
                remedy="set the objective's queries to learned",
            )
        ids_MT, mask_MT = tokens.encode(texts)
        length_M = mask_MT.sum(1)
        if longest is not None and int(length_M.max()) > longest:
            worst = int(length_M.argmax())
            raise ConfigError(
                f"objective medslip: the query {texts[worst]!r} has {int(length_M[worst])} tokens, "
                f"the text tower takes {longest}",
                remedy="shorten the objective's templates, or raise text.max_tokens",
            )
        # Made from the tokenizer, with which they come again: nothing to be stored.
        self.register_buffer("ids_MT", ids_MT, persistent=False)
        self.register_buffer("mask_MT", mask_MT, persistent=False)
        self.register_buffer("read_MD", torch.zeros(len(texts), width))
        self.learn = learn
        self._outdated = True
        self._read_before = False

    def outdate(self) -> None:
        """Have the texts read again when they are next asked for."""
        self._outdated = True

    def vectors(self, read: Read | None = None) -> Tensor:
        """What the tower makes of the texts now; what it made of them last, without a tower."""
        if read is None:
            return self.read_MD
        if self.learn and torch.is_grad_enabled():
            now_MD = read(self.ids_MT, self.mask_MT).pooled_MD
            self._keep(now_MD)
            # A graph serves one backward pass: each part of a batch reads for itself.
            return now_MD
        if self._outdated and not (self._read_before and _frozen(read)):
            # In full precision: also, autocast would keep weights that it cast without a graph.
            full = torch.autocast(self.ids_MT.device.type, enabled=False)
            with torch.no_grad(), _still(read), full:
                self._keep(read(self.ids_MT, self.mask_MT).pooled_MD)
        self._outdated = False
        # A copy: a step may take several batches, and the buffer is written for the next one while
        # the graph of the last still needs it.
        return self.read_MD.clone()

    @torch.no_grad()
    def _keep(self, now_MD: Tensor) -> None:
        self.read_MD.copy_(now_MD)
        self._read_before = True


def _frozen(read: Any) -> bool:
    return isinstance(read, nn.Module) and not any(w.requires_grad for w in read.parameters())


@contextmanager
def _still(read: Any) -> Iterator[None]:
    """The tower without dropout, as it will be used."""
    moving = [m for m in read.modules() if m.training] if isinstance(read, nn.Module) else []
    for module in moving:
        module.training = False
    try:
        yield
    finally:
        for module in moving:
            module.training = True
