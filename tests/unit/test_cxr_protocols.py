"""All shipped protocols: each loads, says what it is, and asks for what it says."""

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from medvlp.cxr.select import FIVE
from medvlp.cxr.sets.covidx import COVID
from medvlp.cxr.sets.nih import FINDINGS
from medvlp.cxr.sets.object_cxr import FOREIGN
from medvlp.cxr.sets.rsna import PNEUMONIA
from medvlp.cxr.sets.siim import PNEUMOTHORAX
from medvlp.cxr.sets.tbx11k_tables import TUBERCULOSIS
from medvlp.cxr.sets.vindr import CLASSES
from medvlp.data.prompts import load_prompts
from medvlp.digest import digest_bytes
from medvlp.errors import ConfigError
from medvlp.evaluate.protocol import load_protocol

FOLDER = Path(__file__).parents[2] / "configs" / "evaluate"
PROMPTS = sorted((FOLDER / "prompts").glob("*.yaml"))
PATHS = sorted(set(FOLDER.rglob("*.yaml")) - set(PROMPTS))
TASKS = {path: yaml.safe_load(path.read_text())["task"] for path in PATHS}
CXR = sorted((FOLDER / "cxr").glob("*.yaml"))
ZERO_SHOT = [
    path
    for path, task in TASKS.items()
    if task["kind"] == "zero-shot" and path.parent.name in ("cxr", "ct")
]

DENIAL = re.compile(
    r"\b(no|not|non|nothing|never|without|absen(t|ce)|negative|free of|normal|unremarkable|intact"
    r"|healthy|sharp)\b",
    re.IGNORECASE,
)
"""Words that deny a finding in these prompts."""

NAMES_AN_ABSENCE = {"No finding"}
"""Labels that are themselves the absence of something."""

SET_LABELS = {
    "nih": FINDINGS, "vindr": CLASSES, "rsna": (PNEUMONIA,), "siim": (PNEUMOTHORAX,),
    "covidx": (COVID,),
}  # fmt: skip

RULES = {
    "chexzero": "chexzero", "biovil": "biovil", "gloria": "gloria", "medclip": "medclip",
    "cxr-clip": "cxr-clip", "medklip": "label-head", "ct-clip": "medvlp",
}  # fmt: skip
"""End of a protocol's name -> the rule of that system."""


def by_name(path):
    return path.stem


@pytest.mark.parametrize("path", PATHS, ids=by_name)
def test_every_shipped_protocol_loads_under_its_own_name(path):
    protocol = load_protocol(path)
    assert protocol.name == path.stem
    assert protocol.version >= 1
    assert protocol.task.headlines
    assert load_protocol(path).digest == protocol.digest
    assert path.read_text().startswith("# ")


def test_no_two_shipped_protocols_share_a_name_or_a_digest():
    loaded = [load_protocol(path) for path in PATHS]
    for values in ([p.name for p in loaded], [p.digest for p in loaded]):
        assert [value for value, count in Counter(values).items() if count > 1] == []


@pytest.mark.parametrize("path", PROMPTS, ids=by_name)
def test_no_prompt_says_the_opposite_of_its_side(path):
    prompts = load_prompts(path)
    if prompts.mode == "independent":
        for name, words in prompts.labels.items():
            absence = name in NAMES_AN_ABSENCE
            assert not [text for text in words.positive if denies(text) != absence]
            assert not [text for text in words.negative if denies(text) == absence]
    for words in prompts.labels.values():
        assert all(text.strip() for text in (*words.positive, *words.negative))
        assert not set(words.positive) & set(words.negative)


def denies(text):
    """Whether a text denies something; two denials affirm it."""
    return len(DENIAL.findall(text)) % 2 == 1


def test_the_polarity_check_finds_a_swapped_pair():
    assert denies("There is no edema.")
    assert denies("Heart size is normal.")
    assert not denies("There is abnormal edema.")
    assert not denies("no No finding")


def test_every_prompt_file_is_asked_by_some_protocol():
    used = {
        (path.parent / task["prompts"]).resolve()
        for path, task in TASKS.items()
        if "prompts" in task
    }
    assert set(PROMPTS) - used == set()


