import csv

import numpy as np
import polars as pl
import pytest
from minisets import Indexed, write
from PIL import Image

from medvlp.archive.index import index_archive
from medvlp.archive.tables.listed import listed_words
from medvlp.archive.verdict import Reject
from medvlp.cxr.read import read_xray
from medvlp.data.priors import priors
from medvlp.errors import ArchiveError

# As published: the first column has no name.
HEADER = [
    "", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth",
    "PatientSex_DICOM", "ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric",
    "Modality_DICOM", "Manufacturer_DICOM", "PhotometricInterpretation_DICOM",
    "PixelRepresentation_DICOM", "PixelAspectRatio_DICOM", "SpatialResolution_DICOM",
    "BitsStored_DICOM", "WindowCenter_DICOM", "WindowWidth_DICOM", "Rows_DICOM", "Columns_DICOM",
    "XRayTubeCurrent_DICOM", "Exposure_DICOM", "ExposureInuAs_DICOM", "ExposureTime",
    "RelativeXRayExposure_DICOM", "ReportID", "Report", "MethodLabel", "Labels", "Localizations",
    "LabelsLocalizationsBySentence", "labelCUIS", "LocalizationsCUIS",
]  # fmt: skip
SPANISH = "derrame pleural izquierdo . no se observan infiltrados ."


def row(image, study, patient, labels, **more):
    told = {
        "": "0", "ImageID": image, "ImageDir": "0", "StudyDate_DICOM": "20140915",
        "StudyID": study, "PatientID": patient, "PatientBirth": "1930.0", "PatientSex_DICOM": "F",
        "ViewPosition_DICOM": "POSTEROANTERIOR", "Projection": "PA", "Modality_DICOM": "CR",
        "Manufacturer_DICOM": "ImagingDynamicsCompanyLtd", "ReportID": "4765777",
        "Report": SPANISH, "MethodLabel": "Physician", "Labels": labels,
    }  # fmt: skip
    return told | more


ROWS = [
    row("11_02-056-111.png", "s1", "p1", "['pleural effusion', ' atypical pneumonia ']"),
    row("11_02-056-222.png", "s1", "p1", "['atypical pneumonia']", Projection="L"),
    row("12.01.a.png", "s2", "p1", "['normal', 'normal', '']", StudyDate_DICOM="20150101",
        MethodLabel="RNN_model"),
    row("13.png", "s3", "p2", "", Report="nan", StudyDate_DICOM="", Projection="AP_horizontal"),
    row("14.png", "s4", "p3", "['pneumonia']", Report="", Projection="COSTAL"),
    row("15.png", "s5", "p4", "['exclude']"),
    row("16.png", "s6", "p5", "['unchanged']", Projection="EXCLUDE"),
    # Of a broken file, said twice, of no file, of a list that is none, and without a name.
    row("17.png", "s7", "p6", "['normal']"),
    row("18.png", "s7", "p6", "['normal']"),
    row("14.png", "s4", "p3", "['normal']"),
    row("19.png", "s8", "p7", "['normal']"),
    row("20.png", "s9", "p8", "__import__('os')"),
    row("", "s9", "p8", "['normal']"),
]  # fmt: skip


