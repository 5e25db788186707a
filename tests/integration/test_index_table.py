import json

import numpy as np
import polars as pl
import pytest
from PIL import Image

from medvlp.archive.index import index_archive
from medvlp.cli import app
from medvlp.data.keys import write_key
from medvlp.data.manifest import Manifest
from medvlp.data.verify import verify_manifest
from medvlp.errors import ArchiveError, ConfigError, ManifestError
from medvlp.guarded import run_guarded

NAMES = ("Schmidt", "Okafor", "Garcia")


def picture(path, value=0, size=(12, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, np.uint8)).save(path)


@pytest.fixture
def hospital(tmp_path):
    """A table as a hospital has it: German columns, semicolons, Latin-1, names in the paths."""
    root = tmp_path / "hospital"
    lines = ["Datei;PatNr;Studie;Befund;Datum;Alter;Geschl;Erguss;Pneu;Satz"]
    for i in range(12):
        name = NAMES[i % 3]
        picture(root / "bilder" / f"{name}_{i}.png", i)
        lines.append(
            f"bilder/{name}_{i}.png;00{i % 4};ACC90{i};Erguß links bei 00{i % 4}, ACC90{i}."
            f";2021-05-0{i % 9 + 1};{30 + i};W;{i % 2};;train"
        )
    (root / "tabelle.csv").write_bytes("\n".join(lines).encode("latin-1"))
    return root


SETTINGS = [
    "domain=cxr",
    "columns.path=Datei",
    "columns.patient=PatNr",
    "columns.study=Studie",
    "columns.text=Befund",
    "columns.date=Datum",
    "columns.age=Alter",
    "columns.labels=[Erguss, Pneu]",
]


def index(hospital, out, *settings, **options):
    return index_archive(
        hospital / "tabelle.csv", kind="table", out=out, overrides=[*SETTINGS, *settings], **options
    )


def test_a_manifest_is_where_its_folder_is(hospital, tmp_path, monkeypatch):
    index(hospital, tmp_path / "real" / "m")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "m")
    first = Manifest.open(tmp_path / "real" / "m")
    linked = Manifest.open(tmp_path / "link")
    assert linked.private == first.private
    assert linked.paths(first.samples["source"][0])
    monkeypatch.chdir(first.path)
    assert Manifest.open(".").digest == first.digest
    verify_manifest(tmp_path / "link")
    index(hospital, tmp_path / "link", replace=True)
    assert (tmp_path / "link").is_symlink()
    assert Manifest.open(first.path).samples.equals(first.samples)
    assert not (tmp_path / "link.private").exists()


def test_a_row_s_folder_does_not_reach_through_links(hospital, tmp_path):
    (hospital / "one").mkdir()
    picture(hospital / "one" / "a.png", 1)
    (hospital / "one" / "prior").symlink_to(hospital / "bilder")
    (hospital / "short.csv").write_text("path,patient\none,p1\n")
    index_archive(hospital / "short.csv", kind="table", out=tmp_path / "m",
                  overrides=["domain=cxr"])  # fmt: skip
    manifest = Manifest.open(tmp_path / "m")
    (row,) = manifest.samples.iter_rows(named=True)
    assert [path.name for path in manifest.paths(row["source"])] == ["a.png"]


def test_a_table_whose_every_path_is_wrong_makes_no_manifest(hospital, tmp_path):
    for file in (hospital / "bilder").iterdir():
        file.rename(hospital / file.name)
    with pytest.raises(ArchiveError, match="missing_file 12") as refused:
        index(hospital, tmp_path / "m")
    assert "column of paths" in refused.value.remedy
    assert not (tmp_path / "m").exists()


def command(*words):
    return run_guarded(lambda: app([str(w) for w in words], standalone_mode=False))


def test_a_hospitals_table(hospital, tmp_path):
    summary = index(hospital, tmp_path / "m")
    assert summary.counts() == {"found": 13, "accepted": 13, "quarantined": 0, "ignored": 0}
    manifest = Manifest.open(tmp_path / "m")
    verify_manifest(tmp_path / "m")
    samples = manifest.samples
    assert samples.height == 12
    assert samples["patient"].n_unique() == 4  # "000" to "003": leading zeros survive
    assert samples["shape"].to_list()[0] == [12, 16]
    assert set(samples["age_band"]) == {"30-39", "40-49"}
    values = manifest.labels.group_by("name").agg(pl.col("value")).sort("name").to_dicts()
    assert values[0]["value"] == [float(i % 2) for i in range(12)]
    assert values[1]["value"] == [None] * 12
    text = manifest.texts.filter(pl.col("level") == "sentence")["text"].to_list()
    assert text[0] == "Erguß links bei ___, ___."


