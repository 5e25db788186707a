import csv
import json

import polars as pl
import pytest
from minisets import Indexed, captured, picture, write

from medvlp.archive.index import index_archive
from medvlp.cxr.sets.chexpert_places import FINDINGS
from medvlp.data.manifest import Manifest
from medvlp.data.priors import priors
from medvlp.errors import ArchiveError

HEADER = [
    "path_to_image",
    "path_to_dcm",
    "frontal_lateral",
    "ap_pa",
    "deid_patient_id",
    "patient_report_date_order",
    "report",
    "section_narrative",
    "section_clinical_history",
    "section_history",
    "section_comparison",
    "section_technique",
    "section_procedure_comments",
    "section_findings",
    "section_impression",
    "section_end_of_impression",
    "section_summary",
    "section_accession_number",
    "age",
    "sex",
    "race",
    "ethnicity",
    "interpreter_needed",
    "insurance_type",
    "recent_bmi",
    "deceased",
    "split",
]
REPORT = """NARRATIVE:
CHEST TWO VIEWS

CLINICAL HISTORY: Cough.

IMPRESSION:

1. Small right effusion.
2. No pneumothorax.

END OF IMPRESSION:

SUMMARY: 4-POSSIBLE SIGNIFICANT FINDINGS

ACCESSION NUMBER: 6789012"""
CLEAR = "FINDINGS: Clear."
PARTS = {
    "report": REPORT,
    "section_clinical_history": "Cough.",
    "section_impression": "1. Small right effusion.\n2. No pneumothorax.",
    "section_summary": "4-POSSIBLE SIGNIFICANT FINDINGS",
}


def row(place, split="train", **more):
    patient, _, view = place.split("/")
    told = {
        "path_to_image": f"{split}/{place}.jpg",
        "path_to_dcm": f"{split}/{place}.dcm",
        "frontal_lateral": "Lateral" if "lateral" in view else "Frontal",
        "ap_pa": "" if "lateral" in view else "AP",
        "deid_patient_id": patient, "patient_report_date_order": "1",
        "age": "64.0", "sex": "Male", "race": "White", "split": split,
    }  # fmt: skip
    return told | more


ROWS = [
    row("patient00001/study1/view1_frontal", **PARTS),
    row("patient00001/study1/view2_lateral", **PARTS),
    row("patient00001/study2/view1_frontal", patient_report_date_order="7.0", report=CLEAR),
    # Reports that pandas wrote as NaN, or as nothing.
    row("patient00002/study1/view1_frontal", report="nan", section_findings="NaN", race="Unknown"),
    row("patient00003/study1/view1_frontal", sex="Female", race="Asian"),
    row("patient00004/study1/view1_frontal", section_findings="Normal heart.", report=""),
    # Said twice, nowhere, and of an image that is not there.
    row("patient00001/study1/view1_frontal", **PARTS),
    row("patient00005/study1/view1_frontal", path_to_image="", path_to_dcm=""),
    row("patient00006/study1/view1_frontal", **PARTS),
    row("patient64541/study1/view1_frontal", "valid", **PARTS, deid_patient_id="patient9"),
    row("patient00008/study1/view1_frontal", **PARTS),
]  # fmt: skip


def build(root, rows=ROWS):
    root.mkdir(parents=True)
    with (root / "df_chexpert_plus_240401.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, HEADER, restval="")
        table.writeheader()
        table.writerows(rows)
    for seed, told in enumerate(ROWS[:6]):
        picture(root / "PNG" / told["path_to_image"].replace(".jpg", ".png"), seed)
    captured(root / "valid/patient64541/study1/view1_frontal.dcm", 40, PatientAge="064Y")
    picture(root / "PNG/valid/patient64541/study1/view1_frontal.png", 41)
    picture(root / "PNG/train/patient00007/study1/view1_frontal.png", 42)
    broken = root / "PNG/train/patient00008/study1/view1_frontal.png"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"")
    lines = [
        {"path_to_image": ROWS[0]["path_to_image"], "Edema": 1.0, "Fracture": -1, "Mass": None},
        {"path_to_image": ROWS[0]["path_to_image"], "Edema": 0.0},
        {"path_to_image": ROWS[2]["path_to_image"], "Edema": 2},
        {"path_to_image": ROWS[8]["path_to_image"], "Edema": 0},
    ]  # fmt: skip
    words = "\n".join([*map(json.dumps, lines), "{cut"])
    write(root / "chexbert_labels/impression_fixed.json", words)
    write(root / "chexbert_labels/report_fixed.json", words)
    return root


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plus")
    return Indexed(build(folder / "s"), "chexpert-plus", folder / "m")


