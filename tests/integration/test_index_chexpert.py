import polars as pl
import pytest
from minisets import Indexed, picture, write

from medvlp.archive.index import index_archive
from medvlp.cxr.sets.chexpert_places import FINDINGS
from medvlp.data.priors import priors
from medvlp.errors import ArchiveError

HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,"
    "Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,"
    "Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
UNSURE = ",,-1.0,1.0,,-1.0,0.0,,,,,,,"
TRAIN = [
    # path, sex, age, side, AP/PA, labels
    ("patient00001/study1/view1_frontal.jpg", "Female,68,Frontal,AP", "1.0" + "," * 13),
    ("patient00002/study2/view1_frontal.jpg", "Female,87,Frontal,AP", UNSURE),
    ("patient00002/study1/view1_frontal.jpg", "Female,83,Frontal,PA", ",,0.0" + "," * 11),
    ("patient00002/study1/view2_lateral.jpg", "Female,83,Lateral,", ",,0.0" + "," * 11),
    ("patient00003/study1/view1_frontal.jpg", "Male,41,Frontal,", "," * 13),
    # Said twice, of no image, with an unknown label, without a path, and cut off.
    ("patient00001/study1/view1_frontal.jpg", "Female,68,Frontal,AP", "0.0" + "," * 13),
    ("patient00004/study1/view1_frontal.jpg", "Male,20,Frontal,AP", "," * 13),
    ("patient00005/study1/view1_frontal.jpg", "Male,21,Frontal,AP", "2" + "," * 13),
    ("somewhere.jpg", "Male,21,Frontal,AP", "," * 13),
    ("patient00006/study1/view1_frontal.jpg", "Unknown,0,Frontal,LL", "," * 13),
]  # fmt: skip
READ = "0.0,0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0"


def build(root, prefix="CheXpert-v1.0", folder="CheXpert-v1.0"):
    """`prefix` stands in the tables, `folder` on the disk."""
    train = [f"{prefix}/train/{path},{told},{labels}" for path, told, labels in TRAIN]
    write(root / folder / "train.csv", "\n".join([HEADER, *train, f"{prefix}/train/cut"]) + "\n")
    valid = f"{prefix}/valid/patient64541/study1/view1_frontal.jpg,Male,73,Frontal,AP,{READ}"
    write(root / folder / "valid.csv", f"{HEADER}\n{valid}\n")
    names = [f"train/{path}" for path, *_ in TRAIN[:5]]
    names += ["valid/patient64541/study1/view1_frontal.jpg"]
    for seed, name in enumerate(names):
        picture(root / folder / name, seed)
    broken = root / folder / "train/patient00006/study1/view1_frontal.jpg"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"\xff\xd8\xff cut")
    picture(root / folder / "train/patient00007/study1/view1_frontal.jpg", 90)
    write(root / folder / "README.md", "words")
    return root


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chexpert")
    return Indexed(build(folder / "s"), "chexpert", folder / "m")


def short(found):
    """Samples by the ends of their paths."""
    return {"/".join(name.split("/")[-3:]): row for name, row in found.samples.items()}


def test_rows_and_images_are_accounted_for(found):
    assert len(found.samples) == 6
    assert found.codes == [
        ("ignored", "not_of_the_set"),
        ("join", "no_row"),
        ("read", "truncated_pixels"),
        ("row", "bad_labels"),
        ("row", "duplicate_row"),
        ("row", "no_path"),
        ("row", "ragged_row"),
    ]
    assert found.notes == {
        "rows_train": 7, "rows_train_published": 223_414,
        "rows_valid": 1, "rows_valid_published": 234,
        "rows_without_image": 1,
    }  # fmt: skip


def test_labels_are_present_absent_uncertain_or_unknown(found):
    sample = short(found)["patient00002/study2/view1_frontal.jpg"]["sample"]
    labels = found.manifest.labels.filter(pl.col("sample") == sample)
    told = dict(labels.select("name", "value").rows())
    assert tuple(told) == FINDINGS
    assert {name: value for name, value in told.items() if value is not None} == {
        "Cardiomegaly": -1, "Lung Opacity": 1, "Edema": -1, "Consolidation": 0,
    }  # fmt: skip
    sources = dict(found.manifest.labels.select("sample", "source").rows())
    by_part = {row["split"]: sources[row["sample"]] for row in found.samples.values()}
    assert by_part == {"train": "chexpert", "valid": "radiologists"}


