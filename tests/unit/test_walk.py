import os
import socket

from medvlp.archive.walk import walk


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
    os.mkfifo(tmp_path / "pipe")
    entries = [(str(e.path.relative_to(tmp_path)), e.ignored) for e in walk(tmp_path)]
    assert sorted(entries) == [
        ("again", "not_regular"),
        ("b/.DS_Store", "hidden_junk"),
        ("b/._1", "hidden_junk"),
        ("b/1", None),
        ("b/2", None),
        ("b/loop", "not_regular"),
        ("dead", "not_regular"),
        ("link", None),
        ("pipe", "not_regular"),
        ("self", "not_regular"),
    ]
    assert entries == [(str(e.path.relative_to(tmp_path)), e.ignored) for e in walk(tmp_path)]
    assert [n for n, _ in entries].index("b/1") < [n for n, _ in entries].index("b/2")


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