def deep(path, seed):
    """A PNG of 16 bits; returns what it holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 65535, (24, 32)).astype(np.uint16)
    Image.fromarray(pixels).save(path)
    return pixels


def build(root):
    root.mkdir(parents=True)
    table = root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, HEADER, restval="")
        writer.writeheader()
        writer.writerows(ROWS)
    for seed, told in enumerate(ROWS[:7]):
        deep(root / str(seed % 3) / told["ImageID"], seed)
    deep(root / "0" / "20.png", 20)
    deep(root / "0" / "stranger.png", 21)
    (root / "0" / "17.png").write_bytes(b"")
    deep(root / "0" / "18.png", 22)
    whole = (root / "0" / "18.png").read_bytes()
    (root / "0" / "18.png").write_bytes(whole[: len(whole) // 2])
    write(root / "0.zip.txt", "words")
    return root


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("padchest")
    return Indexed(build(folder / "s"), "padchest", folder / "m")


def short(found):
    return {name.rpartition("/")[2]: row for name, row in found.samples.items()}


def test_rows_and_images_are_accounted_for(found):
    assert set(short(found)) == {
        "11_02-056-111.png", "11_02-056-222.png", "12.01.a.png", "13.png", "14.png",
    }  # fmt: skip
    assert found.codes == [
        ("ignored", "excluded_by_publisher"),
        ("ignored", "excluded_by_publisher"),
        ("ignored", "not_of_the_set"),
        ("join", "no_row"),
        ("join", "no_row"),
        ("read", "empty"),
        ("read", "truncated_pixels"),
        ("row", "bad_labels"),
        ("row", "duplicate_row"),
        ("row", "empty_report"),
        ("row", "empty_report"),
        ("row", "no_path"),
    ]
    assert found.notes == {
        "rows": 10, "rows_published": 160_868,
        "rows_without_image": 1, "rows_without_labels": 1, "findings_that_no_row_names": 18,
    }  # fmt: skip


def labels(found, image):
    sample = short(found)[image]["sample"]
    rows = found.manifest.labels.filter(pl.col("sample") == sample)
    return {
        name: (value, source)
        for name, value, source in rows.select("name", "value", "source").rows()
    }


def test_a_name_is_not_said_by_another_that_holds_it(found):
    by, network = "padchest:physician", "padchest:network"
    assert labels(found, "11_02-056-111.png") == {
        "normal": (0, by), "pleural effusion": (1, by), "pneumonia": (0, by),
        "atypical pneumonia": (1, by),
    }  # fmt: skip
    assert labels(found, "12.01.a.png") == {
        "normal": (1, network), "pleural effusion": (0, network), "pneumonia": (0, network),
    }  # fmt: skip
    assert labels(found, "14.png")["pneumonia"] == (1, by)
    # Nobody labelled it, so nothing is absent.
    assert labels(found, "13.png") == {}


def test_findings_are_chosen_and_all_that_is_named_is_kept(tmp_path):
    made = Indexed(
        build(tmp_path / "s"), "padchest", tmp_path / "m", "options.findings=[atypical pneumonia]"
    )
    values = {name: value for name, (value, _) in labels(made, "12.01.a.png").items()}
    assert values == {"normal": 1, "atypical pneumonia": 0}


def test_reports_are_spanish_and_say_so(found):
    texts = found.manifest.texts.filter(pl.col("level") == "report")
    assert set(texts["source"]) == {"report:es"}
    assert set(texts["text"]) == {SPANISH}
    assert texts.height == 3
    for image in ("13.png", "14.png"):
        assert "no_text" in short(found)[image]["flags"]


def test_views_people_and_dates(found):
    rows = short(found)
    assert [rows[name]["view"] for name in sorted(rows)] == ["PA", "LATERAL", "PA", "AP", "COSTAL"]
    one, side, later = (rows[n] for n in ("11_02-056-111.png", "11_02-056-222.png", "12.01.a.png"))
    assert one["study"] == side["study"]
    assert (one["sex"], one["age_band"], one["modality"]) == ("F", "80-89", "CR")
    assert one["acquired"] < "2014-09-15"
    assert rows["13.png"]["acquired"] is None
    assert priors(found.manifest) == {later["sample"]: one["sample"]}


def test_sixteen_bits_stay_sixteen(tmp_path):
    pixels = deep(tmp_path / "deep.png", 5)
    assert pixels.max() > 60_000
    np.testing.assert_array_equal(read_xray(tmp_path / "deep.png"), pixels)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("['COPD signs', 'unchanged']", ("COPD signs", "unchanged")),
        ("[' laminar  atelectasis ' , 'normal']", ("laminar atelectasis", "normal")),
        ('["Chilaiditi\'s sign"]', ("Chilaiditi's sign",)),
        ("['a\\'b', ]", ("a'b",)),
        ("['nodule, calcified', 'x]y']", ("nodule, calcified", "x]y")),
        ("[]", ()), ("['']", ()), ("", None), ("nan", None), (" NaN ", None),
    ],
)  # fmt: skip
def test_lists_are_parsed(cell, words):
    assert listed_words(cell) == words


@pytest.mark.parametrize(
    "cell",
    ["normal", "['normal'", "[normal]", "['a' 'b']", "['a'", "[1]", "['a', f()]", "[['a']]",
     "['" + "a" * 50_000, "{'a'}"],
)  # fmt: skip
def test_what_is_no_list_of_words_is_refused_and_never_evaluated(cell):
    with pytest.raises(Reject, match="bad_labels"):
        listed_words(cell)


def test_lists_of_others_say_the_split(tmp_path):
    root = build(tmp_path / "s")
    write(root / "lists/train.txt", "11_02-056-111.png\n11_02-056-222.png\n12.01.a.png\n")
    write(root / "lists/test.txt", "13.png\nlost.png\n")
    made = Indexed(root, "padchest", tmp_path / "m", "options.lists=lists")
    rows = short(made)
    assert rows["12.01.a.png"]["split"] == "train"
    assert rows["13.png"]["split"] == "test"
    assert "in_no_list" in rows["14.png"]["flags"]
    assert made.notes["listed_without_image"] == 1


def test_a_table_without_its_header_is_refused(tmp_path):
    root = build(tmp_path / "s")
    table = root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
    write(table, table.read_text().partition("\n")[2])
    with pytest.raises(ArchiveError):
        index_archive(root, kind="padchest", out=tmp_path / "m")