def test_valid_is_what_it_is_called_and_there_is_no_test(found):
    rows = short(found)
    assert rows["patient64541/study1/view1_frontal.jpg"]["split"] == "valid"
    assert {row["split"] for row in rows.values()} == {"train", "valid"}
    assert {row["source_split"] for row in rows.values()} == {"train", "valid"}


def test_views_people_and_studies(found):
    rows = short(found)
    views = {name: row["view"] for name, row in rows.items()}
    assert views == {
        "patient00001/study1/view1_frontal.jpg": "AP",
        "patient00002/study2/view1_frontal.jpg": "AP",
        "patient00002/study1/view1_frontal.jpg": "PA",
        "patient00002/study1/view2_lateral.jpg": "LATERAL",
        "patient00003/study1/view1_frontal.jpg": "FRONTAL",
        "patient64541/study1/view1_frontal.jpg": "AP",
    }
    first = rows["patient00002/study1/view1_frontal.jpg"]
    side = rows["patient00002/study1/view2_lateral.jpg"]
    later = rows["patient00002/study2/view1_frontal.jpg"]
    assert first["study"] == side["study"] != later["study"]
    assert first["patient"] == later["patient"]
    assert (first["sex"], first["age_band"], later["age_band"]) == ("F", "80-89", "80-89")
    # There are no dates; the studies' numbers are all that there is.
    assert (first["study_order"], later["study_order"], later["acquired"]) == (1, 2, None)
    assert priors(found.manifest) == {later["sample"]: first["sample"]}
    assert priors(found.manifest, counted=False) == {}


@pytest.mark.parametrize(
    ("prefix", "folder"),
    [
        ("CheXpert-v1.0-small", "CheXpert-v1.0-small"),
        ("CheXpert-v1.0", "CheXpert-v1.0-small"),
        ("CheXpert-v1.0", "CheXpert-v1.0 batch 2 (train 1)"),
    ],
)
def test_the_folders_before_the_patient_do_not_matter(tmp_path, prefix, folder):
    made = Indexed(build(tmp_path / "s", prefix, folder), "chexpert", tmp_path / "m")
    assert len(made.samples) == 6


def test_the_test_part_has_labels_alone(tmp_path):
    root = build(tmp_path / "s")
    header = "Path," + ",".join(FINDINGS)
    study = "test/patient64741/study1"
    images = [f"{study}/view1_frontal.jpg", f"{study}/view2_lateral.jpg"]
    rows = [f"{image},{READ}" for image in images]
    write(root / "test_labels.csv", "\n".join([header, *rows]))
    for seed, image in enumerate(images):
        picture(root / image, 50 + seed)
    rows = short(Indexed(root, "chexpert", tmp_path / "m"))
    told = {name: (row["split"], row["view"], row["sex"]) for name, row in rows.items()}
    assert told["patient64741/study1/view1_frontal.jpg"] == ("test", "FRONTAL", None)
    assert told["patient64741/study1/view2_lateral.jpg"] == ("test", "LATERAL", None)
    assert told["patient64541/study1/view1_frontal.jpg"][0] == "valid"


def test_the_other_labeller_has_a_table_of_its_own(tmp_path):
    root = build(tmp_path / "s")
    folder = root / "CheXpert-v1.0"
    text = (folder / "train.csv").read_text()
    write(folder / "train_cheXbert.csv", text.replace("1.0" + "," * 13, "0.0" + "," * 13))
    made = Indexed(root, "chexpert", tmp_path / "m", "options.labeller=chexbert")
    first = "CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg"
    assert made.labels("No Finding")[first] == 0
    assert set(made.manifest.labels["source"]) == {"chexbert", "radiologists"}


@pytest.mark.parametrize("fault", ["headerless", "twice", "none"])
def test_a_table_that_is_not_as_published_is_refused(tmp_path, fault):
    root = build(tmp_path / "s")
    table = root / "CheXpert-v1.0/valid.csv"
    if fault == "headerless":
        write(table, table.read_text().partition("\n")[2])
    elif fault == "twice":
        write(root / "val_labels.csv", table.read_text())
    else:
        table.unlink()
        (root / "CheXpert-v1.0/train.csv").unlink()
    words = {"headerless": "several columns called", "twice": "two tables", "none": "no table"}
    with pytest.raises(ArchiveError, match=words[fault]):
        index_archive(root, kind="chexpert", out=tmp_path / "m")
