"""Pickles of a published set: their instructions are read, and none is run."""

import pickle  # noqa: TID251 - what the set is published in; nothing here unpickles
from pathlib import Path

import pytest

from medvlp.archive.verdict import Reject
from medvlp_video.sets import multibypass140
from medvlp_video.sets.plain_pickle import read_plain_pickle

GOOD = {"Original_frame_id": 0, "Phase_gt": 0, "Step_gt": 0}


class Program:
    """What would touch a file where it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def test_a_pickle_is_read_without_running_what_it_names(tmp_path):
    file = tmp_path / "p.pickle"
    values = {
        "a": [1, -2, 2.5, None, True, "é" * 300, (), (1,), (1, 2, 3), {"b": []}],
        "c": 1 << 70,
    }
    values["again"] = values["a"]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        file.write_bytes(pickle.dumps(values, protocol=protocol))
        found = read_plain_pickle(file)
        assert found == values
        assert found["again"] is found["a"]
        file.write_bytes(pickle.dumps({"a": [Program(tmp_path / "ran")]}, protocol=protocol))
        with pytest.raises(Reject, match="pickled_code"):
            read_plain_pickle(file)
    assert not (tmp_path / "ran").exists()
    whole = pickle.dumps(values)
    for data in (
        b"",
        b"junk",
        whole[:-1],
        whole[:40],
        b"a.",
        b"(.",
        b"]s.",
        b"0.",
        b"\x94.",
        b"h\x05.",
    ):
        file.write_bytes(data)
        with pytest.raises(Reject, match="bad_labels"):
            read_plain_pickle(file)


def test_a_fold_of_another_layout_is_refused(tmp_path):
    file = tmp_path / "1fps_0.pickle"
    file.write_bytes(pickle.dumps({"BBP01": [GOOD]}))
    assert multibypass140.read_fold([file]).phases == {"BBP01": [(0, 0, 1)]}
    for values in (3, {"BBP01": 3}, {"../x": [GOOD]}, {"BBP01": [{**GOOD, "Phase_gt": 12}]},
                   {"BBP01": [{**GOOD, "Step_gt": "0"}]}, {"BBP01": [{}]}):  # fmt: skip
        file.write_bytes(pickle.dumps(values))
        with pytest.raises(Reject, match="bad_labels"):
            multibypass140.read_fold([file])