def short(found):
    return {
        name.rpartition("/patient")[2].rpartition(".")[0]: r for name, r in found.samples.items()
    }


def test_rows_images_and_labels_are_accounted_for(found):
    assert len(found.samples) == 7
    assert found.codes == [
        # The labels of the other part of the reports.
        ("ignored", "not_of_the_set"),
        ("join", "duplicate_sample"),
        ("join", "no_row"),
        ("read", "empty"),
        ("row", "bad_labels"),
        ("row", "duplicate_row"),
        ("row", "duplicate_row"),
        ("row", "empty_report"),
        ("row", "empty_report"),
        ("row", "no_path"),
        ("row", "no_path"),
    ]
    assert found.notes == {
        "rows_train": 8, "rows_train_published": 223_228,
        "rows_valid": 1, "rows_valid_published": 234,
        "rows_without_image": 1, "labels_without_image": 1,
        "patients_named_otherwise_than_by_path": 1,
    }  # fmt: skip


def texts(found, place, level="section"):
    sample = short(found)[place]["sample"]
    rows = found.manifest.texts.filter((pl.col("sample") == sample) & (pl.col("level") == level))
    return rows.sort("order").select("source", "text").rows()


def test_reports_are_made_of_the_parts_that_the_set_ships(found):
    expected = [
        ("indication", "Cough."),
        ("impression", "1. Small right effusion. 2. No pneumothorax."),
    ]
    for view in ("view1_frontal", "view2_lateral"):
        assert texts(found, f"00001/study1/{view}") == expected
    assert texts(found, "00001/study2/view1_frontal") == [("findings", "Clear.")]
    assert texts(found, "00004/study1/view1_frontal") == [("findings", "Normal heart.")]
    for place in ("00002/study1/view1_frontal", "00003/study1/view1_frontal"):
        assert texts(found, place) == []
        assert "no_text" in short(found)[place]["flags"]


def test_or_the_whole_report_is_divided_here(tmp_path):
    made = Indexed(build(tmp_path / "s"), "chexpert-plus", tmp_path / "m", "options.text=report")
    (whole,) = texts(made, "00001/study1/view1_frontal", "report")
    assert "POSSIBLE SIGNIFICANT FINDINGS" in whole[1]
    assert texts(made, "00004/study1/view1_frontal") == [("findings", "Normal heart.")]


def test_labels_people_and_studies(found):
    labels = found.manifest.labels
    told = labels.filter(pl.col("value").is_not_null()).select("name", "value", "source").rows()
    assert sorted(told) == [
        ("Edema", 1.0, "chexbert:impression"),
        ("Fracture", -1.0, "chexbert:impression"),
    ]
    assert labels.height == len(FINDINGS)
    rows = short(found)
    one, side, later = (
        rows[f"00001/{end}"]
        for end in ("study1/view1_frontal", "study1/view2_lateral", "study2/view1_frontal")
    )
    assert (one["view"], side["view"], one["study"]) == ("AP", "LATERAL", side["study"])
    assert (one["study_order"], later["study_order"]) == (1, 7)
    assert priors(found.manifest) == {later["sample"]: one["sample"]}
    assert (one["sex"], one["age_band"]) == ("M", "60-69")
    valid = rows["64541/study1/view1_frontal"]
    assert (valid["kind"], valid["split"]) == ("dicom", "valid")


def test_race_is_kept_where_it_is_asked_for(tmp_path):
    made = Indexed(build(tmp_path / "s"), "chexpert-plus", tmp_path / "m", "options.race=true")
    white = {name.partition("patient")[2][:5]: v for name, v in made.labels("race: white").items()}
    assert white == {"00001": 1, "00003": 0, "00004": 1, "64541": 1}
    assert "race: unknown" not in set(made.manifest.labels["name"])


def test_patients_are_those_of_chexpert(found, tmp_path):
    root = tmp_path / "chexpert"
    header = "Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join(FINDINGS)
    path = "CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg"
    write(root / "train.csv", f"{header}\n{path},Male,64,Frontal,AP{',' * 14}\n")
    picture(root / path, 3)
    key = found.manifest.private / "key"
    index_archive(root, kind="chexpert", out=tmp_path / "m", key=key)
    other = Manifest.open(tmp_path / "m").samples.to_dicts()[0]
    own = short(found)["00001/study1/view1_frontal"]
    assert (other["patient"], other["study"]) == (own["patient"], own["study"])


def test_a_table_without_its_columns_is_refused(tmp_path):
    root = build(tmp_path / "s")
    write(root / "df_chexpert_plus_240401.csv", "a,b\n1,2\n")
    with pytest.raises(ArchiveError, match="no column path_to_image"):
        index_archive(root, kind="chexpert-plus", out=tmp_path / "m")
