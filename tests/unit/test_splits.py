import hashlib

import numpy as np
import polars as pl
import pytest

from medvlp.data.splits import (
    DRAWS,
    Fractions,
    assign_splits,
    split_of,
    subsets,
    uniform,
)
from medvlp.digest import digest_plain
from medvlp.errors import ConfigError

HALF = Fractions(train=0.5, valid=0.25, test=0.25)


def rows(patients, source_split=None):
    return [
        {"sample": f"x{i}", "patient": p, "source_split": source_split, "split": "train"}
        for i, p in enumerate(patients)
    ]


SAMPLES = {name: pl.String() for name in ("sample", "patient", "source_split", "split")}
LABELS = {"sample": pl.String(), "name": pl.String(), "value": pl.Float64()}


def assign(samples, policy, fractions):
    """The assignment, and its splits as a dictionary."""
    found = assign_splits(pl.DataFrame(samples, schema=SAMPLES), policy, fractions)
    return found, dict(found.split.iter_rows())


def subset_rows(samples, labels):
    return list(subsets(pl.DataFrame(samples, schema=SAMPLES), pl.DataFrame(labels, schema=LABELS)))


def test_a_hand_computed_place():
    # sha256("medvlp split|p1"), first 53 bits.
    word = int(hashlib.sha256(b"medvlp split|p1").hexdigest()[:16], 16)
    assert uniform("p1") == (word >> 11) / 2**53


def test_fractions_are_met():
    names = [split_of(f"p{i}", HALF) for i in range(20_000)]
    shares = [names.count(s) / len(names) for s in ("train", "valid", "test")]
    # Three standard errors of a share of 20,000.
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.25], atol=3 * 0.0036)


def test_splits_do_not_move_when_the_archive_grows():
    _, few = assign(rows([f"p{i}" for i in range(50)]), "hash", HALF)
    _, many = assign(rows([f"p{i}" for i in range(500)]), "hash", HALF)
    assert few.items() <= many.items()


def test_a_larger_test_share_only_adds_patients():
    patients = [f"p{i}" for i in range(500)]
    small = {p for p in patients if split_of(p, Fractions(train=0.8, valid=0, test=0.2)) == "test"}
    large = {p for p in patients if split_of(p, Fractions(train=0.5, valid=0, test=0.5)) == "test"}
    assert small < large


@pytest.mark.parametrize("bad", [{"train": 0.5}, {"train": 1.5, "valid": -0.5, "test": 0}])
def test_fractions_must_add_up(bad):
    with pytest.raises(ValueError, match="add up to 1"):
        Fractions(**bad)


def test_the_official_split_is_kept_under_any_spelling():
    samples = rows(["a"], "Training") + rows(["b"], "val") + rows(["c"], "TEST")
    found, split = assign(samples, "source", HALF)
    assert split == {"a": "train", "b": "valid", "c": "test"}
    assert (found.policy, found.conflicts) == ("source", 0)


def test_train_val_is_divided_and_never_test():
    patients = [f"p{i}" for i in range(300)]
    _, found = assign(rows(patients, "train_val") + rows(["t"], "test"), "source", HALF)
    names = [found[p] for p in patients]
    assert set(names) == {"train", "valid"}
    assert 0.23 < names.count("valid") / 300 < 0.44  # 0.25 / 0.75
    assert found["t"] == "test"


def test_a_patient_on_two_official_sides_sends_everybody_to_the_hash():
    samples = rows(["a"], "train") + rows(["a"], "test") + rows(["b"], "test")
    found, split = assign(samples, "source", HALF)
    assert (found.policy, found.conflicts) == ("hash", 1)
    assert split == {p: split_of(p, HALF) for p in ("a", "b")}


def test_patients_without_official_split_are_hashed():
    _, split = assign(rows(["a"], "test") + rows(["b"]), "source", HALF)
    assert split == {"a": "test", "b": split_of("b", HALF)}


def test_unknown_split_names_are_refused_unless_hashed():
    samples = rows(["a", "b"], "fold 3")
    with pytest.raises(ConfigError, match="2 samples carry a split that is none of train"):
        assign(samples, "source", HALF)
    assert assign(samples, "hash", HALF)[0].policy == "hash"


