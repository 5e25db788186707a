import gzip
import json

import polars as pl
import pytest
from minisets import Indexed, picture, write

from medvlp.archive.index import index_archive
from medvlp.data.manifest import Manifest
from medvlp.errors import ArchiveError
from medvlp.evaluate.cases import sample_items
from medvlp.evaluate.leakage.compare import Part, shared
from medvlp.evaluate.masks import Regions
from medvlp.evaluate.phrases import ask_by_phrases

HEADER = "dicom_id,category_name,label_text,path,x,y,w,h,image_width,image_height,split"
PLACES = {
    "aa": ("10000032", "50414267"),
    "bb": ("10000764", "57375967"),
    "cc": ("11000935", "50578979"),
    "dd": ("11000999", "59999999"),
    "ee": ("11000998", "59999998"),
}
# Images are 32 columns wide and 24 rows high.
ROWS = [
    ("aa", "Pneumonia", "patchy opacity, left base", "2,3,10,8,32,24,test"),
    ("aa", "Pneumonia", "patchy opacity, left base", "20,3,8,8,32,24,test"),
    ("aa", "Pneumonia", "right upper consolidation", "1,1,4,4,32,24,test"),
    ("aa", "Pleural Effusion", "small effusion", "0,12,16,12,32,24,test"),
    # Sticks out by less than a pixel; drawn in an image of twice the size.
    ("bb", "Cardiomegaly", "heart is enlarged", "20,10,44.5,30,64,48,val"),
    ("cc", "Edema", "mild edema", "2,2,4,4,32,24,train"),
    # Said again, of no size, of an unknown finding, without words, in two splits, not there.
    ("cc", "Edema", "mild edema", "2,2,4,4,32,24,train"),
    ("cc", "Pneumothorax", "apical pneumothorax", "2,2,4,4,32,24,train"),
    ("cc", "Pneumothorax", "apical pneumothorax", "2,2,0,4,32,24,train"),
    ("cc", "Fracture", "broken rib", "2,2,4,4,32,24,train"),
    ("cc", "Edema", " ", "2,2,4,4,32,24,train"),
    ("cc", "Edema", "worse edema", "2,2,4,4,32,24,test"),
    ("gone", "Edema", "edema", "2,2,4,4,32,24,test"),
    # Drawn in an image of another shape.
    ("dd", "Edema", "edema", "2,2,4,4,32,32,test"),
    # Lies in another patient's folder.
    ("ee", "Edema", "edema", "2,2,4,4,32,24,test"),
]


def place(name):
    subject, study = PLACES.get(name, ("19999999", "59999997"))
    return f"files/p{subject[:2]}/p{subject}/s{study}/{name}.jpg"


def table(rows=ROWS):
    lines = [
        f'{name},{finding},"{text}",{place(name)},{told}' for name, finding, text, told in rows
    ]
    return "\n".join([HEADER, *lines]) + "\n"


def build(root, csv=True):
    for seed, name in enumerate(PLACES):
        path = place(name)
        if name == "ee":
            path = path.replace("p11000998", "p11000997")
        picture(root / path, seed)
    picture(root / "files/p10/p10000032/s50414267/other.jpg", 40)
    write(root / "files/p10/p10000032/s50414267.txt", "FINDINGS: patchy opacity.")
    if csv:
        write(root / "MS_CXR_Local_Alignment_v1.1.0.csv", table())
    return root


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ms")
    return Indexed(build(folder / "s"), "ms-cxr", folder / "m")


def short(found):
    return {name.rpartition("/")[2]: row for name, row in found.samples.items()}


def test_rows_and_images_are_accounted_for(found):
    assert set(short(found)) == {"aa.jpg", "bb.jpg", "cc.jpg"}
    assert found.codes == [
        # An image that MS-CXR does not name, and a report.
        ("ignored", "not_of_the_set"),
        ("ignored", "not_of_the_set"),
        ("read", "identity_conflict"),
        ("read", "region_size"),
        ("row", "bad_box"),
        ("row", "bad_labels"),
        ("row", "duplicate_row"),
        ("row", "empty_report"),
        ("row", "label_conflict"),
    ]
    assert found.notes == {
        "pairs": 9, "pairs_published": 1_162, "rows_without_image": 1,
        "phrases_with_a_refused_box": 1, "images_with_two_phrases_of_a_finding": 1,
    }  # fmt: skip


def test_boxes_are_in_pixels_of_the_image_that_is_there(found):
    images = {name.rpartition("/")[2]: name for name in found.samples}
    assert found.regions(images["aa.jpg"]) == [
        ("Pleural Effusion", "box", [0, 12, 16, 24]),
        ("Pneumonia", "box", [1, 1, 5, 5]),
        ("Pneumonia", "box", [2, 3, 12, 11]),
        ("Pneumonia", "box", [20, 3, 28, 11]),
    ]
    assert found.regions(images["bb.jpg"]) == [("Cardiomegaly", "box", [10, 5, 32, 20])]
    # Of a phrase with a box that is wrong, none is believed.
    assert found.regions(images["cc.jpg"]) == [("Edema", "box", [2, 2, 6, 6])]


