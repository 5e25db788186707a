import pytest

from medvlp.archive.intake import Intake
from medvlp.archive.options import IndexConfig
from medvlp.archive.privacy.pseudonyms import Pseudonyms
from medvlp.archive.verdict import Reject
from medvlp.data.manifest import Manifest, write_manifest

KEY = bytes(range(32))


@pytest.fixture
def archive(tmp_path):
    root = tmp_path / "archive"
    root.mkdir()
    for name in "abcde":
        (root / f"{name}.bin").write_bytes(name.encode() * 10)
    (root / ".DS_Store").write_bytes(b"junk")
    return root


def intake_for(root, **config):
    return Intake(root, IndexConfig(**config), Pseudonyms(KEY), "cxr")


def test_every_file_ends_in_exactly_one_state(archive):
    intake = intake_for(archive)
    a, b, c, d, _ = intake.files()
    sample = intake.accept([a], kind="image", patient="1")
    intake.cover([b])
    with intake.judge([c], "read"):
        raise Reject("truncated_pixels", "expected 5 bytes")
    intake.ignore(d, "not_dicom")
    _, _, info, summary = intake.finish()
    assert info["counts"] == {"found": 6, "accepted": 2, "quarantined": 2, "ignored": 2}
    assert summary.by_code == {
        ("ignored", "hidden_junk"): 1,
        ("ignored", "not_dicom"): 1,
        ("read", "truncated_pixels"): 1,
        ("walk", "unclaimed"): 1,
    }
    assert sample.startswith("x")


def test_a_settled_file_cannot_change_its_state(archive):
    intake = intake_for(archive)
    path = next(intake.files())
    intake.ignore(path, "not_dicom")
    with pytest.raises(ValueError, match="ignored cannot become accepted"):
        intake.cover([path])


def test_duplicate_sample_is_rejected(archive):
    intake = intake_for(archive)
    a, b, *_ = intake.files()
    intake.accept([a], kind="image", patient="1", identity="same")
    with intake.judge([b], "read"):
        intake.accept([b], kind="image", patient="1", identity="same")
    tables, *_ = intake.finish()
    assert [r["code"] for r in tables["rejects"] if r["stage"] == "read"] == ["duplicate_sample"]


def test_no_identifier_reaches_the_manifest(tmp_path):
    root = tmp_path / "archive"
    folder = root / "MUELLER_ERIKA_19470302"
    folder.mkdir(parents=True)
    (folder / "MRN4711007.dcm").write_bytes(b"x")
    (folder / "MUELLER_bad.dcm").write_bytes(b"y")
    intake = intake_for(root)
    good, bad = sorted(intake.files())
    sample = intake.accept(
        [good],
        kind="dicom",
        patient="MRN4711007",
        study="1.2.840.99.7",
        series="1.2.840.99.8",
        identity="1.2.840.99.9",
        acquired="20210317",
        age="074Y",
        sex="F",
        identifiers=("Mueller", "Erika", "ACC-55021"),
    )
    intake.report(sample, "FINDINGS: Mrs. MUELLER, Erika (mrn4711007, ACC-55021): clear lungs.")
    intake.node(sample, level="clip", text="erika again", source="asr:x")
    intake.reject(bad, "read", "no_pixels")
    tables, sources, info, _ = intake.finish()
    out = tmp_path / "manifest"
    write_manifest(out, tables, sources, {**info, "key_id": intake.pseudonyms.key_id}, key=KEY)
    plain = b"".join(p.read_bytes() for p in sorted(out.iterdir())).lower()
    frames = Manifest.open(out)
    plain += (
        str([getattr(frames, t).rows() for t in ("samples", "texts", "rejects")]).lower().encode()
    )
    for word in (
        "mueller",
        "erika",
        "4711007",
        "1.2.840",
        "acc-55021",
        "2021-03",
        "20210317",
        "194703",
    ):
        assert word.encode() not in plain
    assert any("clear lungs" in text for text in frames.texts["text"])
    assert frames.samples["age_band"].to_list() == ["70-79"]
    assert frames.paths(frames.samples["source"][0]) == (good,)


def test_textless_sample_is_flagged(archive):
    intake = intake_for(archive)
    a, b, *_ = intake.files()
    with_text = intake.accept([a], kind="image", patient="1")
    without = intake.accept([b], kind="image", patient="2")
    intake.report(with_text, "Clear lungs.")
    intake.report(without, "   ")
    tables, _, _, summary = intake.finish()
    flags = {row["sample"]: row["flags"] for row in tables["samples"]}
    assert (flags[with_text], flags[without]) == ([], ["no_text"])
    assert summary.textless == 1
