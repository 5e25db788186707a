import json
import shutil
import stat

import numpy as np
import polars as pl
import pydicom
import pytest

from medvlp.archive.index import index_archive
from medvlp.archive.series.read import read_series
from medvlp.archive.verdict import Reject
from medvlp.data.manifest import Manifest
from medvlp.evaluate.cases import sample_items
from medvlp_volumetric.read import read_volume

XRAY = {
    "Modality": "DX",
    "ImagePositionPatient": None,
    "ImageOrientationPatient": None,
    "RescaleSlope": None,
    "RescaleIntercept": None,
    "PixelRepresentation": 0,
}
AXIAL = [(0, 0, 2.0 * k) for k in range(4)]


@pytest.fixture
def hospital(tmp_path, dicom, series):
    """One patient's X-rays in one study and CT in another, and much that is none of ours."""
    rng = np.random.default_rng(0)
    for name, view in (("in/pa.dcm", "PA"), ("in/lat", "LL")):
        pixels = rng.integers(0, 4000, (8, 7)).astype(np.uint16)
        dicom(name, pixels, ViewPosition=view, SOPInstanceUID=f"1.2.3.{len(name)}", **XRAY)
    ct = {"StudyInstanceUID": "1.2.77", "SeriesInstanceUID": "1.2.77.1", "AccessionNumber": "ACC8"}
    series(AXIAL, folder="in/ct", **ct)
    series(
        [(0, 0, 0), (0, 0, 2), (0, 0, 8)],
        folder="in/gap",
        **{**ct, "SeriesInstanceUID": "1.2.77.2"},
    )
    dicom("in/mr.dcm", Modality="MR")
    dicom("in/sr.dcm", Modality="SR", Rows=None, Columns=None, pixel_bytes=None)
    dicom("in/cut.dcm", np.zeros((8, 7), np.uint16), **XRAY)
    path = tmp_path / "in/cut.dcm"
    path.write_bytes(path.read_bytes()[:-3])
    (tmp_path / "in/notes.doc").write_text("none of ours")
    (tmp_path / "in/fake.dcm").write_text("not DICOM at all")
    pl.DataFrame(
        {
            "acc": ["ACC7", "ACC8"],
            "words": [
                "FINDINGS: The heart of Nightingale is normal in size. IMPRESSION: Normal.",
                "FINDINGS: There is a nodule. IMPRESSION: Nodule.",
            ],
        }
    ).write_csv(tmp_path / "in/reports.csv")
    return tmp_path / "in"


@pytest.fixture
def manifest(hospital, tmp_path):
    out = tmp_path / "manifest"
    summary = index_archive(
        hospital,
        kind="dicom",
        out=out,
        overrides=["reports=reports.csv", "columns.accession=acc", "columns.text=words"],
    )
    return out, summary


def test_every_file_has_one_fate(manifest):
    out, summary = manifest
    counts = summary.counts()
    assert counts == {"found": 15, "accepted": 7, "quarantined": 5, "ignored": 3}
    rejects = pl.read_parquet(out / "rejects.parquet")
    fates = dict(rejects.group_by("code").len().iter_rows())
    assert fates == {
        "spacing_gap": 3, "truncated_pixels": 1, "not_dicom": 2, "other_modality": 1,
        "no_pixels": 1,
    }  # fmt: skip


def test_samples_carry_what_their_headers_say(manifest):
    samples = pl.read_parquet(manifest[0] / "samples.parquet").sort("domain", "view")
    assert samples["domain"].to_list() == ["cxr", "cxr", "volumetric"]
    assert samples["view"].to_list() == ["LATERAL", "PA", None]
    assert samples["shape"].to_list() == [[8, 7], [8, 7], [4, 6, 5]]
    assert samples["spacing_mm"].to_list() == [[0.5, 0.75], [0.5, 0.75], [2.0, 0.5, 0.75]]
    assert samples["age_band"].to_list() == ["40-49"] * 3
    assert samples["sex"].to_list() == ["F"] * 3
    assert samples["patient"].n_unique() == 1
    assert samples["study"].n_unique() == 2


def test_a_study_s_report_is_attached_to_each_of_its_images(manifest):
    samples = pl.read_parquet(manifest[0] / "samples.parquet")
    texts = pl.read_parquet(manifest[0] / "texts.parquet").filter(pl.col("level") == "report")
    joined = texts.join(samples, on="sample")
    assert joined.filter(pl.col("domain") == "cxr").height == 2
    assert "nodule" in joined.filter(pl.col("domain") == "volumetric")["text"][0]


def test_nothing_in_the_manifest_names_the_patient(manifest):
    for path in manifest[0].rglob("*"):
        if path.suffix == ".parquet":
            content = pl.read_parquet(path).write_ndjson()
        else:
            content = path.read_text()
        for canary in ("Nightingale", "PAT-0042", "ACC7", "1.2.826", "20200229", "2020-02-29"):
            assert canary not in content, path.name
    private = manifest[0].parent / "manifest.private"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