def members(table, subset):
    return {row["sample"] for row in table if row["subset"] == subset}


def test_shares_are_nested_by_patient_and_never_empty():
    samples = rows([f"p{i // 3}" for i in range(90)])
    table = subset_rows(samples, [])
    sets = [members(table, s) for s in ("1%", "5%", "10%", "100%")]
    assert [len(s) for s in sets] == [3, 6, 9, 90]  # 1, 2, 3 and 30 patients
    assert sets[0] < sets[1] < sets[2] < sets[3]
    # By the patients' places alone: another share in between would move nobody.
    places = sorted({row["patient"] for row in samples}, key=lambda p: uniform(p, "subset"))
    assert {row["patient"] for row in samples if row["sample"] in sets[2]} == set(places[:3])


def test_shots_are_nested_balanced_and_of_different_patients():
    samples = rows([f"p{i // 2}" for i in range(100)])
    labels = [{"sample": f"x{i}", "name": "Mass", "value": float(i // 2 % 2)} for i in range(100)]
    table = subset_rows(samples, labels)
    patient = {row["sample"]: row["patient"] for row in samples}
    value = {row["sample"]: row["value"] for row in labels}
    draws = []
    for draw in range(DRAWS):
        sets = [members(table, f"Mass/{k}-shot/{draw}") for k in (1, 4, 16)]
        assert sets[0] < sets[1] < sets[2]
        assert [len(s) for s in sets] == [2, 8, 32]
        assert len({patient[s] for s in sets[2]}) == 32
        assert sum(value[s] for s in sets[2]) == 16
        draws.append(frozenset(sets[2]))
    assert len(set(draws)) == DRAWS


def test_shots_only_where_there_are_enough():
    samples = rows([f"p{i}" for i in range(20)])
    labels = [{"sample": f"x{i}", "name": "Mass", "value": float(i < 5)} for i in range(20)]
    names = {row["subset"] for row in subset_rows(samples, labels)}
    assert "Mass/4-shot/0" in names
    assert "Mass/16-shot/0" not in names


def test_only_training_samples_are_in_subsets():
    samples = rows(["a", "b"])
    samples[1]["split"] = "test"
    labels = [{"sample": s, "name": "Mass", "value": 1.0} for s in ("x0", "x1")]
    assert {row["sample"] for row in subset_rows(samples, labels)} == {"x0"}


def hashed(text):
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("words", "policy", "drawn", "placed"),
    [
        (
            [None],
            "hash",
            "4bddf5aab2147e59886bc2c96bbfd36b5a408a33342703e9fd33109173cb900a",
            "548e66a6116fe49068a502bee569b01a5c27c7c54d61564d9810ce0df4d4224a",
        ),
        (
            ["train", "Test", "VAL", None],
            "source",
            "e7a3c00adb4bf2fa46b025270294cc5d3e6cae7d2888f81abbc1666703d41685",
            "af2fe83d8586f9a678f23d653df9ade57f7bde349f2815a3c14a5859d94a89cf",
        ),
    ],
)
def test_splits_and_subsets_stay_what_they_always_were(words, policy, drawn, placed):
    # The digests were computed row by row, before tables took the place of rows and before there
    # was the subset of 5 %.
    samples = []
    for i in range(400):
        patient = "p" + hashed(f"p{i * 7 % 113}")[:24]
        word = words[int(patient[1:9], 16) % len(words)]
        samples.append(
            {"sample": "x" + hashed(f"s{i}")[:24], "patient": patient, "source_split": word}
        )
    labels = {}
    for i in range(400):
        sample = samples[i * 3 % 400]["sample"]
        labels[sample, "Mass"] = float(i % 3 == 0)
        labels[sample, "Node"] = (1.0, 0.0, -1.0, None)[i % 4]
        labels[sample, "Rare"] = 1.0 if i % 97 == 0 else None
    found, split = assign(samples, "source", Fractions())
    assert (found.policy, digest_plain(split)) == (policy, placed)
    for row in samples:
        row["split"] = split[row["patient"]]
    told = [{"sample": s, "name": n, "value": v} for (s, n), v in labels.items()]
    table = subset_rows(samples, told)
    rows = [[row["subset"], row["sample"]] for row in table if row["subset"] != "5%"]
    assert digest_plain(rows) == drawn
