"""Which pictures of an archive may show the same image: an inverted index of local landmarks.

A landmark is an extremum of a picture's band-passed, contrast-normalised grey values; the signs of
the principal components of the patch around it make a word of up to 24 bits. A part of another
image, however it was windowed, shares many words with it, at places that differ by one shift. Crops
enlarge what they leave, so each picture is looked up at several smaller sizes, and mirrored too.
The patch is taken with the sign of its middle, so that an inverted image has the same words.

The way from words to shared shifts is that of image retrieval: visual words with inverse document
frequency (Sivic and Zisserman, ICCV 2003), and votes for one placement (Jegou et al., ECCV 2008).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medvlp.archive.duplicates.fingerprint import SIDE, triangle_weights

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

SIZES = (64, 57, 51, 45)
"""Rows or columns to which a looked-up picture is reduced: crops to 0.7 of a side, in steps that
leave a patch in register."""
LEVELS = tuple(product(SIZES, SIZES))

_FINE, _COARSE, _AROUND = 1.0, 3.0, 6.0
"""Widths in pixels of the band's two Gaussians and of the contrast's neighbourhood."""
_FLOOR = 2.0
"""Contrast in grey values below which a place counts as featureless."""
_LEAST = 0.5
_NEAR = 2
"""A landmark is the strongest within so many pixels on each side."""
_EDGE = 4
_REACH = 7
"""A patch reaches so many pixels to each side."""
_FADE = 4.5
_PATCHES = 20_000
"""From so many patches the components are learnt."""
_TAUGHT = 512
"""About so many pictures, evenly through the archive, teach the words."""
_BLOCK = 256
"""Pictures in work at once while an index is made."""
_MARK = 36
"""An entry is one number: a word above so many bits, the landmark that has it in them."""
_MARKS = (1 << _MARK) - 1
_PROBES = 3
"""The least certain bits of a word, tried both ways."""
_SHIFT = 8
"""Pixels of a vote's cell; cells overlap by half."""
_GRID = 64
_SMALL = 1000
"""Archives of fewer pictures are treated as if they had so many, or no word would be rare."""
_ENOUGH = 1.25
"""A candidate needs the votes of so many words that stand nowhere else: so few that pictures that
are no copies are among the candidates too, to compare with."""


class Candidate(NamedTuple):
    """Two pictures, and how the first, reduced to a level, lies upon the second."""

    query: int
    base: int
    mirrored: bool
    level: int
    shift: tuple[float, float]
    votes: float


@dataclass(frozen=True)
class Landmarks:
    """Landmarks of several pictures: arrays of one length."""

    image: Ints
    place: Floats
    """Row and column in pixels of the level, (marks, 2)."""
    patch: Floats
    """Faded grey values around it, times the sign of the middle, (marks, 225)."""

    def __len__(self) -> int:
        return len(self.image)


@lru_cache(maxsize=64)
def _gauss(size: int, width: float) -> Floats:
    """Weights (size, size) of a Gaussian that is renormalised at the edges."""
    at = np.arange(size)
    weights = np.exp(-np.square(at[:, None] - at) / (2 * width * width))
    shares: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


@lru_cache(maxsize=64)
def _blur(size: int, width: float) -> Floats:
    """Weights (size, SIDE): reduce to `size`, then a Gaussian."""
    weights: Floats = _gauss(size, width) @ triangle_weights(SIDE, size)
    return weights


def band(pictures: NDArray[Any], level: tuple[int, int], fine: float, coarse: float) -> Floats:
    """Pictures at a level, band-passed and divided by the contrast around each place.

    Args:
        pictures: (n, SIDE, SIDE).
        level: Rows and columns of the result.
        fine: Width of the narrower Gaussian in pixels of the level.
        coarse: Width of the wider one.

    Returns:
        (n, rows, columns).
    """
    rows, columns = level
    grey = pictures.astype(np.float32)
    narrow = _blur(rows, fine) @ grey @ _blur(columns, fine).T
    wide = _blur(rows, coarse) @ grey @ _blur(columns, coarse).T
    passed = narrow - wide
    power = _gauss(rows, _AROUND) @ np.square(passed) @ _gauss(columns, _AROUND).T
    found: Floats = passed / (np.sqrt(np.maximum(power, 0)) + np.float32(_FLOOR))
    return found