def test_the_manifest_s_files_are_in_order_and_read_back(manifest):
    sources = pl.read_parquet(manifest[0].parent / "manifest.private/sources.parquet")
    ct = pl.read_parquet(manifest[0] / "samples.parquet").filter(pl.col("kind") == "series")
    paths = sources.filter(pl.col("source") == ct["source"][0]).sort("part")["path"].to_list()
    assert [path[-7:] for path in paths] == ["004.dcm", "003.dcm", "002.dcm", "001.dcm"]
    assert read_series([*map(type(manifest[0]), paths)]).hu_DHW.shape == (4, 6, 5)


def indexed(tmp_path, *overrides):
    """Files' codes by name, samples and quality records of an archive in ``in/``."""
    out = tmp_path / "manifest"
    index_archive(tmp_path / "in", kind="dicom", out=out, overrides=list(overrides))
    rejects = pl.read_parquet(out / "rejects.parquet")
    sources = pl.read_parquet(tmp_path / "manifest.private/sources.parquet")
    joined = rejects.join(sources, on="source")
    fates = {path[len(str(tmp_path)) + 4 :]: code for path, code in joined["path", "code"].rows()}
    quality = out / "qc.jsonl"
    lines = quality.read_text().splitlines() if quality.exists() else []
    records = [json.loads(line) for line in lines]
    return fates, pl.read_parquet(out / "samples.parquet"), records


def unlike(seed):
    return np.random.default_rng(seed).integers(0, 2000, (4, 6, 5)).astype(np.int16)


def test_one_identifier_on_two_images_refuses_both(tmp_path, dicom, series):
    xray = {**XRAY, "SOPInstanceUID": "1.2.3.4"}
    for name, seed in (("in/a.dcm", 0), ("in/b.dcm", 1), ("in/c.dcm", 0)):
        pixels = np.random.default_rng(seed).integers(0, 4000, (8, 7)).astype(np.uint16)
        dicom(name, pixels, **xray)
    paths = series(AXIAL, unlike(2), folder="in/ct", StudyInstanceUID="1.2.9")
    sop = pydicom.dcmread(paths[1]).SOPInstanceUID
    dicom("in/rival.dcm", unlike(3)[0], SOPInstanceUID=sop, StudyInstanceUID="1.2.9")
    fates, samples, _ = indexed(tmp_path)
    assert {
        name: fates[name] for name in ("a.dcm", "b.dcm", "c.dcm", "rival.dcm")
    } == dict.fromkeys(("a.dcm", "b.dcm", "c.dcm", "rival.dcm"), "uid_conflict")
    # The series has lost a slice to the conflict, and is not mended behind the user's back.
    assert sorted(fates[f"ct/{k:03d}.dcm"] for k in (1, 2, 3, 4)) == [
        *["spacing_gap"] * 3, "uid_conflict",
    ]  # fmt: skip
    assert samples.height == 0


def test_copies_of_a_file_count_once(tmp_path, dicom, series):
    pixels = np.random.default_rng(0).integers(0, 4000, (8, 7)).astype(np.uint16)
    for name in ("in/a.dcm", "in/b/copy.dcm"):
        dicom(name, pixels, **{**XRAY, "SOPInstanceUID": "1.2.3.4"})
    for folder in ("in/ct", "in/ct again"):
        marks = {k: {"SOPInstanceUID": f"1.2.8.{k}"} for k in range(4)}
        series(AXIAL, unlike(0), marks, folder, StudyInstanceUID="1.2.9", SeriesInstanceUID="1.9")
    fates, samples, records = indexed(tmp_path)
    assert fates == {
        "b/copy.dcm": "duplicate_file",
        **{f"ct again/{k:03d}.dcm": "duplicate_file" for k in (1, 2, 3, 4)},
    }
    assert sorted(samples["domain"]) == ["cxr", "volumetric"]
    assert [record["repeated"] for record in records] == [0]


