"""The process in which a recording is read for a timeline; `apart` starts it.

Its first line says what to read. It says that it is there, then one JSON line about the recording
and the moments to ask for, then one answer to each moment (eight bytes, a little-endian double).
An answer begins with its kind, one byte.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np

from medvlp.archive.stage import answer
from medvlp.archive.stage.serve import limit_memory, settle, verdict_of
from medvlp.data.paths import path_from_text
from medvlp_video.read import open_reader

FRAME, DAMAGED, ENDED = b"F", b"D", b"E"
"""Followed by the frame's bytes, by nothing, and by a line with the verdict."""

MOMENT = struct.Struct("<d")


def main() -> None:
    """Serve until the parent closes the pipe or ends."""
    requests, answers = settle(int(sys.argv[1]))
    order = json.loads(requests.readline())
    limit_memory(order["memory_mb"])
    _say(answers, answer.READY + b"\n")
    try:
        _serve(order, requests, answers)
    except BaseException as error:
        _say(answers, ENDED + answer.refused(verdict_of(error)).encode() + b"\n")
    # A decoder's threads or exit handlers must not keep the process.
    os._exit(0)


def _serve(order: Mapping[str, Any], requests: IO[bytes], answers: IO[bytes]) -> None:
    paths = [path_from_text(text) for text in order["paths"]]
    reader = open_reader(paths, order["reader"], cut=True)
    moments = reader.sampled(order["rate"])
    told = {
        "size": reader.shape[1:],
        "frames": reader.shape[0],
        "duration_s": reader.duration_s,
        "truncated": reader.cut_tail,
        "moments": len(moments),
    }
    _say(answers, FRAME + json.dumps(told).encode() + b"\n" + moments.astype("<f8").tobytes())
    for frame_HWC in reader.stream(_asked(requests)):
        _say(answers, DAMAGED if frame_HWC is None else FRAME)
        if frame_HWC is not None:
            _say(answers, np.ascontiguousarray(frame_HWC).data.cast("B"))


def _asked(requests: IO[bytes]) -> Iterator[float]:
    while len(data := requests.read(MOMENT.size)) == MOMENT.size:
        yield MOMENT.unpack(data)[0]


def _say(answers: IO[bytes], data: bytes | memoryview) -> None:
    answers.write(data)
    answers.flush()


if __name__ == "__main__":
    main()