def _greatest(values: Floats, axis: int) -> Floats:
    """The greatest of each value and its `_NEAR` neighbours on both sides along an axis."""
    best = values.copy()
    for step in range(1, _NEAR + 1):
        ahead = [slice(None)] * values.ndim
        behind = list(ahead)
        ahead[axis], behind[axis] = slice(step, None), slice(None, -step)
        for to, source in ((ahead, behind), (behind, ahead)):
            part = best[tuple(to)]
            np.maximum(part, values[tuple(source)], out=part)
    return best


@lru_cache(maxsize=1)
def _fade() -> Floats:
    at = np.arange(-_REACH, _REACH + 1)
    fall = np.exp(-np.square(at) / (2 * _FADE * _FADE))
    weights: Floats = np.outer(fall, fall).astype(np.float32)
    return weights


def find(pictures: NDArray[Any], level: tuple[int, int]) -> Landmarks:
    """The landmarks of pictures (n, SIDE, SIDE) at a level."""
    passed = band(pictures, level, _FINE, _COARSE)
    strength = np.abs(passed)
    peaks = (strength == _greatest(_greatest(strength, 1), 2)) & (strength > _LEAST)
    peaks[:, :_EDGE] = peaks[:, -_EDGE:] = False
    peaks[:, :, :_EDGE] = peaks[:, :, -_EDGE:] = False
    image, row, column = np.nonzero(peaks)
    reach = _REACH
    padded = np.pad(passed, ((0, 0), (reach, reach), (reach, reach)), mode="reflect")
    size = 2 * reach + 1
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
    patch = windows[image, row, column] * _fade()
    patch *= np.sign(patch[:, reach, reach])[:, None, None]
    place = np.stack([row, column], axis=1).astype(np.float32)
    return Landmarks(image, place, patch.reshape(len(image), -1))


