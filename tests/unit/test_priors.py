import itertools

import polars as pl
import pytest

from medvlp.data.manifest import write_manifest
from medvlp.data.priors import priors
from medvlp.data.views import SIDES, view_word


def manifest(folder, rows):
    """Rows (sample, patient, study, view, date, order)."""
    names = ("sample", "patient", "study", "view", "acquired", "study_order")
    samples = [
        dict(zip(names, row, strict=True)) | {"domain": "cxr", "split": "train", "source": row[0]}
        for row in rows
    ]
    info = {"key_id": "k", "counts": {}}
    return write_manifest(folder / "m", {"samples": samples}, [], info, key=b"k" * 32)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("PA", "PA"), ("ap", "AP"), ("AP_horizontal", "AP"), ("LL", "LATERAL"), ("Lat", "LATERAL"),
        ("XTABLE LATERAL", "LATERAL"), ("AP LLD", "AP"), ("RLD", "DECUBITUS"), ("LAO", "OBLIQUE"),
        ("Frontal", "FRONTAL"), ("SWIMMERS", ""), ("", ""), (None, ""), ("PALATE", ""),
    ],
)  # fmt: skip
def test_one_vocabulary_of_views(text, word):
    assert view_word(text) == word
    assert view_word(word) == word


def test_the_latest_earlier_study_of_the_same_side(tmp_path):
    rows = [
        ("a1", "p", "s1", "PA", "2101-01-01", None),
        ("a2", "p", "s1", "LATERAL", "2101-01-01", None),
        ("b1", "p", "s2", "AP", "2101-02-01", None),
        ("c1", "p", "s3", "PA", "2101-03-01", None),
        ("c2", "p", "s3", "LATERAL", "2101-03-01", None),
        ("c3", "p", "s3", "OBLIQUE", "2101-03-01", None),
        ("c4", "p", "s3", None, "2101-03-01", None),
        ("q1", "q", "s9", "PA", "2101-02-15", None),
    ]
    # b1 is nearer than a1, though c1 and a1 are both PA; a lateral passes over a study without one.
    assert priors(manifest(tmp_path, rows)) == {"b1": "a1", "c1": "b1", "c2": "a2"}


def test_within_the_earlier_study_the_same_word_is_preferred(tmp_path):
    rows = [
        ("a1", "p", "s1", "AP", "2101-01-01", None),
        ("a2", "p", "s1", "PA", "2101-01-01", None),
        ("a3", "p", "s1", "PA", "2101-01-01", None),
        ("b1", "p", "s2", "PA", "2101-02-01", None),
        ("b2", "p", "s2", "FRONTAL", "2101-02-01", None),
    ]
    assert priors(manifest(tmp_path, rows)) == {"b1": "a2", "b2": "a1"}


def test_studies_of_one_day_are_ordered_by_the_count_alone(tmp_path):
    rows = [
        ("a", "p", "s1", "PA", "2101-01-01", 2),
        ("b", "p", "s2", "PA", "2101-01-01", 1),
        ("c", "q", "s3", "PA", "2101-01-01", None),
        ("d", "q", "s4", "PA", "2101-01-01", None),
        ("e", "q", "s5", "PA", "2101-01-02", None),
    ]
    made = manifest(tmp_path, rows)
    assert priors(made) == {"a": "b", "e": "c"}
    assert priors(made, counted=False) == {"e": "c"}


def test_without_dates_the_count_tells_and_both_are_not_mixed(tmp_path):
    rows = [
        ("a", "p", "s1", "PA", None, 1),
        ("b", "p", "s2", "PA", None, 7),
        ("c", "p", "s3", "PA", "2101-01-01", 9),
        ("d", "p", "s4", "PA", None, None),
        # A study whose images say different dates takes the earliest.
        ("e", "q", "s5", "PA", "2101-05-01", None),
        ("f", "q", "s5", "LATERAL", None, None),
        ("g", "q", "s6", "LATERAL", "2101-06-01", None),
    ]
    made = manifest(tmp_path, rows)
    assert priors(made) == {"b": "a", "g": "f"}
    assert priors(made, counted=False) == {"g": "f"}


def test_a_prior_is_never_of_another_patient_side_or_a_later_day(tmp_path):
    days = ["2101-01-01", "2101-01-02", "2101-01-03", None]
    rows = [
        (f"{p}{day}{view}{i}", p, f"{p}{i}", view, day, None)
        for i, (p, day, view) in enumerate(itertools.product("pqr", days, ("PA", "LATERAL")))
    ]
    made = manifest(tmp_path, rows)
    of = {row["sample"]: row for row in made.samples.to_dicts()}
    found = priors(made)
    for sample, prior in found.items():
        one, other = of[sample], of[prior]
        assert one["patient"] == other["patient"]
        assert SIDES[one["view"]] == SIDES[other["view"]]
        assert other["acquired"] < one["acquired"]
        nearer = made.samples.filter(
            (pl.col("patient") == one["patient"])
            & (pl.col("view") == one["view"])
            & (pl.col("acquired") > other["acquired"])
            & (pl.col("acquired") < one["acquired"])
        )
        assert nearer.is_empty()
    assert len(found) == 3 * 2 * 2