def test_no_output_byte_names_a_patient(hospital, tmp_path, capfd):
    out = tmp_path / "m"
    (hospital / "bilder" / "Schmidt_0.png").write_bytes(b"no picture")
    (hospital / "bilder" / "Okafor_1.png").unlink()
    # A key of its own each run would, once in some hundred runs, shift a date into May 2021.
    write_key(tmp_path / "k", b"k" * 32)
    words = ["index", hospital / "tabelle.csv", "--kind", "table", "--out", out, "--json"]
    words += ["--key", tmp_path / "k"]
    assert command(*words, *(w for s in SETTINGS for w in ("--set", s))) == 0
    said = "".join(capfd.readouterr())
    manifest = Manifest.open(out)
    tables = ("samples", "texts", "labels", "rejects", "subsets", "regions", "entities")
    cells = " ".join(str(getattr(manifest, name).rows()) for name in tables)
    everything = (said + cells).encode() + b"".join(p.read_bytes() for p in out.iterdir())
    for secret in (*NAMES, "ACC90", "2021-05", "bilder", str(hospital)):
        assert secret.lower().encode() not in everything.lower()
    codes = manifest.rejects.select("stage", "code").rows()
    assert sorted(codes) == [("read", "not_a_picture"), ("row", "missing_file")]
    assert json.loads(said.strip().splitlines()[-1]) == {
        "found": 12,
        "accepted": 11,
        "quarantined": 1,
        "ignored": 0,
    }


def test_a_shared_key_gives_the_same_pseudonyms(hospital, tmp_path):
    index(hospital, tmp_path / "one")
    index(hospital, tmp_path / "two", key=tmp_path / "one.private" / "key")
    index(hospital, tmp_path / "other")
    one, two, other = (Manifest.open(tmp_path / n).samples for n in ("one", "two", "other"))
    assert one.equals(two)
    assert not set(one["patient"]) & set(other["patient"])


def test_replace_keeps_the_key(hospital, tmp_path):
    index(hospital, tmp_path / "m")
    before = Manifest.open(tmp_path / "m").samples
    index(hospital, tmp_path / "m", replace=True)
    assert Manifest.open(tmp_path / "m").samples.equals(before)


@pytest.mark.parametrize("holds", ["folder", "file"])
def test_only_a_manifest_is_replaced(hospital, tmp_path, holds):
    out = tmp_path / "data"
    kept = out / "archive.dcm" if holds == "folder" else out
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("a hospital's")
    with pytest.raises(ManifestError, match="data is no manifest"):
        index(hospital, out, replace=True)
    assert kept.read_text() == "a hospital's"
    assert not (tmp_path / "data.private").exists()


def test_replace_with_another_key_is_refused(hospital, tmp_path):
    index(hospital, tmp_path / "m")
    write_key(tmp_path / "k", b"k" * 32)
    (tmp_path / "k").chmod(0o600)
    with pytest.raises(Exception, match="another key"):
        index(hospital, tmp_path / "m", replace=True, key=tmp_path / "k")


def test_texts_without_pixels(tmp_path):
    frame = pl.DataFrame(
        {
            "id": ["a", "b", "c", "a"],
            "report_text": ["Nodule of 3.5 cm. Clear.", "Normal.", " ", "Nodule of 3.5 cm. Clear."],
            "found": [["Nodule"], [], None, ["Nodule"]],
        }
    )
    frame.write_parquet(tmp_path / "reports.parquet")
    summary = index_archive(
        tmp_path / "reports.parquet",
        kind="table",
        out=tmp_path / "m",
        overrides=[
            "domain=volumetric", "columns.study=id", "columns.patient=id",
            "columns.text=report_text",
            "columns.label_list=found", "label_source=expert",
        ],
    )  # fmt: skip
    manifest = Manifest.open(tmp_path / "m")
    assert summary.samples == 2
    assert manifest.samples["kind"].to_list() == ["report"] * 2
    assert sorted(manifest.rejects["code"]) == ["duplicate_sample", "empty_report"]
    assert manifest.labels.select("name", "value", "source").rows() == [
        ("Nodule", 1.0, "expert"),
        ("Nodule", 0.0, "expert"),
    ]


