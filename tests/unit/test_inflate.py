"""Gzip streams, sound and not, by either decoder: the same bytes or the same verdict."""

import gzip
import io
import zlib

import numpy as np
import pytest

from medvlp.archive import inflate
from medvlp.archive.inflate import GzipReader
from medvlp.archive.verdict import Reject

DATA = np.cumsum(np.random.default_rng(0).integers(-2, 3, 40_000)).astype("<i2").tobytes()
PACKED = gzip.compress(DATA, 6, mtime=0)
PIECES = (1_000, 1 << 20)


@pytest.fixture(params=["zlib", "isal"])
def decoder(request, monkeypatch):
    chosen = zlib if request.param == "zlib" else pytest.importorskip("isal.isal_zlib")
    monkeypatch.setattr(inflate, "deflate", chosen)


def read(data, piece):
    """What a reader makes of it, and whether something else follows."""
    reader = GzipReader(io.BytesIO(data), len(data))
    parts = []
    while part := reader.read(piece):
        parts.append(part)
    return b"".join(parts), reader.trailing


def outcome(data, piece):
    try:
        return read(data, piece)
    except Reject as verdict:
        return verdict.code


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (PACKED, (DATA, False)),
        (PACKED + PACKED, (DATA * 2, False)),
        (PACKED + bytes(300_000) + PACKED + bytes(9), (DATA * 2, False)),
        (PACKED + b"\0\0x", (DATA, True)),
        (PACKED + b"\x1f", (DATA, True)),
        (PACKED[:-1], "inflate"),
        (PACKED[:-8] + b"\0\0\0\0" + PACKED[-4:], "inflate"),
        (PACKED[:9], "inflate"),
        (PACKED[:2], "inflate"),
        (b"\x1f\x8b\x08\xe0" + PACKED[4:], "inflate"),
        (PACKED + b"\x1f\x8b\x08\x20" + PACKED[4:], "inflate"),
    ],
)
def test_a_stream_is_read_whole_or_refused(data, expected, piece):
    assert outcome(data, piece) == expected


@pytest.mark.usefixtures("decoder")
def test_a_stream_that_grows_beyond_its_budget_is_refused_on_the_way(monkeypatch):
    monkeypatch.setattr(inflate, "FLOOR", 1 << 20)
    assert outcome(gzip.compress(bytes(1 << 20)), 1 << 16) == (bytes(1 << 20), False)
    assert outcome(gzip.compress(bytes((1 << 20) + 1)), 1 << 16) == "inflate_ratio"


def test_damaged_streams_end_alike_in_both_decoders(monkeypatch):
    """Or the damage is to what no byte depends on, as the checksum shows, and isal passes it by."""
    other = pytest.importorskip("isal.isal_zlib")
    rng = np.random.default_rng(1)
    for _ in range(150):
        torn = bytearray(
            PACKED[: rng.integers(1, len(PACKED) + 1)] if rng.random() < 0.3 else PACKED
        )
        for place in rng.integers(len(torn), size=rng.integers(1, 4)):
            torn[place] ^= 1 << rng.integers(8)
        ends = []
        for chosen in (zlib, other):
            monkeypatch.setattr(inflate, "deflate", chosen)
            ends.append(outcome(bytes(torn), 1 << 16))
        assert ends[1] in (ends[0], (DATA, False))