@dataclass(frozen=True)
class Words:
    """How a patch becomes a word: signs of its principal components about their medians."""

    components: Floats
    """(225, bits)."""
    middle: Floats
    """(bits,)."""

    @classmethod
    def learn(cls, patches: Floats, bits: int) -> Words:
        """The `bits` strongest components of patches (n, 225)."""
        some = patches[:: max(1, len(patches) // _PATCHES)]
        centred = some - some.mean(axis=0)
        _, vectors = np.linalg.eigh(centred.T @ centred)
        components = np.ascontiguousarray(vectors[:, ::-1][:, :bits])
        return cls(components, np.median(some @ components, axis=0))

    @property
    def mirrored(self) -> Words:
        """The words that the mirror images of patches have."""
        side = 2 * _REACH + 1
        turned = self.components.reshape(side, side, -1)[:, ::-1].reshape(self.components.shape)
        return Words(np.ascontiguousarray(turned), self.middle)

    def of(self, patches: Floats) -> tuple[Ints, Floats]:
        """Words (n,), and how far each bit's value lies from its turning point, (n, bits)."""
        values = patches @ self.components - self.middle
        return (values > 0) @ (1 << np.arange(values.shape[1])), np.abs(values)

    def probed(self, patches: Floats) -> Ints:
        """Words (n, 2^probes): each with its least certain bits both ways."""
        words, certain = self.of(patches)
        doubtful = 1 << np.argpartition(certain, _PROBES, axis=1)[:, :_PROBES]
        choices = np.array(list(product((0, 1), repeat=_PROBES)))
        found: Ints = words[:, None] ^ (doubtful @ choices.T)
        return found


class Index:
    """The landmarks of all pictures by their words.

    Args:
        pictures: (n, SIDE, SIDE).
        most: A word that stands in more places than this says nothing and is left out.
    """

    def __init__(self, pictures: NDArray[np.uint8], most: int = 512) -> None:
        self.pictures = pictures
        some = pictures[:: max(1, len(pictures) // _TAUGHT)]
        bits = min(int(np.ceil(np.log2(max(len(pictures), _SMALL)))) + 7, 24)
        self.words = Words.learn(find(some, (SIDE, SIDE)).patch, bits)
        images, places, entries, marks = [], [], [], 0
        for start in range(0, len(pictures), _BLOCK):
            # Patches are 225 numbers a landmark: only their words outlive a block.
            found = find(pictures[start : start + _BLOCK], (SIDE, SIDE))
            images.append((found.image + start).astype(np.int32))
            places.append(found.place.astype(np.uint8))
            own = np.arange(marks, marks + len(found))[:, None]
            entries.append((self.words.probed(found.patch) << _MARK | own).ravel())
            marks += len(found)
        self._image, self._place = np.concatenate(images), np.concatenate(places)
        self._entries = np.concatenate(entries)
        self._entries.sort()
        self._most = most

    def candidates(self, start: int, stop: int, keep: int) -> Iterator[Candidate]:
        """For each picture from `start` to `stop`, the `keep` others that it may be a part of."""
        pictures = self.pictures[start:stop]
        asked = [find(pictures, level) for level in LEVELS]
        levels = np.repeat(np.arange(len(LEVELS)), [len(marks) for marks in asked])
        image = np.concatenate([marks.image for marks in asked])
        place = np.concatenate([marks.place for marks in asked])
        patch = np.concatenate([marks.patch for marks in asked])
        order = np.argsort(image, kind="stable")
        ends = np.searchsorted(image[order], np.arange(len(pictures) + 1))
        for one in range(len(pictures)):
            mine = order[ends[one] : ends[one + 1]]
            found: list[Candidate] = []
            for mirrored in (False, True):
                words, _ = (self.words.mirrored if mirrored else self.words).of(patch[mine])
                at = place[mine]
                if mirrored:
                    widths = np.array([LEVELS[k][1] for k in levels[mine]])
                    at = np.stack([at[:, 0], widths - 1 - at[:, 1]], axis=1)
                found += self._look(start + one, mirrored, words, at, levels[mine])
            found.sort(key=lambda c: -c.votes)
            yield from _first_of_each(found, keep)

    def _look(
        self, query: int, mirrored: bool, words: Ints, place: Floats, levels: Ints
    ) -> list[Candidate]:
        first = np.searchsorted(self._entries, words << _MARK)
        count = np.searchsorted(self._entries, (words + 1) << _MARK) - first
        count[count > self._most] = 0
        starts = np.cumsum(count) - count
        asked = np.repeat(np.arange(len(words)), count)
        marks = self._entries[np.arange(len(asked)) + (first - starts)[asked]] & _MARKS
        base = self._image[marks]
        total = len(self.pictures)
        rarity = np.log(max(total, _SMALL))
        weight = (rarity - np.log(np.maximum(count, 1))).clip(0)[asked]
        enough = _ENOUGH * rarity
        likely = np.bincount(base, weights=weight, minlength=total) >= enough
        likely[query] = False
        kept = likely[base]
        if not kept.any():
            return []
        asked, base, marks, weight = asked[kept], base[kept], marks[kept], weight[kept]
        shift = self._place[marks] - place[asked]
        votes = _vote(base, levels[asked], shift, weight)
        return [
            Candidate(query, int(b), mirrored, int(level), (float(y), float(x)), float(v))
            for b, level, y, x, v in zip(*votes, strict=True)
            if v >= enough
        ]


def _vote(base: Any, level: Any, shift: Any, weight: Any) -> tuple[Any, ...]:
    """The best placement of each base picture: base, level, mean shift (2), votes."""
    best: dict[int, Any] = {}
    for offset in product((0.0, 0.5), repeat=2):
        cell = np.floor(shift / _SHIFT + np.array(offset)).astype(np.int64) + _GRID // 2
        key = ((base * np.int64(len(LEVELS)) + level) * _GRID + cell[:, 0]) * _GRID + cell[:, 1]
        keys, inverse = np.unique(key, return_inverse=True)
        votes = np.bincount(inverse, weights=weight)
        rows = np.bincount(inverse, weights=weight * shift[:, 0]) / np.maximum(votes, 1e-9)
        columns = np.bincount(inverse, weights=weight * shift[:, 1]) / np.maximum(votes, 1e-9)
        kinds = keys // (_GRID * _GRID)
        for i in np.argsort(-votes)[:64]:
            b = int(kinds[i] // len(LEVELS))
            if b not in best or votes[i] > best[b][-1]:
                best[b] = (b, kinds[i] % len(LEVELS), rows[i], columns[i], votes[i])
    return tuple(zip(*best.values(), strict=True)) if best else ((),) * 5


def _first_of_each(found: list[Candidate], keep: int) -> Iterator[Candidate]:
    seen: set[int] = set()
    for candidate in found:
        if candidate.base not in seen and len(seen) < keep:
            seen.add(candidate.base)
            yield candidate
