import json
import random

import pytest

from medvlp.data.audit import LOG, Anchor, AuditLog
from medvlp.data.keys import new_key
from medvlp.errors import ManifestError

KEY = bytes(range(32))


def grown(folder, commands=("index", "rekey", "forget", "publish")):
    log = AuditLog(folder, KEY)
    anchor = Anchor()
    for command in commands:
        draft = log.draft(command, manifest="0" * 64, counts={"found": 7}, key_id="k")
        log.append(draft)
        anchor = draft.anchor
    return log, anchor


def test_a_sound_log_is_read_back(tmp_path):
    log, anchor = grown(tmp_path)
    assert [entry["command"] for entry in log.check(anchor)] == [
        "index", "rekey", "forget", "publish",
    ]  # fmt: skip
    assert (tmp_path / LOG).stat().st_mode & 0o777 == 0o600
    assert Anchor.of({"audit": anchor.plain()}) == anchor
    assert Anchor.of({}) == Anchor()


@pytest.mark.parametrize(
    "harm",
    [
        lambda lines: lines[:-1],
        lambda lines: lines[:0],
        lambda lines: lines[1:],
        lambda lines: [lines[0], *lines[2:]],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [*lines[:2], lines[2].replace(b'"found":7', b'"found":8'), lines[3]],
        lambda lines: [*lines[:2], lines[2].replace(b'":', b'": '), lines[3]],
        lambda lines: [*lines[:3], lines[3][:-4]],
        lambda lines: [*lines, b"{}"],
        lambda lines: [*lines, b"[]"],
        lambda lines: [b"", *lines],
    ],
)
def test_editing_deleting_moving_adding_and_cutting_are_found(tmp_path, harm):
    log, anchor = grown(tmp_path)
    lines = (tmp_path / LOG).read_bytes().splitlines()
    (tmp_path / LOG).write_bytes(b"".join(line + b"\n" for line in harm(lines)))
    with pytest.raises(ManifestError, match="audit log"):
        log.check(anchor)
    (tmp_path / LOG).write_bytes(b"\n".join(lines))
    with pytest.raises(ManifestError, match="ends within"):
        log.check(anchor)


def test_a_chain_forged_without_the_key_is_found(tmp_path):
    _, anchor = grown(tmp_path)
    (tmp_path / LOG).unlink()
    forger = AuditLog(tmp_path, new_key())
    for _ in range(4):
        forger.append(forger.draft("index", manifest="", counts={}, key_id="k"))
    with pytest.raises(ManifestError, match="entry 1 "):
        AuditLog(tmp_path, KEY).check(anchor)


def test_every_flipped_bit_is_found(tmp_path):
    log, anchor = grown(tmp_path)
    data = (tmp_path / LOG).read_bytes()
    random_ = random.Random(0)
    for _ in range(200):
        place = random_.randrange(8 * len(data))
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        (tmp_path / LOG).write_bytes(changed)
        with pytest.raises(ManifestError):
            log.check(anchor)


def test_an_entry_says_nothing_about_a_person(tmp_path):
    log, anchor = grown(tmp_path, commands=("index",))
    (entry,) = log.check(anchor)
    assert set(entry) == {
        "n", "time", "command", "medvlp", "key_id", "manifest", "counts", "previous", "mac",
    }  # fmt: skip
    assert json.loads((tmp_path / LOG).read_text()) == entry
