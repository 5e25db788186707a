import dataclasses
from pathlib import Path

import numpy as np
import pytest

from medvlp.data.cache import ArrayCache
from medvlp.data.items import Item


class Reader:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, paths, span, flags=()):
        self.calls += 1
        return np.arange(24, dtype=np.int16).reshape(4, 6) + self.calls


def item(sha: str = "a" * 64, span: tuple[float, float] | None = None) -> Item:
    return Item(
        sample="s",
        patient="p",
        sha256=sha,
        source_paths=(),
        span=span,
        texts=(),
        labels_L=np.zeros(0, np.float32),
        split="train",
    )


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_an_entry_is_read_once_and_cannot_be_changed_from_outside(
    tmp_path: Path, where: str
) -> None:
    cache, read = ArrayCache(tmp_path if where == "disk" else None, "c"), Reader()
    first = cache.get(item(), read)
    assert np.array_equal(first, cache.get(item(), read))
    assert first.dtype == np.int16
    assert read.calls == 1
    first[0, 0] = 99
    assert cache.get(item(), read)[0, 0] == 1


def test_content_span_and_contract_each_make_another_entry(tmp_path: Path) -> None:
    read = Reader()
    cache = ArrayCache(tmp_path, "c")
    for one in (item(), item("b" * 64), item(span=(0.0, 1.0)), item(span=(0.0, 2.0))):
        cache.get(one, read)
    ArrayCache(tmp_path, "d").get(item(), read)
    assert read.calls == 5
    cache.get(dataclasses.replace(item(), sample="same content elsewhere"), read)
    assert read.calls == 5


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_entry_is_noticed_and_rebuilt(tmp_path: Path, damage: str) -> None:
    read = Reader()
    ArrayCache(tmp_path, "c").get(item(), read)
    (entry,) = tmp_path.rglob("*.npy")
    data = bytearray(entry.read_bytes())
    data[-10] ^= 1
    entry.write_bytes({"truncate": data[:-20], "flip": data, "empty": b""}[damage])
    rebuilt = ArrayCache(tmp_path, "c").get(item(), read)
    assert read.calls == 2
    assert rebuilt[0, 0] == 2
    assert [p.suffix for p in tmp_path.rglob("*") if p.is_file()] == [".npy"]


def test_a_failing_reader_leaves_nothing_behind(tmp_path: Path) -> None:
    def read(paths, span, flags=()):
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        ArrayCache(tmp_path, "c").get(item(), read)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
