"""Fingerprints: what leaves them alone, what they cannot see, and what they cost to keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medvlp.archive.duplicates.fingerprint import PREFIX, SIDE, fingerprint, picture


def _image(rows: int = 200, columns: int = 300, seed: int = 0) -> NDArray[np.float64]:
    """Smooth noise without flat margins."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((rows, columns))
    return np.cumsum(np.cumsum(noise, axis=0), axis=1) + noise


def _picture(values_HW: NDArray[Any]) -> NDArray[np.int64]:
    found = picture(fingerprint(values_HW))
    assert found is not None
    return found.astype(np.int64)


def test_a_fingerprint_is_short_ascii_text_and_gives_its_picture_back() -> None:
    text = fingerprint(_image())
    assert text.isascii()
    assert len(text) <= 6000
    assert text.startswith(PREFIX)
    assert _picture(_image()).shape == (SIDE, SIDE)


def test_a_wedge_of_one_grey_a_line_has_none() -> None:
    wedge = np.mgrid[:64, :64][0] * 60.0
    assert fingerprint(wedge) == fingerprint(wedge.T) == ""


def test_the_picture_is_the_rank_of_area_means() -> None:
    # 128 x 192 in blocks of 2 x 3, all values different: by hand up to the filter's soft edge.
    rows, columns = np.mgrid[:128, :192]
    found = _picture(1.0 * rows + columns)
    order = np.add.outer(np.arange(SIDE) * 2.0, np.arange(SIDE) * 3.0)
    ranks = order.ravel().argsort().argsort().reshape(SIDE, SIDE) * 255 / (SIDE * SIDE)
    assert np.abs(found - ranks).max() <= 3
    assert abs(found.mean() - 127.5) < 1


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32, np.float64])
def test_scale_offset_and_type_of_the_values_do_not_matter(dtype: type) -> None:
    grey = np.interp(_image(), (_image().min(), _image().max()), (100, 4000)).astype(np.int16)
    # Sums in another order may turn a tie into neighbours, so not to the last rank.
    assert np.abs(_picture((2 * grey + 50).astype(dtype)) - _picture(grey)).max() <= 1


def test_gamma_moves_ranks_by_little_and_inversion_mirrors_them() -> None:
    unit = np.interp(_image(), (_image().min(), _image().max()), (0, 1))
    assert np.abs(_picture(unit**2) - _picture(unit)).max() <= 6
    assert np.abs(_picture(1 - unit) - (255 - _picture(unit))).max() <= 1


def test_flat_margins_do_not_belong_to_the_picture() -> None:
    framed = np.zeros((280, 420))
    framed += _image().min()
    framed[50:250, 20:320] = _image()
    assert fingerprint(framed) == fingerprint(_image())


def test_resizing_leaves_the_picture_much_as_it_is() -> None:
    doubled = np.kron(_image(), np.ones((2, 2)))
    assert np.corrcoef(_picture(doubled).ravel(), _picture(_image()).ravel())[0, 1] > 0.999


@pytest.mark.parametrize(
    "values_HW",
    [
        np.zeros((100, 100)),
        np.full((100, 100), np.nan),
        np.array([[0.0, np.inf], [1.0, 2.0]]).repeat(50, axis=0).repeat(50, axis=1),
        np.random.default_rng(0).random((15, 100)),
        np.pad(np.ones((4, 4)), 50),
    ],
)
def test_nothing_to_see_gives_no_fingerprint(values_HW: NDArray[np.float64]) -> None:
    assert fingerprint(values_HW) == ""


@pytest.mark.parametrize("text", ["", "0:AAAA", PREFIX, PREFIX + "AAAA", PREFIX + "!" * 5464])
def test_text_that_is_no_fingerprint_gives_no_picture(text: str) -> None:
    assert picture(text) is None


def test_colours_or_several_frames_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="3 axes"):
        fingerprint(np.zeros((100, 100, 3)))