@pytest.mark.parametrize(
    ("path", "size"),
    [("cxr/nih-chexzero", 14), ("cxr/nih-biovil", 14), ("cxr/nih-medklip", 14),
     ("cxr/vindr-chexzero", 28), ("cxr/vindr-biovil", 28), ("cxr/vindr-14-chexzero", 14),
     ("cxr/vindr-18-cxr-clip", 18), ("cxr/mimic-5x200-gloria", 5), ("cxr/mimic-five-gloria", 5),
     ("cxr/rsna-biovil", 1), ("cxr/siim-cxr-clip", 1), ("cxr/covidx-chexzero", 1),
     ("ct/ct-rate-18", 18), ("ct/ct-rate-18-ct-clip", 18), ("ct/ct-rate-16", 16),
     ("ct/ct-rate-16-ct-clip", 16)],
)  # fmt: skip
def test_label_sets_have_the_published_sizes(path, size):
    task = load_protocol(FOLDER / f"{path}.yaml").task
    assert len(task.labels or task.prompts.names) == size


@pytest.mark.parametrize("path", ZERO_SHOT, ids=by_name)
def test_labels_are_those_that_the_reader_gives(path):
    task = load_protocol(path).task
    asked = task.labels or task.prompts.names
    data = path.stem.split("-")[0]
    if data in SET_LABELS:
        assert set(asked) <= set(SET_LABELS[data])
        if task.labels is None:
            assert set(asked) == set(SET_LABELS[data])
    if data == "mimic":
        assert set(asked) == set(FIVE)
        assert task.prompts.mode == "exclusive"


@pytest.mark.parametrize("path", ZERO_SHOT, ids=by_name)
def test_a_protocol_of_a_published_system_has_the_rule_of_that_system(path):
    task = load_protocol(path).task
    systems = [name for name in RULES if path.stem.endswith(f"-{name}")]
    assert task.rule == (RULES[systems[0]] if systems else "medvlp")


def test_every_published_system_is_there_on_its_sets():
    names = {path.stem for path in CXR}
    assert {
        "nih-chexzero", "vindr-chexzero", "vindr-14-chexzero", "rsna-biovil", "rsna-gloria",
        "mimic-5x200-gloria", "nih-medklip", "rsna-medklip", "siim-medklip", "vindr-18-cxr-clip",
        "rsna-cxr-clip", "siim-cxr-clip", "mimic-5x200-cxr-clip",
    } <= names  # fmt: skip


@pytest.mark.parametrize(
    ("file", "template"),
    [("cxr-nih-names", "no {}"), ("cxr-vindr-names", "no {}"), ("cxr-rsna-names", "no {}"),
     ("cxr-siim-names", "no {}"), ("cxr-covidx-names", "no {}"), ("cxr-vindr-bare", "No {}"),
     ("cxr-siim-bare", "No {}")],
)  # fmt: skip
def test_bare_templates_are_the_name_with_and_without_no(file, template):
    for name, words in load_prompts(FOLDER / "prompts" / f"{file}.yaml").labels.items():
        said = name.replace("_", " ")
        assert words.positive == (said,)
        assert words.negative == (template.format(said),)


def test_ct_clip_asks_whether_a_label_is_present():
    prompts = load_prompts(FOLDER / "prompts" / "ct-rate-present.yaml")
    own = load_prompts(FOLDER / "prompts" / "ct-rate.yaml")
    assert prompts.names == own.names
    for name, words in prompts.labels.items():
        assert words.positive == (f"{name} is present.",)
        assert words.negative == (f"{name} is not present.",)


def test_sixteen_labels_are_the_eighteen_without_two():
    many, few = (load_protocol(FOLDER / "ct" / f"ct-rate-{n}.yaml").task for n in (18, 16))
    assert set(many.prompts.names) - set(few.labels) == {"Medical material", "Lymphadenopathy"}


@pytest.mark.parametrize("name", ["ct-rate-retrieval", "ct-table-retrieval"])
def test_volumes_ask_alone_and_share_reports(name):
    task = load_protocol(FOLDER / "ct" / f"{name}.yaml").task
    assert task.unit == "image"
    assert task.k == (5, 10, 50, 100)
    assert set(task.directions) == {"image-to-text", "text-to-image"}


