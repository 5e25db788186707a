import numpy as np
import pytest

from medvlp.cxr.select import FIVE, select_exclusive
from medvlp.errors import ArchiveError


def labels(count, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.choice([1, 0, -1, None], size=(count, len(FIVE)), p=[0.25, 0.3, 0.05, 0.4])
    return {f"s{i}": dict(zip(FIVE, row, strict=True)) for i, row in enumerate(values)}


def test_two_hundred_of_each_with_one_finding_alone():
    told = labels(8000)
    chosen = select_exclusive(told).study
    assert len(chosen) == 1000
    for study, finding in chosen.items():
        assert told[study][finding] == 1
        assert all(told[study][other] in (0, None) for other in FIVE if other != finding)
    counts = [list(chosen.values()).count(finding) for finding in FIVE]
    assert counts == [200] * 5


def test_the_choice_follows_from_seed_and_labels_alone():
    told = labels(8000)
    first = select_exclusive(told)
    shuffled = dict(sorted(told.items(), key=lambda item: hash(item[0])))
    again = select_exclusive(shuffled)
    assert (first.study, first.digest) == (again.study, again.digest)
    assert select_exclusive(told, seed=1).digest != first.digest
    # Studies that could not be chosen change nothing.
    assert select_exclusive({**told, "x": dict.fromkeys(FIVE, 1)}).digest == first.digest


def test_too_few_studies_are_refused_by_finding():
    told = {f"s{i}": {"Edema": 1} for i in range(3)}
    with pytest.raises(
        ArchiveError, match=r"Atelectasis 0, .*Edema 3, Pleural Effusion 0"
    ) as caught:
        select_exclusive(told)
    assert "ask for fewer" in str(caught.value.remedy)
    found = select_exclusive(told, each=3, findings=("Edema",))
    assert sorted(found.study) == ["s0", "s1", "s2"]
