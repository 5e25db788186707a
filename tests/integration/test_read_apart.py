"""Files of unknown state are read in a process of their own."""

import numpy as np
import pytest
from PIL import Image

import medvlp
from medvlp.models import apart
from medvlp.models.apart import Packed


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (40, 40)).astype(np.uint8)).save(path)
    return paths


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_arrays_cross_as_they_are(dtype):
    array = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    again = Packed.of(array).array
    assert again.dtype == dtype
    np.testing.assert_array_equal(again, array)


def test_objects_do_not_cross():
    with pytest.raises(ValueError, match="pickle"):
        Packed.of(np.array([object()], dtype=object))


def test_embeddings_are_those_of_reading_here(tiny_bundle, pictures):
    bundle = medvlp.load(tiny_bundle("cxr"))
    pictures[1].write_bytes(pictures[1].read_bytes()[:60])
    found = list(bundle.iter_embed(pictures))
    assert [one.code for one in found] == [None, "truncated_pixels", None, None]
    good = [one.embedding_E for one in found if one.code is None]
    np.testing.assert_array_equal(good, bundle.embed_image([p for p in pictures if p.stem != "1"]))


def test_a_crash_costs_its_own_input(tiny_bundle, pictures, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "crashing.py").write_text(
        "import ctypes\nimport numpy as np\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Config:\n"
        "    def build(self):\n        return self\n"
        "    def read(self, paths):\n"
        "        if paths[0].stem == '2':\n            ctypes.string_at(0)\n"
        "        return np.full((32, 32), 7, np.uint16)\n"
    )
    bundle = medvlp.load(tiny_bundle("cxr"))
    plain = apart.reading_by

    def crashing(preprocess):
        reading = plain(preprocess)
        settings = {"contract": "crashing:Config", "values": {}}
        return type(reading)(read=reading.read, result=reading.result, version=1, settings=settings)

    monkeypatch.setattr("medvlp.models.inputs.reading_by", crashing)
    codes = [one.code for one in bundle.iter_embed(pictures)]
    assert codes == [None, None, "decoder_crash", None]
