"""Errors as a new user makes them: one line, the remedy, exit code, nothing half-written."""

from __future__ import annotations

import json
import resource
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from medvlp import cli
from medvlp.archive.index import index_archive
from medvlp.domain import get_domain
from medvlp.guarded import run_guarded
from medvlp.models.inputs import expand


@pytest.fixture
def refused(capsys):
    """Run a command and check that it ends in one line on stderr which says all of `says`."""

    def check(*args, says, code=2):
        capsys.readouterr()
        returned = run_guarded(lambda: cli.app([*map(str, args)], standalone_mode=False))
        shown = capsys.readouterr().err
        assert returned == code, shown
        assert shown.startswith("medvlp: ")
        assert shown.count("\n") == 1, shown
        assert "remedy: " in shown
        for words in says:
            assert words in shown
        return shown

    return check


@contextmanager
def little_disk():
    """A limit on file size makes every write beyond it fail as a full disk does.

    No fixture: pytest itself writes between a test and its teardown, perhaps to a file.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("DOE_JANE_19700101")
    rng = np.random.default_rng(3)
    lines = ["file,patient,report,edema"]
    for i in range(40):
        Image.fromarray(rng.integers(0, 255, (64, 64), dtype=np.uint8)).save(folder / f"{i}.png")
        lines.append(f"{i}.png,p{i},{'Mild' if i % 2 else 'No'} edema is seen.,{i % 2}")
    (folder / "table.csv").write_text("\n".join(lines))
    return folder


TABLE = ("--set", "domain=cxr", "--set", "columns.path=file", "--set", "columns.patient=patient",
         "--set", "columns.text=report")  # fmt: skip


@pytest.fixture(scope="module")
def manifest(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("indexed") / "manifest"
    index_archive(pictures / "table.csv", kind="table", out=out, overrides=TABLE[1::2])
    return out


@pytest.fixture
def bundle(tiny_bundle):
    return tiny_bundle("cxr")


@pytest.fixture
def experiment(manifest, tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(
        f"""
