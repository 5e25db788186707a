"""Videos whose frames carry their own number, sound and damaged."""

from fractions import Fraction

import av
import numpy as np

BITS, SIDE = 10, 16
COUNT, FPS = 90, 25
TICKS = 1000


def numbered_frame(number):
    """A (32,80) picture with the bits of `number` as black and white blocks."""
    bits = [(number >> k) & 1 for k in range(BITS)]
    blocks = np.array(bits, np.uint8).reshape(2, 5) * 215 + 20
    return np.repeat(np.kron(blocks, np.ones((SIDE, SIDE), np.uint8))[..., None], 3, axis=2)


def numbers_in(frames):
    """The numbers that `frames` show, at any size."""
    side = frames.shape[1] // 2
    blocks = frames.mean(axis=-1).reshape(len(frames), 2, side, 5, side).mean(axis=(2, 4)) > 128
    return (blocks.reshape(len(frames), -1) @ (1 << np.arange(BITS))).tolist()


def write_video(path, times_ms, options=None, **container):
    """A video of numbered frames, shown at `times_ms`."""
    with av.open(str(path), "w", **container) as out:
        stream = out.add_stream("libx264", rate=FPS)
        stream.width, stream.height = 5 * SIDE, 2 * SIDE
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, TICKS)
        stream.options = {"g": "12", "bf": "2"} if options is None else options
        for number, time_ms in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
            frame.pts, frame.time_base = int(time_ms), Fraction(1, TICKS)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


CONSTANT = np.arange(COUNT) * 1000 // FPS
VARIABLE = np.cumsum(np.random.default_rng(0).choice([20, 33, 40, 120], COUNT)) - 20
OPEN_GOP = {"x264-params": "open-gop=1:keyint=12:bframes=3:scenecut=0", "g": "12", "bf": "3"}


def write_counted(path, codec, pixels="yuv420p", options=None):
    """A video of numbered frames at a constant rate, by another codec."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 5 * SIDE, 2 * SIDE, pixels
        stream.options = options or {}
        for number in range(COUNT):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(number), "rgb24")))
        out.mux(stream.encode(None))
    return path


def cut_copy(source, target, first):
    """Copy the stream from the key frame before `first`; earlier frames hide by an edit list."""
    with av.open(str(source)) as read, av.open(str(target), "w") as out:
        stream = read.streams.video[0]
        copy = out.add_stream_from_template(stream)
        begin = int(CONSTANT[first] / 1000 / stream.time_base)
        read.seek(begin, stream=stream)
        for packet in read.demux(stream):
            if packet.dts is None:
                continue
            packet.pts -= begin
            packet.dts -= begin
            packet.stream = copy
            out.mux(packet)
    return target


def spoilt(path, start, count, **how):
    """A video whose stream has `count` bytes turned round, at `start` of its length."""
    return turned_round(write_video(path, CONSTANT, **how), start, count)


def turned_round(path, start, count):
    """The video at `path`, of whose stream `count` bytes are now turned round, from `start` on."""
    data = bytearray(path.read_bytes())
    begin = data.index(b"mdat") + 4
    size = int.from_bytes(data[begin - 8 : begin - 4], "big") - 8
    place = begin + int(size * start)
    data[place : place + count] = bytes(b ^ 0xFF for b in data[place : place + count])
    path.write_bytes(data)
    return path
