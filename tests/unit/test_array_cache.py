import dataclasses
import zlib
from io import BytesIO
from pathlib import Path

import blosc2
import numpy as np
import pytest

from medvlp.data.cache import ArrayCache
from medvlp.data.cache_entry import open_entry, whole, write_entry
from medvlp.data.items import Item
from medvlp.errors import InputError


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


VOLUME = np.random.default_rng(0).integers(-1000, 1000, (70, 150, 140)).astype(np.int16)


@pytest.mark.parametrize("form", ["npy", "blosc2", "memory"])
def test_a_crop_is_the_window_of_the_whole(tmp_path: Path, form: str) -> None:
    folder = None if form == "memory" else tmp_path
    cache = ArrayCache(folder, "c", "npy" if form == "npy" else "blosc2")

    def read(paths, span, flags=()):
        return VOLUME

    assert np.array_equal(cache.get(item(), read), VOLUME)
    for start, size in [
        ((0, 0, 0), (70, 150, 140)),
        ((3, 60, 61), (20, 70, 1)),
        ((69, 0, 9), (1, 1, 131)),
    ]:
        part = cache.crop(item(), read, start, size)
        window = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        assert np.array_equal(part, VOLUME[window])
        part[:] = 7
        assert np.array_equal(cache.crop(item(), read, start, size), VOLUME[window])
    for start, size in [((0, 0, 0), (71, 1, 1)), ((-1, 0, 0), (1, 1, 1)), ((0, 0), (1, 1))]:
        with pytest.raises(InputError, match="does not lie within"):
            cache.crop(item(), read, start, size)


@pytest.mark.parametrize("form", ["npy", "blosc2"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("shape", [(0, 3, 4), (5,), (3, 4), (2, 7, 130, 70), (2, 1, 3, 4, 5)])
def test_every_shape_and_type_comes_back(tmp_path: Path, form, kind, shape) -> None:
    array = np.random.default_rng(1).integers(0, 200, shape).astype(kind)
    entry = open_entry(write_entry(tmp_path, "k", array, form))
    back = entry.crop(whole(entry.shape))
    assert back.dtype == kind
    assert np.array_equal(back, array)


def test_volumes_of_two_byte_integers_are_packed_and_the_rest_is_mapped(tmp_path: Path) -> None:
    for shape, kind, suffix in [
        ((4, 5, 6), np.int16, ".b2nd"),
        ((5, 6), np.uint16, ".npy"),
        ((2, 4, 4, 3), np.uint8, ".npy"),
        ((4, 5, 6), np.float32, ".npy"),
    ]:
        assert write_entry(tmp_path, "k", np.zeros(shape, kind), "auto").suffix == suffix


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_packed_entry_is_noticed_and_rebuilt(tmp_path: Path, damage: str) -> None:
    calls = []

    def read(paths, span, flags=()):
        calls.append(1)
        return VOLUME + len(calls)

    ArrayCache(tmp_path, "c").get(item(), read)
    (entry,) = tmp_path.rglob("*.b2nd")
    data = bytearray(entry.read_bytes())
    data[len(data) // 2] ^= 1
    entry.write_bytes({"truncate": data[:-20], "flip": data, "empty": b""}[damage])
    part = ArrayCache(tmp_path, "c").crop(item(), read, (0, 0, 0), (1, 1, 1))
    assert len(calls) == 2
    assert part[0, 0, 0] == VOLUME[0, 0, 0] + 2


def test_entries_of_the_other_format_are_read(tmp_path: Path) -> None:
    read = Reader()
    for form in ("npy", "blosc2", "auto"):
        ArrayCache(tmp_path, "c", form).get(item(), read)
    assert read.calls == 1


def test_an_array_of_objects_is_neither_written_nor_opened(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        write_entry(tmp_path, "k", np.array([{}], dtype=object), "npy")
    hostile = BytesIO()
    np.save(hostile, np.array([{}], dtype=object), allow_pickle=True)
    body = hostile.getvalue()
    (tmp_path / "k.npy").write_bytes(body + zlib.crc32(body).to_bytes(4, "little"))
    assert open_entry(tmp_path / "k.npy") is None


def test_a_packed_entry_that_holds_an_expression_is_not_evaluated(tmp_path: Path) -> None:
    plain = blosc2.asarray(np.arange(8), meta={"LazyArray": {"expression": "1/0", "operands": {}}})
    body = plain.to_cframe()
    (tmp_path / "k.b2nd").write_bytes(body + zlib.crc32(body).to_bytes(4, "little"))
    entry = open_entry(tmp_path / "k.b2nd")
    assert np.array_equal(entry.crop(whole(entry.shape)), np.arange(8))
