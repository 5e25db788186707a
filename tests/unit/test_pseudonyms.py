import datetime as dt
import hashlib
import hmac
import math

import pytest

from medvlp.archive.pseudonyms import Pseudonyms, age_band, new_key, parse_date, read_key
from medvlp.archive.scrub import scrub
from medvlp.errors import ArchiveError

KEY = bytes(range(32))
NAMES = Pseudonyms(KEY)


def test_a_pseudonym_is_the_keyed_mac():
    mac = hmac.new(KEY, b"medvlp study\x1f1.2.3", hashlib.sha256).hexdigest()
    assert NAMES.study("1.2.3") == "s" + mac[:24]


def test_kinds_keys_and_issuers_are_apart():
    made = [
        NAMES.patient("7"),
        NAMES.study("7"),
        NAMES.series("7"),
        NAMES.sample("7"),
        NAMES.source("7"),
        Pseudonyms(new_key()).patient("7"),
        Pseudonyms(KEY, issuer="north").patient("7"),
    ]
    assert len({name[1:] for name in made}) == len(made)
    assert [name[0] for name in made[:5]] == ["p", "s", "e", "x", "f"]


def test_blanks_around_a_number_do_not_matter():
    assert NAMES.patient(" 0042 ") == NAMES.patient("0042")
    assert NAMES.patient("42") != NAMES.patient("0042")


def test_collisions_stay_below_one_in_a_billion():
    bits = 4 * len(NAMES.sample("1")[1:])
    instances = 1e8
    assert instances**2 / 2 / 2**bits < 1e-9
    assert math.isfinite(bits)


def test_dates_move_back_by_the_patients_own_shift():
    first, second = NAMES.date("a", "20200229"), NAMES.date("a", "2020-03-10")
    days = dt.date.fromisoformat(second) - dt.date.fromisoformat(first)
    assert days.days == 10
    shifts = {
        (dt.date(2020, 3, 10) - dt.date.fromisoformat(NAMES.date(str(i), "20200310"))).days
        for i in range(300)
    }
    assert min(shifts) >= 1
    assert max(shifts) <= 3650
    assert len(shifts) > 250


@pytest.mark.parametrize("value", [None, "", "unknown", "20201399", "0001-01-01"])
def test_what_is_no_date_gives_none(value):
    assert NAMES.date("a", value) is None


def test_a_time_behind_the_date_is_dropped():
    assert parse_date("20200102T1530") == parse_date("2020-01-02 15:30") == dt.date(2020, 1, 2)
    assert parse_date(dt.datetime(2020, 1, 2, 3)) == dt.date(2020, 1, 2)


@pytest.mark.parametrize(
    ("age", "band"),
    [
        ("045Y", "40-49"), ("006M", "0-9"), (0, "0-9"), ("39.9", "30-39"), (40, "40-49"),
        (89, "80-89"), (90, "90+"), ("104Y", "90+"), ("", None), ("old", None), (None, None),
        (400, None), (-1, None),
    ],
)  # fmt: skip
def test_age_bands(age, band):
    assert age_band(age) == band


def test_key_files(tmp_path):
    file = tmp_path / "key"
    file.write_text(KEY.hex() + "\n")
    assert read_key(file) == KEY
    for bad in ("zz", KEY.hex()[:-2], ""):
        file.write_text(bad)
        with pytest.raises(ArchiveError):
            read_key(file)
    with pytest.raises(ArchiveError):
        read_key(tmp_path / "none")


def test_the_key_id_is_public_and_tells_keys_apart():
    assert NAMES.key_id == Pseudonyms(KEY).key_id != Pseudonyms(new_key()).key_id
    assert NAMES.key_id not in KEY.hex()


def test_scrub_takes_whole_words_in_any_case():
    text = "MRS. Meier-Long (ACC.7) has a long mass, meier."
    assert scrub(text, ["meier", "ACC.7", "Li"]) == "MRS. ___-Long (___) has a long mass, ___."
    assert scrub("a 1.2.3.4 b", ["1.2.3"]) == "a ___.4 b"
    assert scrub("unchanged", []) == "unchanged"
