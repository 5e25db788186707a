import gzip

import polars as pl
import pytest
from minisets import Indexed, captured, picture, write

from medvlp.archive.index import index_archive
from medvlp.archive.privacy.withdraw import withdraw
from medvlp.cxr.select import FIVE
from medvlp.data.manifest import Manifest
from medvlp.data.priors import priors
from medvlp.errors import ArchiveError

# dicom_id, subject, study, view, split
IMAGES = [
    ("aa-1", "10000032", "50414267", "PA", "train"),
    ("aa-2", "10000032", "50414267", "LATERAL", "train"),
    ("bb-1", "10000032", "53189527", "AP", "train"),
    ("cc-1", "10000764", "57375967", "LL", "validate"),
    ("dd-1", "11000935", "50578979", "AP", "test"),
    ("gone", "11000935", "50578979", "AP", "test"),
    ("ee-1", "11000999", "59999999", "PA", "test"),
]
TIMES = {"50414267": "213014.531", "53189527": "93015.5"}
REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with fever.

 FINDINGS:

 There is no pneumothorax.  Study 50414267 was compared.

 IMPRESSION:

 No acute process.
"""
LABELS = (
    "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Pleural Effusion,Fracture"
)


def gz(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))


def tables(root, images, labels):
    gz(
        root / "mimic-cxr-2.0.0-metadata.csv.gz",
        [
            "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,"
            "StudyDate,StudyTime"
        ]
        + [
            f'{d},{p},{s},"CHEST (PA, LAT)",{view},21800506,{TIMES.get(s, "")}'
            for d, p, s, view, _ in images
        ],
    )
    gz(
        root / "mimic-cxr-2.0.0-split.csv.gz",
        ["dicom_id,study_id,subject_id,split"] + [f"{d},{s},{p},{x}" for d, p, s, _, x in images],
    )
    gz(root / "mimic-cxr-2.0.0-chexpert.csv.gz", [LABELS, *labels])
    gz(root / "mimic-cxr-2.0.0-negbio.csv.gz", [LABELS, "10000032,50414267,0.0,,,,,"])


def place(root, subject, study):
    return root / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}"


def build(root):
    tables(
        root,
        IMAGES,
        [
            "10000032,50414267,1.0,0.0,-1.0,,,",
            "10000764,57375967,,,,,,1.0",
            "10000764,57375967,,,,,,0.0",
            "11000935,50578979,2,,,,,",
        ],
    )
    for seed, (name, subject, study, *_) in enumerate(IMAGES):
        folder = place(root, subject, study)
        if name == "dd-1":
            captured(folder / f"{name}.dcm", seed, Modality="DX", PatientAge="064Y")
            picture(folder / f"{name}.jpg", seed)
        elif name != "gone":
            picture(folder / f"{name}.jpg", seed)
    picture(place(root, "10000032", "50414267") / "stranger.jpg", 90)
    moved = place(root, "11000999", "59999999") / "ee-1.jpg"
    moved.rename(place(root, "10000764", "57375967") / "ee-1.jpg")
    (place(root, "10000032", "53189527") / "bb-1.jpg").write_bytes(b"\xff\xd8 cut")
    for subject, study in (("10000032", "50414267"), ("11000935", "50578979")):
        write(place(root, subject, study).with_suffix(".txt"), REPORT)
    write(place(root, "10000764", "57375967").with_suffix(".txt"), " \n")
    write(place(root, "11000999", "59999999").with_suffix(".txt"), REPORT)
    write(root / "index.html", "words")
    return root


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mimic")
    return Indexed(build(folder / "mimic"), "mimic-cxr", folder / "m")


def test_rows_images_and_reports_are_accounted_for(found):
    assert {image.rpartition("/")[2] for image in found.samples} == {
        "aa-1.jpg", "aa-2.jpg", "cc-1.jpg", "dd-1.dcm",
    }  # fmt: skip
    assert [code for stage, code in found.codes if stage == "join"] == [
        "duplicate_sample", "no_row", "report_without_study",
    ]  # fmt: skip
    assert [code for stage, code in found.codes if stage == "read"] == [
        "empty_report", "identity_conflict", "not_a_picture",
    ]  # fmt: skip
    assert [code for stage, code in found.codes if stage == "row"] == [
        "bad_labels",
        "duplicate_row",
    ]
    # The other labeller's table and the page.
    assert [code for stage, code in found.codes if stage == "ignored"] == ["not_of_the_set"] * 2
    assert found.notes == {
        "rows": 7, "rows_published": 377_110,
        "labelled_studies": 2, "labelled_studies_published": 227_827,
        "rows_without_image": 1,
    }  # fmt: skip


def sample(found, name):
    return next(row for image, row in found.samples.items() if image.endswith(name))


def test_labels_are_present_absent_uncertain_or_unknown(found):
    labels = found.manifest.labels.filter(pl.col("sample") == sample(found, "aa-1.jpg")["sample"])
    assert dict(labels.select("name", "value").rows()) == {
        "Atelectasis": 1, "Cardiomegaly": 0, "Consolidation": -1,
        "Edema": None, "Pleural Effusion": None, "Fracture": None,
    }  # fmt: skip
    assert set(labels["source"]) == {"chexpert"}
    assert found.manifest.labels.height == 3 * 6


def test_reports_are_divided_into_sections_here(found):
    first = sample(found, "aa-1.jpg")["sample"]
    texts = found.manifest.texts.filter(pl.col("sample") == first)
    sections = texts.filter(pl.col("level") == "section")["source"].to_list()
    assert {"indication", "findings", "impression"} <= set(sections)
    sentences = texts.filter(pl.col("level") == "sentence")["text"].to_list()
    assert "There is no pneumothorax." in sentences
    assert not any("50414267" in text for text in texts["text"])
    assert "no_text" in sample(found, "cc-1.jpg")["flags"]


def test_views_studies_and_the_official_split(found):
    one, two = sample(found, "aa-1.jpg"), sample(found, "aa-2.jpg")
    assert (one["view"], two["view"], sample(found, "cc-1.jpg")["view"]) == (
        "PA", "LATERAL", "LATERAL",
    )  # fmt: skip
    assert one["study"] == two["study"]
    assert one["acquired"] < "2180-05-06"
    splits = {name: sample(found, name)["split"] for name in ("aa-1.jpg", "cc-1.jpg", "dd-1.dcm")}
    assert splits == {"aa-1.jpg": "train", "cc-1.jpg": "valid", "dd-1.dcm": "test"}
    assert sample(found, "dd-1.dcm")["age_band"] == "60-69"


def test_studies_are_counted_by_day_and_time(tmp_path):
    root = build(tmp_path / "s")
    picture(place(root, "10000032", "53189527") / "bb-1.jpg", 91)
    found = Indexed(root, "mimic-cxr", tmp_path / "m")
    orders = {name: sample(found, name)["study_order"] for name in ("aa-1.jpg", "bb-1.jpg")}
    # Half past nine in the evening and in the morning of one day.
    assert orders == {"aa-1.jpg": 2, "bb-1.jpg": 1}
    later, earlier = sample(found, "aa-1.jpg")["sample"], sample(found, "bb-1.jpg")["sample"]
    assert priors(found.manifest) == {later: earlier}


def test_the_other_labeller(tmp_path):
    found = Indexed(build(tmp_path / "s"), "mimic-cxr", tmp_path / "m", "options.labeller=negbio")
    assert found.manifest.labels.drop_nulls()["source"].to_list() == ["negbio"] * 2


def test_of_a_patient_who_has_withdrawn_no_report_is_listed(tmp_path):
    root = build(tmp_path / "s")
    Indexed(root, "mimic-cxr", tmp_path / "m")
    withdraw(tmp_path / "m", ["mimic-cxr:10000032"])
    index_archive(
        root, kind="mimic-cxr", out=tmp_path / "m", replace=True,
        overrides=("workers=1", "duplicates=exact"),
    )  # fmt: skip
    manifest = Manifest.open(tmp_path / "m")
    assert manifest.samples.height == 2
    paths = [str(manifest.paths(source)[0]) for source in manifest.samples["source"]]
    paths += pl.read_parquet(manifest.private / "sources.parquet")["path"].to_list()
    assert not [path for path in paths if path.endswith("s50414267.txt")]


def test_the_selection_and_the_rest_share_no_patient(tmp_path):
    root = tmp_path / "s"
    images, labels = [], []
    for i in range(16):
        # Two studies a patient; every finding alone in three studies, the last one in both.
        subject, study = f"100000{i // 2:02d}", f"500000{i:02d}"
        images.append((f"d{i}", subject, study, "PA", "train"))
        cells = ["1.0" if name == FIVE[i % 5] else "" for name in FIVE]
        labels.append(",".join([subject, study, *cells, "1.0"]))
        picture(place(root, subject, study) / f"d{i}.jpg", i)
        write(place(root, subject, study).with_suffix(".txt"), REPORT)
    tables(root, images, labels)
    each = ("options.selection_each=1", "options.selection_seed=3")
    only = Indexed(root, "mimic-cxr", tmp_path / "only", "options.selection=only", *each)
    assert only.notes["selected_studies"] == len(only.samples) == 5
    assert set(only.manifest.samples["split"]) == {"test"}
    assert sorted(
        name for name in FIVE if sum(v == 1 for v in only.labels(name).values()) == 1
    ) == (sorted(FIVE))
    rest = Indexed(root, "mimic-cxr", tmp_path / "rest", "options.selection=without", *each)
    digests = {made.manifest.info["remarks"]["selection"] for made in (only, rest)}
    assert len(digests) == 1
    subjects = {image.split("/")[2] for image in only.samples}
    assert {image.split("/")[2] for image in rest.samples} == (
        {f"p{subject}" for _, subject, *_ in images} - subjects
    )
    assert {code for _, code in rest.codes} == {"not_selected", "not_of_the_set"}
    with pytest.raises(ArchiveError, match="200 studies a finding"):
        Indexed(root, "mimic-cxr", tmp_path / "n", "options.selection=only")
