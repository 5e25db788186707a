"""Copies among fingerprints, links between patients, and copied reports."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from medvlp.archive.duplicates import landmarks
from medvlp.archive.duplicates.copied_texts import LEAST_WORDS, TEMPLATE_PATIENTS, copied_texts
from medvlp.archive.duplicates.find import Copy, groups, image_copies
from medvlp.archive.duplicates.fingerprint import SIDE, fingerprint
from medvlp.archive.duplicates.near_copies import near_copies


def _image(seed: int, size: int = 160) -> NDArray[np.float64]:
    """Random blobs of several sizes."""
    rng = np.random.default_rng(seed)
    total = np.zeros((size, size))
    for cells in (4, 10, 20, 40):
        coarse = rng.standard_normal((cells, cells))
        at = np.linspace(0, cells - 1, size)
        rows = np.array([np.interp(at, np.arange(cells), line) for line in coarse])
        total += np.array([np.interp(at, np.arange(cells), line) for line in rows.T]).T
    return total


CHANGES: dict[str, Any] = {
    "same": lambda a: a,
    "gamma": lambda a: (a - a.min()) ** 2,
    "window": lambda a: a.clip(*np.quantile(a, (0.1, 0.9))),
    "inverted": lambda a: -a,
    "flipped": lambda a: a[:, ::-1],
    "cropped": lambda a: a[20:-8, 4:-24],
    "both": lambda a: -(a[20:-8, 4:-24])[:, ::-1].clip(*np.quantile(a, (0.1, 0.9))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_among_other_images(change: str) -> None:
    images = [_image(seed) for seed in range(20)]
    prints = [fingerprint(image) for image in (*images, CHANGES[change](images[7]))]
    (pair,) = near_copies(prints)
    assert (pair.one, pair.other) == (7, 20)
    assert pair.score > 0.7


def test_equal_fingerprints_are_paired_with_the_first_alone() -> None:
    prints = [fingerprint(_image(seed)) for seed in (0, 1, 0, 0, 0)]
    assert [(pair.one, pair.other) for pair in near_copies(prints)] == [(0, 2), (0, 3), (0, 4)]


def test_an_index_made_in_blocks_is_the_index_made_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = [_image(seed) for seed in range(12)]
    prints = [fingerprint(image) for image in (*images, images[0][10:, 6:], images[9][:-12])]
    whole = near_copies(prints)
    monkeypatch.setattr(landmarks, "_BLOCK", 5)
    assert [(pair.one, pair.other) for pair in whole] == [(0, 12), (9, 13)]
    assert near_copies(prints) == whole


def test_an_index_keeps_words_and_no_patches() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, SIDE, SIDE), dtype=np.uint8)
    marks = len(landmarks.find(noise, (SIDE, SIDE)))
    tracemalloc.start()
    index = landmarks.Index(noise)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert index.pictures is noise
    # Eight entries of eight bytes, a picture's number and a place; a patch would add 450 or more.
    assert kept < 100 * marks


def test_blank_and_foreign_fingerprints_pair_with_nothing() -> None:
    assert near_copies(["", "", "0:other", "0:other"]) == []
    assert near_copies([]) == []


def test_equal_pixels_are_exact_and_a_patients_own_near_copy_needs_more() -> None:
    one, near = fingerprint(_image(0)), fingerprint(_image(0)[10:-10, 14:])
    rows = [
        {"sample": sample, "digest": digest, "fingerprint": text}
        for sample, digest, text in (("a", "d", one), ("b", "d", one), ("c", "e", near))
    ]
    strangers = image_copies(rows, {"a": "p", "b": "q", "c": "r"})
    assert [(c.sample, c.other, c.kind) for c in strangers] == [
        ("a", "b", "exact"),
        ("a", "c", "image"),
    ]
    assert strangers[0].score == 1.0


def test_patients_are_linked_through_chains_of_images_but_not_by_texts() -> None:
    samples = pl.DataFrame({"sample": list("abcdef"), "patient": list("pqrstu")})
    copies = [
        Copy("c", "b", "image", 0.9),
        Copy("b", "a", "exact", 1.0),
        Copy("d", "e", "text", 1.0),
    ]
    assert groups(copies, samples) == {"p": "p", "q": "p", "r": "p"}


def _words(seed: int, count: int) -> list[str]:
    return [f"w{n}" for n in np.random.default_rng(seed).integers(0, 5000, count)]


def test_long_copied_reports_of_two_patients_are_listed_with_their_jaccard_index() -> None:
    words = _words(0, 60)
    changed = [*words[:30], "other", *words[31:]]
    reports = [
        ("a", "p", " ".join(words)),
        ("b", "q", " ".join(words).upper() + " !"),
        ("c", "r", " ".join(changed)),
        ("d", "p", " ".join(words)),
        ("e", "s", " ".join(_words(1, 60))),
    ]
    found = copied_texts(reports)
    # 56 runs of five words each, 5 of them changed: 51 of 61 are common.
    scores = {(pair.sample, pair.other): round(pair.score, 4) for pair in found.pairs}
    assert scores == {("a", "b"): 1.0, ("a", "c"): round(51 / 61, 4)}


def test_short_and_template_reports_are_counted_not_listed() -> None:
    short = "No acute cardiopulmonary abnormality."
    template = " ".join(_words(2, LEAST_WORDS))
    reports = [(f"s{i}", f"p{i}", short) for i in range(3)]
    reports += [(f"t{i}", f"p{i}", template) for i in range(TEMPLATE_PATIENTS)]
    found = copied_texts(reports)
    assert found.pairs == []
    assert found.notes == {
        "reports_alike_short": 3,
        "reports_from_templates": TEMPLATE_PATIENTS,
    }


def test_one_patients_repeated_report_is_no_copy() -> None:
    text = " ".join(_words(3, 50))
    assert copied_texts([("a", "p", text), ("b", "p", text + " unchanged")]).pairs == []
