"""Sentence pairs about the images of a manifest, from its labels, entities and reports."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import polars as pl

from medvlp.data.items import Item
from medvlp.data.manifest import Manifest
from medvlp.data.randomness import generator
from medvlp.evaluate.robustness.pairs.grammar import (
    Axis,
    Couple,
    Entry,
    Family,
    Sort,
    couple,
    entry_of,
    grammar,
    render,
)
from medvlp.evaluate.robustness.pairs.pair import Case, Pair

_OTHER = {"left": "right", "right": "left"}


def label_pairs(items: Sequence[Item], names: Sequence[str], seed: int) -> list[Pair]:
    """Polarity: "there is X" against "there is no X", of images with X and as many without.

    Args:
        items: With `labels_L` in the order of `names`.
        names: Labels.
        seed: Of the draw of images and wordings.
    """
    found: list[Pair] = []
    for column, name in enumerate(names):
        present = [item for item in items if item.labels_L[column] == 1]
        absent = [item for item in items if item.labels_L[column] == 0]
        sort: Sort = "finding" if items[0].span is None else "act"
        found += _matched("polarity", entry_of(name, sort), present, absent, seed)
    return found


def side_pairs(
    items: Sequence[Item],
    manifests: Sequence[Manifest],
    seed: int,
    *,
    mirror: bool,
    source: str | None = None,
) -> list[Pair]:
    """Laterality: "X on the left" against "X on the right", by the manifests' entities.

    Images with X on the left are coupled with images with X on the right. With `mirror`, each
    image is also coupled with its own mirror image, the corners of both covered, so that neither
    a side marker nor the patient tells the side.

    Args:
        items: The images.
        manifests: Whose entities say on which side.
        seed: Of the draw.
        mirror: Whether mirror images are asked about, too.
        source: Whose entities count, such as ``truth``; everybody's if None.
    """
    by_sample = {item.sample: item for item in items}
    found: list[Pair] = []
    for name, sides in _sides(manifests, source).items():
        of_side: dict[str, list[Item]] = {"left": [], "right": []}
        for sample, side in sides.items():
            if sample in by_sample:
                of_side[side].append(by_sample[sample])
        entry = dataclasses.replace(entry_of(name, "finding"), sided=True)
        found += _matched("laterality", entry, of_side["left"], of_side["right"], seed)
        if mirror:
            found += [p for pair in _mirrored(entry, of_side, seed) for p in pair]
    return found


def _sides(manifests: Sequence[Manifest], source: str | None) -> dict[str, dict[str, str]]:
    """Observation -> sample -> side, where a sample has it on one side alone."""
    seen: dict[tuple[str, str], set[str | None]] = {}
    for manifest in manifests:
        present = manifest.entities.filter(pl.col("presence") == 1)
        if source is not None:
            present = present.filter(pl.col("source") == source)
        for row in present.select("observation", "sample", "laterality").iter_rows():
            seen.setdefault((row[0], row[1]), set()).add(row[2])
    found: dict[str, dict[str, str]] = {}
    for (name, sample), sides in sorted(seen.items()):
        side = next(iter(sides))
        if len(sides) == 1 and side in _OTHER:
            found.setdefault(name, {})[sample] = str(side)
    return found


def _matched(
    axis: Axis, entry: Entry, first: Sequence[Item], second: Sequence[Item], seed: int
) -> list[Pair]:
    """Couples of one image of either kind, as many as the rarer kind has, in every family."""
    found: list[Pair] = []
    for name, family in _image_families(axis, entry):
        rng = generator(seed, 0, f"{entry.name}/{name}", "image pairs")
        sides = [_shuffled(group, rng) for group in (first, second)]
        for one, other in zip(*sides, strict=False):
            sentences = _worded(family, entry, rng)
            cases = [Case(key=item.key, item=item) for item in (one, other)]
            found += couple(f"image-{name}", entry.name, sentences, cases)
    return found


def _mirrored(entry: Entry, of_side: Mapping[str, Sequence[Item]], seed: int) -> Iterator[Couple]:
    for name, family in _image_families("laterality", entry):
        rng = generator(seed, 0, f"{entry.name}/{name}", "mirror pairs")
        for side, group in of_side.items():
            for item in group:
                sentences = _worded(family, entry, rng)
                cases = [
                    Case(key=f"{item.key}{'~' * turned}", item=item, mirrored=turned, masked=True)
                    for turned in (False, True)
                ]
                ordered = cases if side == "left" else cases[::-1]
                yield couple(f"mirror-{name}", entry.name, sentences, ordered)


def _image_families(axis: Axis, entry: Entry) -> Iterator[tuple[str, Family]]:
    families = grammar().families(axis).items()
    return ((name, family) for name, family in families if family.image and family.takes(entry))


def _worded(family: Family, entry: Entry, rng: np.random.Generator) -> list[str]:
    return [render(text, entry) for text in family.say[rng.integers(len(family.say))]]


def _shuffled(items: Sequence[Item], rng: np.random.Generator) -> list[Item]:
    return [items[i] for i in rng.permutation(len(items))]


def edited_pairs(
    items: Sequence[Item], manifests: Sequence[Manifest], axis: Axis, seed: int
) -> list[Pair]:
    """A report's own sentence against the same with one word turned into its opposite.

    Each direction of an edit (mild to severe, severe to mild) is drawn equally often, so that a
    liking for a word gains nothing. At most one sentence of a sample and direction is used, and
    none in which the word, or its opposite, stands twice.

    Args:
        items: The images.
        manifests: Whose texts of level ``sentence`` are edited.
        axis: Whose edits.
        seed: Of the draw.
    """
    by_sample = {item.sample: item for item in items if item.span is None}
    sentences = [
        (sample, text)
        for manifest in manifests
        for sample, text in _sentences(manifest)
        if sample in by_sample
    ]
    found: list[Pair] = []
    for words in grammar().edits.get(axis, ()):
        groups = [dict(_edited(sentences, a, b)) for a, b in (words, words[::-1])]
        rng = generator(seed, 0, "/".join(words), "edited pairs")
        drawn = [[list(group.items())[i] for i in rng.permutation(len(group))] for group in groups]
        for sample, (right, wrong) in _interleaved(drawn):
            item = by_sample[sample]
            case = Case(key=item.key, item=item)
            name = f"report-{'-'.join(sorted(words))}"
            found.append(Pair(family=name, finding=name, case=case, right=right, wrong=wrong))
    return found


def _sentences(manifest: Manifest) -> Iterable[tuple[str, str]]:
    wanted = pl.col("level") == "sentence"
    rows = manifest.texts.filter(wanted).sort("sample", "node")
    return rows.select("sample", "text").iter_rows()


def _edited(
    sentences: Sequence[tuple[str, str]], old: str, new: str
) -> Iterator[tuple[str, tuple[str, str]]]:
    either = re.compile(rf"\b({old}|{new})\b", re.IGNORECASE)
    for sample, text in sentences:
        hits = either.findall(text)
        if len(hits) == 1 and hits[0].lower() == old:
            swapped = either.sub(lambda m: new.capitalize() if m[0][0].isupper() else new, text)
            yield sample, (text, swapped)


def _interleaved(
    drawn: Sequence[Sequence[tuple[str, tuple[str, str]]]],
) -> Iterator[tuple[str, tuple[str, str]]]:
    for one, other in zip(*drawn, strict=False):
        yield one
        # A sample has one row a family: both directions in one report count once.
        if other[0] != one[0]:
            yield other