@pytest.mark.parametrize(
    "path",
    [path for path, task in TASKS.items() if "published" in task],
    ids=by_name,
)
def test_published_prompts_stand_for_the_labels_and_another_file_is_refused(path, tmp_path):
    task = load_protocol(path).task
    assert set(task.published.labels) == set(task.prompts.names)
    assert re.search(r"github\.com/\S+ at [0-9a-f]{40}$", task.published.source)
    (tmp_path / "theirs.txt").write_text("something else\n")
    with pytest.raises(ConfigError, match="SHA-256 differs"):
        load_protocol(path, [f"task.published.path={tmp_path / 'theirs.txt'}"])


def test_the_phases_of_cholec80_are_asked_with_the_users_copy(tmp_path):
    values = yaml.safe_load((FOLDER / "video" / "cholec80-surgvlp-32.yaml").read_text())
    lines = [f"sentence {i}" for i in range(7)]
    (tmp_path / "theirs.txt").write_text("\n".join(lines))
    values["task"]["prompts"] = {
        "mode": "exclusive",
        "labels": {name: {"positive": ["own"]} for name in values["task"]["published"]["labels"]},
    }
    values["task"]["published"]["sha256"] = digest_bytes("\n".join(lines).encode())
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(values))
    own = load_protocol(tmp_path / "p.yaml")
    theirs = load_protocol(tmp_path / "p.yaml", ["task.published.path=theirs.txt"])
    assert theirs.task.prompts.labels["phase:Preparation"].positive == ("sentence 0",)
    assert theirs.task.prompts.labels["phase:GallbladderRetraction"].positive == ("sentence 6",)
    assert theirs.digest != own.digest
    assert theirs.task.published.path is None


def test_every_protocol_stands_in_the_table_of_protocols():
    page = (FOLDER.parents[1] / "docs" / "protocols.md").read_text()
    told = set(re.findall(r"`([a-z0-9._-]+)`", page))
    assert {path.stem for path in PATHS} - told == set()


@pytest.mark.parametrize("path", ZERO_SHOT, ids=by_name)
def test_the_table_of_protocols_tells_rule_and_number_of_labels(path):
    page = (FOLDER.parents[1] / "docs" / "protocols.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith(f"| `{path.stem}` |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    task = load_protocol(path).task
    assert cells[3].split(",")[0] == str(len(task.labels or task.prompts.names))
    if path.parent.name == "cxr":
        assert cells[2] == task.rule


@pytest.mark.parametrize(
    ("data", "labels"),
    [("nih", 14), ("vindr", 14), ("covidx", 1), ("siim", 1), ("rsna", 1)],
)
def test_benchx_classification_is_linear_and_full_at_every_fraction(data, labels):
    for name, kind in (("linear", "probe"), ("finetune", "finetune")):
        path = FOLDER / "cxr" / f"benchx-{data}-{name}.yaml"
        digests = set()
        for subset in ("1%", "10%", "100%"):
            protocol = load_protocol(path, [f"task.subset={subset}"])
            assert (protocol.task.kind, protocol.task.seeds) == (kind, 3)
            assert len(protocol.task.labels) == labels
            assert set(protocol.task.labels) <= set(SET_LABELS[data])
            digests.add(protocol.digest)
        assert len(digests) == 3


@pytest.mark.parametrize(
    ("data", "structure"),
    [("object-cxr", FOREIGN), ("rsna", PNEUMONIA), ("siim", PNEUMOTHORAX),
     ("tbx11k", TUBERCULOSIS)],
)  # fmt: skip
def test_benchx_segmentation_is_of_the_readers_regions(data, structure):
    task = load_protocol(FOLDER / "cxr" / f"benchx-{data}-segmentation.yaml").task
    assert task.structures == (structure,)
    assert (task.head, task.encoder) == ("upernet", "frozen")


def test_benchx_has_its_nine_sets_and_four_tasks():
    names = [path.stem for path in CXR if path.stem.startswith("benchx-")]
    tasks = [name.removeprefix("benchx-").rsplit("-", 1) for name in names]
    assert {task for _, task in tasks} == {
        "linear", "finetune", "segmentation", "generation", "retrieval",
    }  # fmt: skip
    assert {data for data, _ in tasks} == {
        "nih", "vindr", "covidx", "siim", "rsna", "object-cxr", "tbx11k", "iu-xray",
        "mimic-5x200",
    }  # fmt: skip
