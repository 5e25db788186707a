"""What a sample is in the mirror: left and right change places in everything that names a side.

A mirrored image whose report still says left teaches the wrong side. So texts, labels, relations
and their sides change together, before anything is tokenised, and a sample of which one thing
cannot change stays as it is. A burned-in letter (L or R, the marker of lead) is mirrored with the
image: it then stands on the other side and reads backwards, which tells a model that looks for it
what was done.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from medvlp.data.items import Item
from medvlp.data.presence import UNTOLD
from medvlp.data.relations import LEFT, RIGHT, Names, Relation
from medvlp.data.sides import SideWords, load_side_words
from medvlp.data.views import SIDES
from medvlp.errors import ConfigError


class Mirror:
    """Mirrors items.

    Args:
        share: Of the samples, how many a training run mirrors, of those that can be.
        words: Of the reports' language.
        names: The columns of labels and relations, in English.

    Raises:
        ConfigError: A name has a side, and none is of the other side.
    """

    def __init__(self, share: float, words: SideWords, names: Names) -> None:
        self.share = share
        self._words = words
        self._labels = _Columns("data.labels", names.labels)
        self._anatomies = _Columns("data.entities.anatomies", names.anatomies)
        self._observations = _Columns("data.entities.observations", names.observations)

    def check(self, items: Iterable[Item]) -> None:
        """See that the words are those of the reports.

        Raises:
            ConfigError: The items have texts, and none names a side.
        """
        texts = [node.text for item in items for node in item.texts]
        if texts and not any(map(self._words.names_side, texts)):
            raise ConfigError(
                "preprocess.augment.mirror: no text of the training split names a side in the "
                "words of data.sides",
                remedy="name a file with the words of the reports' language, or set mirror to 0",
            )

    def item(self, item: Item) -> Item | None:
        """The item of the mirror image; None where something of it cannot change sides."""
        # On frontal views alone left and right are the picture's sides.
        if item.view and SIDES.get(item.view.upper()) != "frontal":
            return None
        every = (*item.texts, *item.along)
        nodes = tuple(
            dataclasses.replace(node, text=text)
            for node in every
            if (text := self._words.swap(node.text)) is not None
        )
        if len(nodes) < len(every) or self._refuses(item):
            return None
        return dataclasses.replace(
            item,
            texts=nodes[: len(item.texts)],
            along=nodes[len(item.texts) :],
            labels_L=item.labels_L[self._labels.other],
            relations=tuple(map(self._relation, item.relations)),
        )

    def _refuses(self, item: Item) -> bool:
        labels = item.labels_L[self._labels.refused]
        if (np.nan_to_num(labels) != 0).any():
            return True
        return any(
            relation.observation in self._observations.refused
            or any(c in self._anatomies.refused for c, value in relation.values if value != UNTOLD)
            for relation in item.relations
        )

    def _relation(self, relation: Relation) -> Relation:
        other = self._anatomies.other
        return dataclasses.replace(
            relation,
            values=tuple((other[column], value) for column, value in relation.values),
            observation=self._observations.other[relation.observation],
            side=mirrored_side(relation.side),
        )


def mirrored_side(side: int) -> int:
    """The bits `LEFT` and `RIGHT` exchanged.

    >>> mirrored_side(LEFT) == RIGHT, mirrored_side(LEFT | RIGHT) == LEFT | RIGHT, mirrored_side(0)
    (True, True, 0)
    """
    return (RIGHT if side & LEFT else 0) | (LEFT if side & RIGHT else 0)


class _Columns:
    """Which column each becomes, and which cannot change."""

    def __init__(self, where: str, names: Sequence[str]) -> None:
        words = load_side_words()
        self.other = list(range(len(names)))
        self.refused = []
        for i, name in enumerate(names):
            swapped = words.swap(name)
            if swapped is None:
                self.refused.append(i)
            elif swapped in names:
                self.other[i] = names.index(swapped)
            else:
                raise ConfigError(
                    f"preprocess.augment.mirror: {where} has {name} and not {swapped}",
                    remedy=f"add {swapped}, or set preprocess.augment.mirror to 0",
                )