@pytest.mark.parametrize("shared", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_two_patients_under_one_identifier_are_both_refused(tmp_path, dicom, shared):
    pixels = np.random.default_rng(0).integers(0, 4000, (8, 7)).astype(np.uint16)
    for k in (1, 2, 3):
        own = {
            "StudyInstanceUID": f"1.2.{k}",
            "SeriesInstanceUID": f"1.2.{k}.1",
            "SOPInstanceUID": f"1.2.{k}.1.1",
        }
        dicom(f"in/{k}.dcm", pixels + k, **{**XRAY, **own, "PatientID": f"PAT-{k}"})
        if k < 3:
            dicom(
                f"in/{k}.dcm", pixels + k, **{**XRAY, **own, shared: "9.9", "PatientID": f"PAT-{k}"}
            )
    fates, samples, _ = indexed(tmp_path)
    assert fates == {"1.dcm": "identity_conflict", "2.dcm": "identity_conflict"}
    assert samples.height == 1


def test_a_series_in_two_studies_is_refused(tmp_path, series):
    series(AXIAL, unlike(0), folder="in/a", StudyInstanceUID="1.2.3")
    series(AXIAL, unlike(1), folder="in/b", StudyInstanceUID="1.2.4")
    fates, samples, _ = indexed(tmp_path)
    assert {*fates.values()} == {"uid_conflict"}
    assert samples.height == 0


def test_a_series_is_mended_where_asked_and_read_the_same_way_again(tmp_path, series):
    heights = [0, 2, 4, 8, 10]
    volume = np.random.default_rng(0).integers(0, 2000, (5, 6, 5)).astype(np.int16)
    series([(0, 0, z) for z in heights], volume, folder="in/ct")
    fates, samples, (record,) = indexed(tmp_path)
    assert {*fates.values()} == {"spacing_gap"}
    assert record["verdict"] == "REJECT:spacing_gap"
    assert record["sample"] is None
    assert record["found"]["missing"] == [3]
    assert record["found"]["odd_gaps_mm"] == [4.0]
    shutil.rmtree(tmp_path / "manifest")
    fates, samples, (record,) = indexed(tmp_path, "options.missing=interpolate")
    assert fates == {}
    assert record["verdict"] == "accept"
    assert record["sample"] == samples["sample"][0]
    assert record["volume"]["filled"] == [3]
    assert samples["shape"].to_list() == [[6, 6, 5]]
    (row,) = samples.to_dicts()
    assert {"spacing_gap", "interpolated_slices"} <= {*row["flags"]}
    manifest = Manifest.open(tmp_path / "manifest")
    (item,) = sample_items([manifest], row["split"], (), domain="volumetric")
    again = read_volume(item.source_paths, item.flags)
    between = (volume[2].astype(float) + volume[3]) / 2 - 1024
    np.testing.assert_allclose(again.hu_DHW[3], between, atol=1e-3)
    with pytest.raises(Reject, match="spacing_gap"):
        read_volume(item.source_paths)


def test_both_volumes_of_one_enhanced_file_are_taken_in(tmp_path, enhanced):
    positions = [(0, 0, 2.0 * k) for k in range(3)] * 2
    content = [{"TemporalPositionIndex": 1 + k // 3} for k in range(6)]
    (tmp_path / "in").mkdir()
    enhanced(positions, content).rename(tmp_path / "in/enhanced.dcm")
    fates, samples, records = indexed(tmp_path)
    assert fates == {}
    assert len(records) == samples.height == 2
    assert samples["sha256"].n_unique() == 2
    manifest = Manifest.open(tmp_path / "manifest")
    first = set()
    for row in samples.to_dicts():
        volume = read_volume(manifest.paths(row["source"]), row["flags"])
        first.add(float(volume.hu_DHW[0, 0, 0]))
    assert first == {0 * 1 - 5, 3 * 4 - 5}


def test_a_body_part_that_is_not_the_expected_one_is_flagged(tmp_path, series):
    parts = {"1": "THORAX", "2": "HEAD", "3": ""}
    for k, part in parts.items():
        own = {"SeriesInstanceUID": f"1.2.{k}", "StudyInstanceUID": f"1.1.{k}"}
        series(AXIAL, unlike(int(k)), folder=f"in/{k}", BodyPartExamined=part, **own)
    _, samples, records = indexed(tmp_path, "options.body_part=chest")
    flagged = {record["body_part"]: "body_part_mismatch" in record["flags"] for record in records}
    assert flagged == {"THORAX": False, "HEAD": True, None: False}
    assert samples.height == 3


def test_values_that_are_no_hounsfield_units_are_taken_in_only_when_believed(tmp_path, series):
    window = np.random.default_rng(0).integers(0, 256, (4, 6, 5)).astype(np.int16)
    series(AXIAL, window, folder="in/ct", RescaleIntercept=0)
    fates, _, (record,) = indexed(tmp_path)
    assert {*fates.values()} == {"not_hu"}
    assert (record["verdict"], record["values"]["high"]) == ("REJECT:not_hu", float(window.max()))
    shutil.rmtree(tmp_path / "manifest")
    fates, samples, _ = indexed(tmp_path, "options.accept_not_hu=true")
    assert fates == {}
    assert "not_hu" in samples["flags"][0]


def test_quality_records_name_nobody(manifest):
    text = (manifest[0] / "qc.jsonl").read_text()
    records = [json.loads(line) for line in text.splitlines()]
    assert [record["verdict"] for record in records] == ["accept", "REJECT:spacing_gap"]
    for canary in ("Nightingale", "PAT-0042", "ACC", "1.2.77", "2020", "/", "dcm"):
        assert canary not in text
