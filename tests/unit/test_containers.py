"""Containers with every trick that leads out, grows or lies; and sound ones, read whole."""

import io
import random
import stat
import struct
import tarfile
import zipfile
import zlib

import pytest

from medvlp.archive.containers import check_container, leads_out, members
from medvlp.archive.verdict import Reject

FILES = {"a.txt": b"one", "folder/b.txt": b"two" * 100, "folder/c.bin": bytes(range(256))}


def make_zip(files=FILES, **options):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, **options) as container:
        for name, data in files.items():
            container.writestr(name, data)
    return out.getvalue()


def make_tar(files=FILES, mode="w", infos=()):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as container:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            container.addfile(info, io.BytesIO(data))
        for info in infos:
            container.addfile(info)
    return out.getvalue()


def special(kind, target=""):
    info = tarfile.TarInfo("odd")
    info.type, info.linkname = kind, target
    return info


def zip_link():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as container:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        container.writestr(info, "/etc/passwd")
    return out.getvalue()


def encrypted():
    data = bytearray(make_zip({"a": b"secret"}))
    data[6] |= 1
    place = data.index(b"PK\1\2")
    data[place + 8] |= 1
    return bytes(data)


def overlapping():
    """Two entries of the list that stand on the same bytes."""
    data = make_zip({"a": b"x" * 99, "b": b"x" * 99})
    first, second = data.index(b"PK\1\2"), data.rindex(b"PK\1\2")
    spoilt = bytearray(data)
    spoilt[second + 42 : second + 46] = spoilt[first + 42 : first + 46]
    return bytes(spoilt)


def lying_size():
    data = bytearray(make_zip({"a": b"x" * 99}))
    place = data.index(b"PK\1\2")
    struct.pack_into("<I", data, place + 24, 40)
    return bytes(data)


def broken_checksum():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as container:
        container.writestr("a", b"content")
    return out.getvalue().replace(b"content", b"contents"[:6] + b"!", 1)


def nested(depth):
    data = bytes(1 << 16)
    name = "bottom"
    for level in range(depth):
        data = make_zip({f"{k}{name}": data for k in range(3)})
        name = f"{level}.zip"
    return data


def tar_bomb():
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    info = tarfile.TarInfo("zeros")
    info.size = 1 << 28
    parts = [packer.compress(info.tobuf())]
    parts += [packer.compress(bytes(1 << 24)) for _ in range(16)]
    return b"".join(parts) + packer.flush()


def check(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(Reject) as verdict:
        check_container(tmp_path / "x")
    return verdict.value.code


@pytest.mark.parametrize(
    "data",
    [make_zip(), make_tar(), make_tar(mode="w:gz"), make_tar(mode="w:bz2"), make_tar(mode="w:xz")],
    ids=["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"],
)
def test_sound_containers_are_read_whole(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    assert {m.name: m.data for m in members(tmp_path / "x")} == FILES
    assert check(tmp_path, data) == "packed"
    some = list(members(tmp_path / "x", wanted=lambda n: n.endswith(".txt"), largest=10))
    assert [(m.name, m.size, m.data) for m in some] == [
        ("a.txt", 3, b"one"),
        ("folder/b.txt", 300, None),
        ("folder/c.bin", 256, None),
    ]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (make_zip({"../a": b"x"}), "archive_escape"),
        (make_zip({"a/../../b": b"x"}), "archive_escape"),
        (make_zip({"/etc/passwd": b"x"}), "archive_escape"),
        (make_zip({"C:\\a": b"x"}), "archive_escape"),
        (make_zip({"..\\a": b"x"}), "archive_escape"),
        (make_zip({"\\\\host\\share": b"x"}), "archive_escape"),
        (make_tar({"../a": b"x"}), "archive_escape"),
        (make_tar({"/a": b"x"}, "w:gz"), "archive_escape"),
        (zip_link(), "archive_escape"),
        (make_tar(infos=[special(tarfile.SYMTYPE, "/etc/passwd")]), "archive_escape"),
        (make_tar(infos=[special(tarfile.SYMTYPE, "a.txt")]), "archive_escape"),
        (make_tar(infos=[special(tarfile.LNKTYPE, "a.txt")]), "archive_escape"),
        (make_tar(infos=[special(tarfile.CHRTYPE)]), "archive_escape"),
        (make_tar(infos=[special(tarfile.BLKTYPE)]), "archive_escape"),
        (make_tar(infos=[special(tarfile.FIFOTYPE)]), "archive_escape"),
        (make_tar({"a": b"1", "./a": b"2"}), "archive_duplicate"),
        (make_zip({"a": b"1", "./a": b"2"}), "archive_duplicate"),
        (encrypted(), "archive_encrypted"),
        (overlapping(), "archive_ratio"),
        (make_zip({"a": bytes(1 << 27)}), "archive_ratio"),
        (tar_bomb(), "archive_ratio"),
        (nested(5), "archive_ratio"),
        (nested(2), "packed"),
        (lying_size(), "damaged_archive"),
        (broken_checksum(), "damaged_archive"),
        (make_zip()[:-30], "damaged_archive"),
        (b"PK\3\4" + bytes(99), "damaged_archive"),
        (make_tar()[:1200], "damaged_archive"),
        (make_tar(mode="w:gz")[:-40], "damaged_archive"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(99), "packed"),
    ],
    # Not the bytes: containers hold the time at which they were made, and workers' ids must agree.
    ids=lambda value: value if isinstance(value, str) else "container",
)  # fmt: skip
def test_containers_that_nobody_should_open(tmp_path, data, code):
    assert check(tmp_path, data) == code


def test_random_damage_is_a_verdict(tmp_path):
    rng = random.Random(0)
    for data in (make_zip(), make_tar(), make_tar(mode="w:gz")):
        for _ in range(150):
            spoilt = bytearray(data)
            for _ in range(3):
                spoilt[rng.randrange(len(data))] = rng.randrange(256)
            assert check(tmp_path, bytes(spoilt))


def test_names_that_lead_out():
    inside = ["a", "a/b", "..a/b", "a..", "a.b/..c"]
    assert not any(map(leads_out, inside))
    assert all(map(leads_out, ["..", "a/..", "..\\a", "/", "\\a", "c:", "Z:/a", "a\0b"]))


def test_what_is_not_there_is_unreadable(tmp_path):
    with pytest.raises(Reject, match="unreadable"):
        check_container(tmp_path / "none")
