"""Two indexings of one OUT: whoever comes second finds the work done, or is told why not."""

import pytest

from medvlp.archive.index import index_archive
from medvlp.archive.tables import table
from medvlp.data.manifest import Manifest, write_manifest
from medvlp.data.swap import replacing
from medvlp.errors import ArchiveError


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "words.csv"
    file.write_text("patient,text\n1,Clear lungs.\n2,Nodule.\n")
    return file


def index(source, out, *more, **options):
    overrides = ["domain=cxr", *more]
    return index_archive(source, kind="table", out=out, overrides=overrides, **options)


@pytest.fixture
def meanwhile(monkeypatch):
    """``meanwhile(act)``: lets `act` happen when the next indexing has begun."""

    def arrange(act):
        real = table.index_table

        def begin(root, intake):
            monkeypatch.setattr(table, "index_table", real)
            act()
            real(root, intake)

        monkeypatch.setattr(table, "index_table", begin)

    return arrange


@pytest.mark.parametrize("replace", [False, True])
def test_the_second_reports_what_the_first_has_written(source, tmp_path, meanwhile, replace):
    if replace:
        index(source, tmp_path / "m")
    first = []
    meanwhile(lambda: first.append(index(source, tmp_path / "m", replace=replace)))
    second = index(source, tmp_path / "m", replace=replace)
    assert second == first[0]
    assert second.samples == 2
    entries = (tmp_path / "m.private" / "audit.jsonl").read_text().splitlines()
    assert len(entries) == 1 + replace


def test_other_options_are_no_shared_work(source, tmp_path, meanwhile):
    meanwhile(lambda: index(source, tmp_path / "m", "site=elsewhere"))
    with pytest.raises(ArchiveError, match="other options meanwhile"):
        index(source, tmp_path / "m")
    assert Manifest.open(tmp_path / "m").samples["site"].to_list() == ["elsewhere"] * 2


def test_the_number_of_workers_is_no_other_option(source, tmp_path, meanwhile):
    meanwhile(lambda: index(source, tmp_path / "m", "workers=1"))
    assert index(source, tmp_path / "m", "workers=3").samples == 2


def test_the_same_command_after_a_kill_in_the_last_step(source, tmp_path, monkeypatch):
    def killed(_):
        raise SystemExit

    index(source, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("medvlp.data.swap._complete", killed)
        with pytest.raises(SystemExit):
            index(source, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    assert index(source, tmp_path / "m").samples == 2
    assert not (tmp_path / "m.private" / "ready").exists()


def test_an_error_while_writing_leaves_the_old(source, tmp_path):
    index(source, tmp_path / "m")
    before = Manifest.open(tmp_path / "m").digest

    def fail():
        with replacing(tmp_path / "m") as (folder, _):
            (folder / "x").write_bytes(b"x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert Manifest.open(tmp_path / "m").digest == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "m.private", "words.csv"]


def test_a_stranger_s_file_in_a_manifest_is_refused(tmp_path):
    info = {"key_id": "k", "counts": {}}
    lines = {"notes.jsonl": [{"b": 1, "a": "ü"}]}
    made = write_manifest(tmp_path / "m", {}, [], info, key=bytes(32), files=lines)
    assert (made.path / "notes.jsonl").read_bytes() == b'{"a":"\\u00fc","b":1}\n'
    plain = write_manifest(tmp_path / "n", {}, [], info, key=bytes(32))
    assert plain.digest != made.digest
    (made.path / "more.txt").write_bytes(b"")
    with pytest.raises(Exception, match="1 files that medvlp did not write"):
        Manifest.open(made.path)
    (made.path / "more.txt").unlink()
    (made.path / "notes.jsonl").unlink()
    with pytest.raises(Exception, match=r"notes\.jsonl differs"):
        Manifest.open(made.path)
