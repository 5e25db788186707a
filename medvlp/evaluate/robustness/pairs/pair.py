"""What a pair of sentences is: one case, the right sentence about it, and the wrong one."""

from __future__ import annotations

from dataclasses import dataclass

from medvlp.data.items import Item
from medvlp.digest import digest_plain


@dataclass(frozen=True, kw_only=True)
class Case:
    """What the sentences are about: a statement in other words, or an image."""

    key: str
    """The sample, or the digest of the statement."""

    anchor: str | None = None
    item: Item | None = None
    mirrored: bool = False
    """Whether left and right of the image change places."""

    masked: bool = False
    """Whether the image's corners, where side markers stand, are covered."""

    @property
    def view(self) -> tuple[str, str | None, bool, bool]:
        """What a scorer sees, as a key; equal views are embedded once."""
        key = self.key if self.item is None else self.item.key
        return key, self.anchor, self.mirrored, self.masked


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two sentences that differ in one respect, of which the case makes one right."""

    family: str
    finding: str
    case: Case
    right: str
    wrong: str

    @property
    def patient(self) -> str:
        """What intervals are clustered by: the patient; without one, what is spoken of."""
        item = self.case.item
        return f"text:{self.finding}" if item is None else item.patient

    @property
    def sample(self) -> str:
        """The sample, or for pairs without an image the pair itself."""
        item = self.case.item
        if item is not None:
            return item.sample
        return f"pair-{digest_plain([self.case.anchor, self.right, self.wrong])[:16]}"
