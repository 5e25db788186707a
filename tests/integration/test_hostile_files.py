"""Hostile files come in through the public doors: nothing runs, nothing leaves its folder."""

from __future__ import annotations

import pickle  # noqa: TID251 - to see that the payload would work
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from catalogue.case import Verdicts
from hostile import all_cases
from hostile.archive import TAKEN, names_secret, write_archive, write_reports
from hostile.case import LARGEST, SECRET, Hostile, Place, Watch, growth
from hostile.formats import pickled
from transformers import BertConfig, BertModel

import medvlp
from medvlp.archive.index import index_archive
from medvlp.data.manifest import Manifest
from medvlp.errors import MedvlpError
from medvlp.models.text import TextTowerConfig

CASES = all_cases()
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("medvlp", "volumetric/medvlp_volumetric", "video/medvlp_video")


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertModel(BertConfig(vocab_size=50, intermediate_size=32, **sizes))
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def place(tmp_path: Path, tiny_bundle: Callable[[str], Path], encoder: Path) -> Place:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret.txt").write_text(SECRET)
    return Place(inside, outside, tiny_bundle("cxr"), encoder)


def test_there_are_enough_and_their_names_differ() -> None:
    assert len(CASES) >= 40
    assert [name for name, n in Counter(case.name for case in CASES).items() if n > 1] == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_file_gets_nothing(case: Hostile, place: Place, watch: Watch) -> None:
    path = case.write(place)
    before = _files(place.outside)
    error: MedvlpError | None = None
    with growth() as grown, watch.over(place) as seen:
        try:
            case.open(path)
        except MedvlpError as raised:
            error = raised
    assert seen == []
    assert _files(place.outside) == before
    assert grown() < LARGEST
    assert type(error) is (case.refused or type(None))
    if error is not None:
        assert error.remedy
        assert "\n" not in str(error)
        assert SECRET not in str(error)


def _files(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_watch_sees_what_a_payload_does(place: Place, watch: Watch) -> None:
    with watch.over(place) as seen:
        pickle.loads(pickled(place.command))
        place.secret.read_text()
        exec(compile("1", str(place.inside / "evil.py"), "exec"))
    events = [word.split()[0] for word in seen]
    assert events == ["pickle.find_class", "os.system", "open", "exec"]
    assert (place.outside / "canary").exists()


def test_the_folders_can_be_read_before_they_are_made_hostile(place: Place) -> None:
    medvlp.load(place.bundle)
    TextTowerConfig(pretrained=str(place.encoder)).build(50, 0)


def test_an_archive_of_hostile_files_gets_nothing(place: Place, watch: Watch) -> None:
    paths = write_archive(place)
    before = _files(place.outside)
    out = place.inside / "out"
    with watch.over(place) as seen:
        index_archive(place.inside / "in", kind="dicom", out=out, overrides=["workers=1"])
    # The walk looks where a link leads, and leaves it.
    assert {event.split()[0] for event in seen} <= {"os.scandir", "os.listdir"}
    assert _files(place.outside) == before
    assert names_secret(out) == []
    verdicts = Verdicts(out)
    taken = {name for name, path in paths.items() if verdicts.of(path).startswith("ACCEPT")}
    assert taken == TAKEN


def test_reports_with_entities_get_nothing(place: Place, watch: Watch) -> None:
    write_reports(place)
    before = _files(place.outside)
    out = place.inside / "out"
    with watch.over(place) as seen:
        summary = index_archive(
            place.inside / "in", kind="open-i", out=out, overrides=["workers=1"]
        )
    assert seen == []
    assert _files(place.outside) == before
    assert summary.quarantined >= 3
    assert SECRET not in str(Manifest.open(out).texts.rows())


@pytest.mark.parametrize(
    "pattern",
    [
        r"\bimport\s+(pickle|marshal|shelve|dill|joblib)\b|\bfrom\s+(pickle|marshal|shelve|dill)\b",
        r"weights_only\s*=\s*False|safe_globals\((?!\[\(_Ignored, )",
        r"trust_remote_code\s*=\s*True|allow_pickle\s*=\s*True",
        r"yaml\.(unsafe_load|full_load|Loader|UnsafeLoader|FullLoader)",
        r"(?<![\w.])(eval|exec|__import__)\(|shell\s*=\s*True|os\.(system|popen)\(",
        r"extractall\(|unpack_archive\(|blosc2\.open\(|\.set_auto_load",
    ],
)
def test_the_packages_hold_no_door_for_code(pattern: str) -> None:
    sources = [path for top in PACKAGES for path in (ROOT / top).rglob("*.py")]
    assert len(sources) > 150
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(pattern, line.partition("#")[0])
    ]
    assert found == []


def test_checkpoints_of_torch_are_read_in_one_place_as_tensors_alone() -> None:
    calls = [
        (path.name, line.strip())
        for top in PACKAGES
        for path in (ROOT / top).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "torch.load(" in line
    ]
    assert [name for name, _ in calls] == ["checkpoint.py"]
    assert "weights_only=True" in calls[0][1]


def test_yaml_is_read_in_one_place() -> None:
    calls = [
        path.name
        for top in PACKAGES
        for path in (ROOT / top).rglob("*.py")
        if re.search(r"yaml\.\w*(load|Loader)", path.read_text(encoding="utf-8"))
    ]
    assert calls == ["plain_files.py"]
