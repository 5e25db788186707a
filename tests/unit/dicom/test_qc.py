"""The record of a series, the check of its body part, and what a domain makes of its air."""

import json

import numpy as np
import pytest

from medvlp.archive.series.bodypart import Facts, body_part_flags
from medvlp.archive.series.hounsfield import count_hu
from medvlp.archive.series.policy import Policy
from medvlp.archive.series.qc import examine_series
from medvlp.archive.verdict import Reject
from medvlp_volumetric.check import check_volume
from medvlp_volumetric.read import read_ct

AXIAL = [(0, 0, 2.0 * k) for k in range(5)]


def test_a_record_is_json_and_tells_what_was_found_and_done(series):
    tilted = ["1", "0", "0", "0", "0.98", "-0.198997487"]
    positions = [p for k, p in enumerate(AXIAL) if k != 2]
    paths = series(positions, ImageOrientationPatient=tilted, BodyPartExamined="CHEST")
    (refused,) = examine_series(paths)
    assert refused.layout is None
    assert (refused.qc["verdict"], refused.qc["volume"]) == ("REJECT:spacing_gap", None)
    (mended,) = examine_series(paths, Policy(missing="interpolate", tilt="resample"))
    record = json.loads(json.dumps(mended.qc, allow_nan=False))
    assert record["verdict"] == "accept"
    assert record["body_part"] == "CHEST"
    assert record["policy"] == {"missing": "interpolate", "tilt": "resample"}
    assert record["found"] == {
        "clashes": 0, "constant": False, "tilt_deg": 11.48, "off_line_mm": 0.0,
        "spacing": "missing", "gap_mm": 1.96, "gaps_mm": [1.96, 3.92], "odd_gaps_mm": [3.92],
        "odd_after": [1], "missing": [2], "missing_mm": 1.96, "single_views": False,
    }  # fmt: skip
    assert record["volume"]["filled"] == [2]
    assert record["volume"]["axes"] == "LPS"
    assert record["volume"]["shape"] == [5, 6 + 4, 5]
    assert np.allclose(record["volume"]["affine"], mended.layout.affine, atol=1e-6)


def test_a_body_part_in_free_words_stays_out_of_the_record(series):
    (finding,) = examine_series(series(AXIAL, BodyPartExamined="MRS NIGHTINGALE"))
    assert finding.qc["body_part"] is None
    assert "NIGHTINGALE" not in json.dumps(finding.qc)


def test_a_series_is_read_as_ct_only_where_indexing_believes_its_values(series):
    """Air that was scaled twice lies where padding does, which reading sets to air."""
    rng = np.random.default_rng(0)
    hu = rng.choice([-1000, -100, 45, 500], size=(5, 40, 40), p=[0.5, 0.1, 0.35, 0.05])
    for name, stored, code in (
        ("sound", hu + 1024, ""),
        ("twice", hu, "double_rescale"),
        ("picture", np.clip(hu // 8 + 125, 0, 255) + 1024, "not_hu"),
    ):
        paths = series(AXIAL, stored.astype(np.int16), folder=name, RescaleIntercept=-1024)
        (finding,) = examine_series(paths)
        assert finding.qc["verdict"] == (f"REJECT:{code}" if code else "accept")
        for flags in ((), ("no_text",), ("part_1",)):
            if code:
                with pytest.raises(Reject, match=code):
                    read_ct(paths, flags)
            else:
                assert np.array_equal(read_ct(paths, flags).hu_DHW, hu)
        if code:
            read_ct(paths, (code,))


def test_refused_kinds_have_records_too(series, dicom):
    scout = series(AXIAL[:2], folder="scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    nowhere = dicom("nowhere.dcm", ImagePositionPatient=None, ImageOrientationPatient=None)
    verdicts = {f.qc["verdict"]: f.qc["found"] for f in examine_series([*scout, nowhere])}
    assert verdicts == {"IGNORE:localizer": None, "REJECT:no_geometry": None}


@pytest.mark.parametrize(("units", "code"), [("HU", ""), ("US", ""), ("", ""), ("Z_EFF", "not_hu")])
def test_maps_that_only_look_like_ct_are_told_by_their_units(series, units, code):
    (finding,) = examine_series(series(AXIAL, RescaleType=units))
    assert (finding.verdict.code if finding.verdict else "") == code


@pytest.mark.parametrize(
    ("expected", "stated", "flagged"),
    [
        ("CHEST", "CHEST", False), ("chest", "Thorax", False), ("CHEST", "CHEST_ABDOMEN", False),
        ("CHEST", "HEAD", True), ("CHEST", "", False), ("", "HEAD", False),
        ("HEAD", "SKULL", False),
        ("NECK", "HEADNECK", False),
    ],
)  # fmt: skip
def test_a_stated_body_part_is_compared_by_what_it_includes(expected, stated, flagged):
    assert bool(body_part_flags(expected, stated)) is flagged


def facts(part, lung, shape=(100, 64, 64)):
    rng = np.random.default_rng(0)
    air, body = rng.normal(-1000, 10, 3000), rng.normal(40, 15, 2000)
    values = np.concatenate([air, body, rng.normal(-830, 30, lung)])
    return Facts(shape=shape, spacing_mm=(2, 2, 2), counts=count_hu(values), body_part=part)


def test_a_chest_has_lungs_and_a_head_or_an_abdomen_next_to_none():
    assert check_volume(facts("CHEST", 1500)) == ()
    assert check_volume(facts("CHEST", 0)) == ("no_lung_air",)
    assert check_volume(facts("HEAD", 0)) == ()
    assert check_volume(facts("HEAD", 1500)) == ("lung_in_head",)
    assert check_volume(facts("ABDOMEN", 600)) == ()
    assert check_volume(facts("ABDOMEN", 1500)) == ("lung_in_abdomen",)
    assert check_volume(facts("CHESTABDOMEN", 1500)) == ()
    assert check_volume(facts("", 0, (10, 64, 64))) == ("small_extent",)
