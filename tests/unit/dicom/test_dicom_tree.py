import stat

import numpy as np
import polars as pl
import pytest

from medvlp.archive.index import index_archive
from medvlp.archive.series import read_series

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