domain: cxr
data: {{manifests: [{manifest}], batch_size: 4, texts: {{levels: [report], choose: first}}}}
preprocess: {{kind: cxr, size: 32}}
image: {{kind: resnet, depths: [1, 1], widths: [8, 8], stem: 8, norm: group}}
text: {{kind: bert, width: 16, depth: 1, heads: 2, max_tokens: 16}}
model: {{embed: 8}}
objectives: [{{kind: clip}}]
trainer: {{steps: 100000, accelerator: cpu, log_every: 1}}
"""
    )
    return file


def test_wrong_folder(refused, tmp_path):
    refused("index", tmp_path / "absent", "--kind", "dicom", "--out", tmp_path / "m",
            says=["does not exist"])  # fmt: skip
    (tmp_path / "empty").mkdir()
    refused("index", tmp_path / "empty", "--kind", "dicom", "--out", tmp_path / "m",
            says=["no sample of kind dicom"])  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "m.private"]


def test_unknown_kind_and_missing_column(refused, pictures, tmp_path):
    refused("index", pictures, "--kind", "dicon", "--out", tmp_path / "m", says=["dicon", "dicom"])
    wrong = [word.replace("=report", "=Befund") for word in TABLE]
    shown = refused(
        "index", pictures / "table.csv", "--kind", "table", "--out", tmp_path / "m", *wrong,
        says=["Befund", "report"],
    )  # fmt: skip
    assert "DOE" not in shown
    assert [path.name for path in tmp_path.iterdir()] == ["m.private"]


def test_outputs_have_a_place_before_the_work(refused, bundle, pictures, tmp_path, capsys):
    (tmp_path / "file").touch()
    picture = pictures / "0.png"
    for words in (
        ("zeroshot", bundle, picture, "--csv"),
        ("zeroshot", bundle, picture, "--heatmaps"),
        ("embed", bundle, picture, "--out"),
        ("inspect", picture, "--out"),
        ("index", pictures, "--kind", "dicom", "--out"),
        ("splits", pictures, "--out"),
    ):
        refused(*words, tmp_path / "file" / "deep" / "x", says=["file is no folder"])
    (tmp_path / "folder").mkdir()
    (tmp_path / "dead").symlink_to(tmp_path / "gone")
    for words in (("zeroshot", bundle, picture, "--csv"), ("inspect", picture, "--json")):
        refused(*words, tmp_path / "folder", says=["folder is a folder"])
        refused(*words, tmp_path / "dead" / "x", says=["dead is no folder"])
    page = tmp_path / "new" / "folder" / "page.html"
    code = run_guarded(
        lambda: cli.app(["inspect", str(picture), "--out", str(page)], standalone_mode=False)
    )
    assert code == 0
    assert page.stat().st_size


def test_a_link_that_leads_to_itself(refused, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    refused("verify", tmp_path / "loop", says=["leads back to itself"], code=3)


def test_options_without_effect_are_refused(refused, manifest, bundle, tmp_path):
    index = tmp_path / "index"
    for option in ("--names", f"--manifest={manifest}"):
        refused("search", "edema", "--index", index, option, says=["for the page"])
    refused("evaluate", "--from-predictions", index, "--scores", says=["--scores out"])
    refused("evaluate", tmp_path / "p.yaml", "--bundle", bundle, "--out", index, "--scores",
            says=["--scores says"])  # fmt: skip


def test_links_that_lead_out_are_named(refused, pictures, tmp_path):
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "linked").symlink_to(pictures)
    refused("index", tmp_path / "archive", "--kind", "dicom", "--out", tmp_path / "m",
            says=["outside_root 1", "follow_links=true"])  # fmt: skip
    resolve = get_domain("cxr").resolve.load()
    assert len(expand(tmp_path / "archive", resolve)) == 40
    # Once, whatever further links lead there, or back to where the search began.
    (tmp_path / "archive" / "again").symlink_to(pictures)
    (tmp_path / "archive" / "up").symlink_to(tmp_path)
    Image.new("L", (8, 8)).save(tmp_path / "archive" / "own.png")
    (tmp_path / "archive" / "other-name.png").symlink_to(tmp_path / "archive" / "own.png")
    assert len(expand(tmp_path / "archive", resolve)) == 41
    # A link to a part comes before one to the whole; what a file server adds is no sample.
    store = tmp_path / "store"
    (store / "p1").mkdir(parents=True)
    (store / "@eaDir").mkdir()
    for name in ("p1/x.png", "@eaDir/x.png", "p1/._x.png"):
        Image.new("L", (8, 8)).save(store / name)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a").symlink_to(store / "p1")
    (tmp_path / "links" / "b").symlink_to(store)
    assert len(expand(tmp_path / "links", resolve)) == 1


def test_no_manifest(refused, tmp_path):
    refused("verify", tmp_path, says=["manifest.json"])


def test_wrong_configuration(refused, experiment, tmp_path):
    run = tmp_path / "run"
    refused("train", tmp_path / "absent.yaml", "--out", run, says=["absent.yaml"])
    refused("train", experiment, "data.batchsize=8", "--out", run, says=["data.batchsize"])
    refused("train", experiment, "objectives.x=3", "--out", run, says=["'x' is no index"])
    refused("train", experiment, "trainer.steps=many", "--out", run, says=["trainer.steps", "many"])
    refused("train", experiment, "data.labels=[oedema]", "--out", run, says=["oedema"])
    assert not (run / "bundle").exists()


def test_label_prompts_and_bundle(refused, bundle, pictures, tmp_path):
    picture = pictures / "0.png"
    scores = tmp_path / "scores.csv"
    refused("zeroshot", bundle, picture, "--labels", "oedema", "--csv", scores,
            says=["'oedema'", "edema, cardiomegaly"])  # fmt: skip
    (tmp_path / "empty.yaml").touch()
    refused("zeroshot", bundle, picture, "--prompts", tmp_path / "empty.yaml", "--csv", scores,
            says=["empty.yaml is empty"])  # fmt: skip
    damaged = shutil.copytree(bundle, tmp_path / "damaged")
    weights = bytearray((damaged / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(weights)
    refused("zeroshot", damaged, picture, "--csv", scores, says=["damaged"])
    other = shutil.copytree(bundle, tmp_path / "other")
    values = json.loads((other / "bundle.json").read_text())
    values["preprocess"]["size"] = 64
    (other / "bundle.json").write_text(json.dumps(values))
    refused("zeroshot", other, picture, "--csv", scores, says=["other"])
    refused("zeroshot", pictures, picture, "--csv", scores, says=["remedy"])
    assert not scores.exists()


def test_unreadable_input_is_exit_4(bundle, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    args = ["zeroshot", str(bundle), str(tmp_path / "broken.png")]
    assert run_guarded(lambda: cli.app(args, standalone_mode=False)) == 4
    assert "not_a_picture" in capsys.readouterr().out


def test_full_disk_leaves_nothing(refused, pictures, bundle, tmp_path):
    with little_disk():
        refused("index", pictures / "table.csv", "--kind", "table", "--out", tmp_path / "m", *TABLE,
                code=3, says=["disk", "not full"])  # fmt: skip
        refused("zeroshot", bundle, pictures, "--csv", tmp_path / "s.csv",
                code=3, says=["the disk is full"])  # fmt: skip
        refused("embed", bundle, pictures, "--out", tmp_path / "index",
                code=3, says=["the disk is full"])  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["m.private"]
