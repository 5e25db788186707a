import os
import socket
from pathlib import Path

from medvlp.archive.walk import walk


def seen(root, *skip, **options):
    """Name inside the root -> why it is not taken, in order."""
    return {
        os.fsdecode(os.path.relpath(os.fsencode(e.path), os.fsencode(root))): e.ignored
        or e.rejected
        for e in walk(root, skip, **options)
    }


def test_order_links_loops_and_oddities(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2").write_text("2")
    (tmp_path / "b" / "1").write_text("1")
    (tmp_path / "b" / ".DS_Store").write_text("")
    (tmp_path / "b" / "._1").write_text("")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "b")
    (tmp_path / "link").symlink_to(tmp_path / "b" / "1")
    (tmp_path / "dead").symlink_to(tmp_path / "none")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "null").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    found = seen(tmp_path)
    assert found == {
        "again": "link",
        "b/.DS_Store": "hidden_junk",
        "b/._1": "hidden_junk",
        "b/1": None,
        "b/2": None,
        "b/loop": "link",
        "dead": "not_regular",
        "link": "link",
        "null": "outside_root",
        "pipe": "not_regular",
        "self": "not_regular",
    }
    assert list(found) == list(seen(tmp_path)) == sorted(found)


def test_links_out_of_the_root(tmp_path):
    root, away = tmp_path / "root", tmp_path / "away"
    for folder in (root, away / "deep"):
        folder.mkdir(parents=True)
    (away / "deep" / "file").write_text("x")
    (away / "deep" / "up").symlink_to(away)
    (root / "folder").symlink_to(away)
    (root / "other").symlink_to(away / "deep")
    (root / "file").symlink_to(away / "deep" / "file")
    (root / "zero").symlink_to("/dev/zero")
    # A neighbour whose name begins like the root's is not inside it.
    (tmp_path / "root2").mkdir()
    (root / "near").symlink_to(tmp_path / "root2")
    assert set(seen(root).values()) == {"outside_root"}
    assert seen(root, follow_links=True) == {
        "file": None,
        "folder/deep/file": None,
        "folder/deep/up": "link",
        "other": "link",
        "zero": "not_regular",
    }


def test_a_root_that_is_a_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("")
    (tmp_path / "real" / "inside").symlink_to(tmp_path / "real" / "a")
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert seen(tmp_path / "root") == {"a": None, "inside": "link"}
    (tmp_path / "one").symlink_to(tmp_path / "real" / "a")
    assert [e.ignored for e in walk(tmp_path / "one")] == [None]


def test_a_file_with_two_names_counts_once(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    (tmp_path / "c").write_text("x")
    assert seen(tmp_path) == {"a": None, "b": "hard_link", "c": None}


def test_names_of_any_bytes_survive(tmp_path):
    names = [b"new\nline", b"\xff\xfe.dcm", b"x" * 255, b"Case", b"case", b" ", "ü".encode()]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    found = [e.path for e in walk(tmp_path)]
    assert sorted(p.read_bytes() for p in found) == sorted(names)


def test_what_file_servers_keep_is_not_the_archive(tmp_path):
    for folder in (".snapshot", "@eaDir", "data"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").write_text("")
    assert seen(tmp_path) == {
        ".snapshot": "hidden_junk",
        "@eaDir": "hidden_junk",
        "data/file": None,
    }


def test_what_cannot_be_listed_or_goes_meanwhile(tmp_path, monkeypatch):
    for name in ("closed", "open"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    real = os.listdir

    def listdir(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "no")
        return [*real(path), "gone"]

    monkeypatch.setattr(os, "listdir", listdir)
    assert seen(tmp_path) == {
        "closed": "unreadable",
        "gone": "vanished",
        "open/file": None,
        "open/gone": "vanished",
    }


def test_a_path_longer_than_the_system_takes(tmp_path, monkeypatch):
    name = "d" * 250
    monkeypatch.chdir(tmp_path)
    for _ in range(18):
        Path(name).mkdir()
        os.chdir(name)
    try:
        assert set(seen(tmp_path).values()) == {"path_too_long"}
    finally:
        for _ in range(18):
            os.chdir("..")
            Path(name).rmdir()


def test_a_socket_is_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert [e.ignored for e in walk(tmp_path)] == ["not_regular"]


def test_folders_left_out(tmp_path):
    for name in ("a", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    assert [e.path.parent.name for e in walk(tmp_path, [tmp_path / "out"])] == ["a"]


def test_a_single_file_is_its_own_archive(tmp_path):
    (tmp_path / "one").write_text("")
    assert [e.path.name for e in walk(tmp_path / "one")] == ["one"]


def test_very_deep_folders_do_not_exhaust_the_stack(tmp_path):
    deep = tmp_path
    for _ in range(1200):
        deep = deep / "d"
        deep.mkdir()
    (deep / "file").write_text("")
    found = [e.path for e in walk(tmp_path)]
    # Nobody else clears such a tree: shutil.rmtree and pytest's own tidying recurse.
    (deep / "file").unlink()
    for folder in [deep, *deep.parents][:1200]:
        folder.rmdir()
    assert found == [deep / "file"]