def test_names_in_a_table_s_columns_do_not_stay_in_its_reports(hospital, tmp_path):
    lines = ["Datei;PatNr;Befund;Patienten-Name;Prénom;Arzt"]
    for i, (name, given) in enumerate(zip(NAMES, ("Anna", "Bea", "Cleo"), strict=True)):
        told = f"{name} has edema, says Brandt. {given} knows."
        lines.append(f"bilder/{name}_{i}.png;p{i};{told};{name};{given};Brandt")
    (hospital / "n.csv").write_text("\n".join(lines))
    settings = ["domain=cxr", "columns.path=Datei", "columns.patient=PatNr", "columns.text=Befund"]

    def texts(out, *more):
        index_archive(hospital / "n.csv", kind="table", out=out, overrides=[*settings, *more])
        rows = Manifest.open(out).texts.filter(pl.col("level") == "report")
        return set(rows["text"])

    assert texts(tmp_path / "a") == {"___ has edema, says Brandt. ___ knows."}
    named = texts(tmp_path / "b", "columns.names=[Arzt]")
    assert named == {"___ has edema, says ___. ___ knows."}
    with pytest.raises(ConfigError, match="no column 'Arztt'"):
        texts(tmp_path / "c", "columns.names=[Arztt]")
    (hospital / "ris.csv").write_text("accession,told,Befunder\nA1,Edema is not seen.,not stated\n")
    with pytest.raises(ConfigError, match="no column 'Arztt'"):
        texts(tmp_path / "c", "columns.names=[Arztt]", "reports=ris.csv", "columns.text=told")
    # Beside pictures that a table names, a second table brings reports and the names in them.
    (hospital / "paths.csv").write_text(
        "path,patient,accession\nbilder/Schmidt_0.png,p,A1\nbilder/Okafor_1.png,q,A2\n"
    )
    (hospital / "ris.csv").write_text(
        'accession,told,last_name\nA1,Meier has edema.,"Meier, Jo (1950)"\n'
        "A2,Meier has edema. Chest not clear.,Chest Clinic / not stated\n"
    )
    index_archive(hospital / "paths.csv", kind="table", out=tmp_path / "d",
                  overrides=["domain=cxr", "reports=ris.csv", "columns.text=told"])  # fmt: skip
    rows = Manifest.open(tmp_path / "d").texts.filter(pl.col("level") == "report")
    assert sorted(rows["text"]) == ["Meier has edema. Chest not clear.", "___ has edema."]


def test_reports_of_a_second_table_are_joined(hospital, tmp_path):
    (hospital / "ris.csv").write_text(
        "accession,text\nACC900,Edema.\nACC901,Mass.\nACC901,No mass.\nACC902,\nZZ,Unmatched.\n,x\n"
    )
    settings = [s for s in SETTINGS if not s.startswith(("columns.text", "columns.study"))]
    frame = pl.read_csv(
        hospital / "tabelle.csv", separator=";", infer_schema=False, encoding="latin-1"
    ).rename({"Studie": "accession"}).drop("Befund")  # fmt: skip
    frame.write_csv(hospital / "tabelle.csv")
    index_archive(
        hospital / "tabelle.csv",
        kind="table",
        out=tmp_path / "m",
        overrides=[*settings, "reports=ris.csv"],
    )
    manifest = Manifest.open(tmp_path / "m")
    assert manifest.texts.filter(pl.col("level") == "report")["text"].to_list() == ["Edema."]
    assert sorted(manifest.rejects["code"]) == [
        "empty_report", "no_key", "pair_conflict", "pair_conflict",
    ]  # fmt: skip
    assert manifest.info["notes"] == {"reports_without_study": 1}
    assert manifest.info["counts"]["found"] == 14


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "columns.path=Pfad"], "no column 'Pfad'"),
        (["--set", "columns.labels=[Befund]"], "something else than 1, 0, -1"),
        (["--set", "domain=knee"], "domain 'knee' is not installed"),
        (["--set", "colums.path=Datei"], "colums"),
        (["--set", "options.x=1"], "options: x"),
        (["--set", "reports=nowhere.csv"], "nowhere.csv is neither"),
        (["--set", "split.fractions.train=0.9"], "add up to 1"),
        (["--kind", "tabel"], "kind 'tabel' is unknown"),
        (["--key", "missing.key"], "key file is missing"),
    ],
)
def test_a_users_mistake_is_one_line_with_a_remedy(hospital, tmp_path, capfd, words, message):
    base = ["index", hospital / "tabelle.csv", "--kind", "table", "--out", tmp_path / "m"]
    assert command(*base, *(w for s in SETTINGS for w in ("--set", s)), *words) == 2
    said = capfd.readouterr().err
    assert message in " ".join(said.split())
    assert "remedy:" in said
    assert not (tmp_path / "m").exists()