def test_every_box_names_the_phrase_that_it_shows(found):
    sample = short(found)["aa.jpg"]["sample"]
    texts = found.manifest.texts
    assert set(texts["level"]) == {"sentence"}
    boxes = found.manifest.regions.filter(pl.col("sample") == sample)
    shown = boxes.join(texts.select("text", ref="node"), on="ref").sort("geometry")
    assert shown.select("name", "text").rows() == [
        ("Pleural Effusion", "small effusion"),
        ("Pneumonia", "right upper consolidation"),
        ("Pneumonia", "patchy opacity, left base"),
        ("Pneumonia", "patchy opacity, left base"),
    ]


def test_split_people_and_studies(found):
    rows = short(found)
    assert {name: row["split"] for name, row in rows.items()} == {
        "aa.jpg": "test", "bb.jpg": "valid", "cc.jpg": "train",
    }  # fmt: skip
    assert len({row["patient"] for row in rows.values()}) == 3


def test_a_grounding_task_asks_by_the_phrases(found):
    manifests = [found.manifest]
    items = sample_items(manifests, "test", (), domain="cxr")
    regions = Regions(manifests, ("Pneumonia", "Pleural Effusion"), boxes=True)
    asked, wordless = ask_by_phrases(items, regions, manifests)
    assert wordless == 0
    assert {q.name: q.texts for q in asked} == {
        "Pneumonia": ("patchy opacity, left base", "right upper consolidation"),
        "Pleural Effusion": ("small effusion",),
    }


def coco():
    ids = {name: i for i, name in enumerate([*PLACES, "gone"], start=1)}
    findings = sorted({finding for _, finding, *_ in ROWS})
    images, notes = {}, []
    for name, finding, text, told in ROWS:
        *box, width, height, split = told.split(",")
        size = {"width": int(width), "height": int(height)}
        path = place(name)
        images.setdefault(name, {"id": ids[name], "path": path, "split": split, **size})
        images[name]["file_name"] = path.rpartition("/")[2]
        category = 1 + findings.index(finding)
        note = {"image_id": ids[name], "category_id": category, "bbox": [float(v) for v in box]}
        notes.append(note | {"label_text": text})
    categories = [{"id": i, "name": name} for i, name in enumerate(findings, start=1)]
    return {"images": list(images.values()), "annotations": notes, "categories": categories}


def test_the_coco_file_says_the_same(found, tmp_path):
    root = build(tmp_path / "s", csv=False)
    write(root / "MS_CXR_Local_Alignment_v1.1.0.json", json.dumps(coco()))
    made = Indexed(root, "ms-cxr", tmp_path / "m")
    for image in found.samples:
        # There, an image has one split.
        assert [r for r in made.regions(image) if "cc" not in image] == [
            r for r in found.regions(image) if "cc" not in image
        ]
    assert set(made.samples) == set(found.samples)
    write(root / "MS_CXR_Local_Alignment_v1.1.0.json", "{}")
    with pytest.raises(ArchiveError, match="no COCO file"):
        index_archive(root, kind="ms-cxr", out=tmp_path / "n")


def metadata(root):
    """MIMIC's tables, and an image of somebody whom MS-CXR does not name."""
    picture(root / "files/p12/p12000000/s50000001/apart.jpg", 60)
    lines = ["dicom_id,subject_id,study_id,ViewPosition,StudyDate,StudyTime"]
    for name, (subject, study) in PLACES.items():
        lines.append(f"{name},{subject},{study},{'LL' if name == 'bb' else 'AP'},21800506,93000.5")
    lines.append("apart,12000000,50000001,PA,21800507,93000.5")
    data = gzip.compress("\n".join(lines).encode())
    (root / "mimic-cxr-2.0.0-metadata.csv.gz").write_bytes(data)
    splits = ["dicom_id,study_id,subject_id,split"]
    splits += [f"{name},{study},{subject},train" for name, (subject, study) in PLACES.items()]
    splits.append("apart,50000001,12000000,train")
    write(root / "mimic-cxr-2.0.0-split.csv", "\n".join(splits))


def test_metadata_tell_view_and_date(tmp_path):
    root = build(tmp_path / "s")
    metadata(root)
    rows = short(Indexed(root, "ms-cxr", tmp_path / "m"))
    assert (rows["aa.jpg"]["view"], rows["bb.jpg"]["view"]) == ("AP", "LATERAL")
    assert rows["aa.jpg"]["acquired"] < "2180-05-06"
    assert rows["aa.jpg"]["split"] == "test"


def test_what_was_trained_on_is_found_and_can_be_left_out(found, tmp_path):
    root = build(tmp_path / "s")
    metadata(root)
    key = found.manifest.private / "key"

    def train(out, *settings):
        index_archive(root, kind="mimic-cxr", out=out, key=key, overrides=("workers=1", *settings))
        manifest = Manifest.open(out)
        return manifest, Part("training", (manifest,), ("train",), "cxr")

    evaluated = Part("ms-cxr", (found.manifest,), ("test",), "cxr")
    _, everything = train(tmp_path / "all")
    assert {leak.kind for leak in shared(evaluated, everything)} >= {"patient", "study", "file"}
    manifest, rest = train(tmp_path / "rest", "options.leave_out=MS_CXR_Local_Alignment_v1.1.0.csv")
    assert manifest.info["notes"]["left_out_patients"] == len(PLACES)
    assert manifest.samples.height == 1
    assert list(shared(evaluated, rest)) == []
