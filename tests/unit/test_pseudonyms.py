import datetime as dt
import hashlib
import hmac
import math

import pytest

from medvlp.archive.privacy.pseudonyms import Pseudonyms, age_band, parse_date
from medvlp.archive.privacy.scrub import scrub
from medvlp.data.keys import new_key, read_key, write_key
from medvlp.errors import ArchiveError

KEY = bytes(range(32))
NAMES = Pseudonyms(KEY)


def test_a_pseudonym_is_the_keyed_mac():
    sub = hmac.new(KEY, b'["medvlp", "name", "", "study"]', hashlib.sha256).digest()
    mac = hmac.new(sub, b"1.2.3", hashlib.sha256).hexdigest()
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
        Pseudonyms(KEY, project="other").patient("7"),
        Pseudonyms(KEY + new_key()).patient("7"),
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


def test_projects_share_no_pseudonym_no_date_shift_and_no_key_id():
    one, two = (Pseudonyms(KEY, project=name) for name in ("lung", "knee"))
    numbers = [str(n) for n in range(1000)]
    assert not {one.patient(n) for n in numbers} & {two.patient(n) for n in numbers}
    same = sum(one.date(n, "20200310") == two.date(n, "20200310") for n in numbers)
    assert same < 5
    assert one.key_id != two.key_id


def test_a_rotated_key_renames_names_and_needs_the_newest_link():
    old, new = Pseudonyms(KEY), Pseudonyms(KEY + bytes(32))
    for kind, raw in (("patient", "7"), ("study", "1.2"), ("sample", "1.3"), ("source", "/a")):
        assert new.renamed(getattr(old, kind)(raw)) == getattr(new, kind)(raw)
    assert new.root("7") == old.root("7") == old.patient("7")
    other = Pseudonyms(KEY + bytes([1]) * 32)
    assert other.patient("7") != new.patient("7")


def test_tombstones_outlast_rotations():
    third = Pseudonyms(KEY + bytes(32) + bytes([1]) * 32)
    second = Pseudonyms(KEY + bytes(32))
    for made_by in (NAMES, second, third):
        stone = made_by.tombstone(made_by.patient("7"))
        for later in {NAMES: (second, third), second: (third,), third: ()}[made_by]:
            stone = later.tombstone(stone)
        assert any(stone in third.tombstones(name) for name in third.lineage("7"))
        assert not any(stone in third.tombstones(name) for name in third.lineage("8"))


def test_guessing_record_numbers_finds_all_without_a_key_and_none_with():
    numbers = [f"{n:07d}" for n in range(0, 10**7, 997)]
    secret = Pseudonyms(new_key())
    unkeyed = {hashlib.sha256(n.encode()).hexdigest()[:24] for n in numbers}
    guesses = [hashlib.sha256(n.encode()).hexdigest()[:24] for n in numbers]
    assert sum(g in unkeyed for g in guesses) == len(numbers)
    keyed = {secret.patient(n)[1:] for n in numbers}
    mistaken = Pseudonyms(new_key())
    assert not keyed & {*guesses, *(mistaken.patient(n)[1:] for n in numbers)}


def test_key_files(tmp_path):
    file = tmp_path / "key"
    write_key(file, KEY)
    assert read_key(file) == KEY
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        write_key(file, KEY)
    file.write_text((KEY * 2).hex() + "\n")
    assert read_key(file) == KEY * 2
    for bad in ("zz", KEY.hex()[:-2], "", KEY.hex() + " "):
        file.write_text(bad)
        with pytest.raises(ArchiveError):
            read_key(file)
    with pytest.raises(ArchiveError):
        read_key(tmp_path / "none")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_may_read_is_refused(tmp_path, mode):
    file = tmp_path / "key"
    write_key(file, KEY)
    file.chmod(mode)
    with pytest.raises(ArchiveError, match="others") as caught:
        read_key(file)
    assert "chmod 600" in caught.value.remedy


def test_the_key_id_is_public_and_tells_keys_apart():
    assert NAMES.key_id == Pseudonyms(KEY).key_id != Pseudonyms(new_key()).key_id
    assert NAMES.key_id not in KEY.hex()


def test_scrub_takes_whole_words_in_any_case():
    text = "MRS. Meier-Long (ACC.7) has a long mass, meier."
    found = scrub(text, ["meier", "ACC.7", "Li"], patterns=False)
    assert found.text == "MRS. ___-Long (___) has a long mass, ___."
    assert found.counts == {"name": 2, "number": 1}
    assert scrub("a 1.2.3.4 b", ["1.2.3"], patterns=False).text == "a ___.4 b"
    assert scrub("unchanged", []).text == "unchanged"