def test_a_missing_column_names_those_that_are_there(hospital, tmp_path, capfd):
    words = ["index", hospital / "tabelle.csv", "--kind", "table", "--out", tmp_path / "m"]
    assert command(*words, "--set", "domain=cxr") == 2
    said = " ".join(capfd.readouterr().err.split())
    assert "no column 'patient' (columns there: Datei, PatNr, Studie" in said
    assert "columns.patient=" in said


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("nowhere", "table", "source does not exist"),
        ("hospital", "table", "takes the table's file"),
        ("hospital", "nih-cxr14", "Image Index"),
        ("hospital", "open-i", "no Open-I report"),
    ],
)
def test_the_wrong_folder(hospital, tmp_path, capfd, source, kind, message):
    words = ["index", tmp_path / source, "--kind", kind, "--out", tmp_path / "m"]
    assert command(*words, "--set", "domain=cxr") == 2
    assert message in " ".join(capfd.readouterr().err.split())
    assert not (tmp_path / "m").exists()


def test_an_existing_manifest_is_not_overwritten(hospital, tmp_path, capfd):
    index(hospital, tmp_path / "m")
    digest = Manifest.open(tmp_path / "m").digest
    words = ["index", hospital / "tabelle.csv", "--kind", "table", "--out", tmp_path / "m"]
    assert command(*words, *(w for s in SETTINGS for w in ("--set", s))) == 2
    assert "--replace" in capfd.readouterr().err
    assert Manifest.open(tmp_path / "m").digest == digest


def test_ctrl_c_leaves_what_the_next_run_goes_on_with(hospital, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("medvlp.archive.tables.table._take_file", interrupted)
    words = ["index", hospital / "tabelle.csv", "--kind", "table", "--out", tmp_path / "m"]
    assert command(*words, *(w for s in SETTINGS for w in ("--set", s))) == 130
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hospital", "m.private"]
    names = sorted(p.name for p in (tmp_path / "m.private").iterdir())
    assert names == ["key", "ledger.sqlite", "lock"]


def test_a_config_file_does_what_the_settings_do(hospital, tmp_path):
    file = tmp_path / "index.yaml"
    file.write_text(
        "domain: cxr\ncolumns: {path: Datei, patient: PatNr, text: Befund, split: Satz}\n"
    )
    source = hospital / "tabelle.csv"
    index_archive(source, kind="table", out=tmp_path / "m", config=file, overrides=[])
    assert set(Manifest.open(tmp_path / "m").samples["split"]) == {"train"}


def test_annotations_beside_the_table(hospital, tmp_path):
    (hospital / "boxes.csv").write_text(
        "path,name,x0,y0,x1,y1\nbilder/Schmidt_0.png,Pneu,1,2,3,4\nbilder/none.png,Pneu,1,2,3,4\n"
    )
    index(hospital, tmp_path / "m", "regions=boxes.csv")
    manifest = Manifest.open(tmp_path / "m")
    assert manifest.regions.select("name", "geometry").rows() == [("Pneu", [1, 2, 3, 4])]
    assert manifest.info["notes"]["annotations_without_sample"] == 1


@pytest.mark.parametrize("setting", ["reports=x.csv", "labels=x.csv", "regions=x.csv"])
def test_an_option_that_a_kind_would_pass_over_is_refused(tmp_path, setting):
    picture(tmp_path / "nih" / "00000001_000.png")
    (tmp_path / "nih" / "labels.csv").write_text(
        "Image Index,Finding Labels\n00000001_000.png,Mass\n"
    )
    (tmp_path / "nih" / "x.csv").write_text("a,b\n")
    with pytest.raises(ConfigError, match=f"takes no {setting.partition('=')[0]}"):
        index_archive(tmp_path / "nih", kind="nih-cxr14", out=tmp_path / "m", overrides=[setting])
