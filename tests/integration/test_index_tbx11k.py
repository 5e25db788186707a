import json

import pytest
from minisets import Indexed, picture, write

from medvlp.archive.verdict import Reject
from medvlp.cxr.sets.tbx11k_tables import dict_box

CATEGORIES = [
    {"id": 1, "name": "ActiveTuberculosis"},
    {"id": 2, "name": "ObsoletePulmonaryTuberculosis"},
]


def coco(path, names, boxes):
    """A COCO file; boxes are (image number, category, [x, y, width, height])."""
    images = [{"id": i, "file_name": n, "height": 24, "width": 32} for i, n in enumerate(names)]
    rows = [
        {"id": i, "image_id": n, "category_id": c, "bbox": b} for i, (n, c, b) in enumerate(boxes)
    ]
    write(path, json.dumps({"images": images, "annotations": rows, "categories": CATEGORIES}))


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tbx")
    root = folder / "TBX11K"
    train = ["health/h1.png", "sick/s1.png", "tb/t1.png", "tb/broken.png", "tb/gone.png"]
    boxes = [
        (2, 1, [1, 2, 10, 5.5]),
        (2, 2, [3, 3, 4, 4]),
        (2, 1, [1, 2, 0, 5]),
        (77, 1, [1, 2, 3, 4]),
    ]
    annotations = root / "annotations" / "json"
    coco(annotations / "TBX11K_train.json", train, boxes)
    coco(annotations / "TBX11K_val.json", ["tb/t2.png"], [(0, 1, [0, 0, 5, 5])])
    coco(annotations / "TBX11K_trainval.json", [*train, "tb/t2.png"], boxes[:1])
    write(annotations / ".." / "xml" / "tb" / "t1.xml", "<annotation/>")
    write(root / "lists" / "TBX11K_train.txt", "\n".join(train))
    write(root / "lists" / "TBX11K_val.txt", "tb/t2.png\n")
    write(root / "lists" / "TBX11K_trainval.txt", "\n".join([*train, "tb/t2.png"]))
    write(root / "lists" / "TBX11K_test.txt", "test/x1.png\n")
    for seed, name in enumerate([*train[:4], "tb/t2.png", "test/x1.png", "extra/e1.png"]):
        picture(root / "imgs" / name, seed)
    (root / "imgs" / "tb" / "broken.png").write_bytes(b"")
    return Indexed(root, "tbx11k", folder / "m")


def test_the_official_rows_and_images_are_accounted_for(official):
    assert set(official.samples) == {
        f"imgs/{name}.png" for name in ("health/h1", "sick/s1", "tb/t1", "tb/t2", "test/x1")
    }
    assert [code for code in official.codes if code[0] != "read"] == [
        ("ignored", "not_of_the_set"),
        ("join", "no_row"),
        ("row", "bad_box"),
        ("row", "no_sample"),
    ]
    assert official.notes == {
        "images_in_table": 7, "images_in_table_published": 11_200, "rows_without_image": 1,
    }  # fmt: skip


def test_boxes_that_several_files_tell_stand_once(official):
    assert official.regions("imgs/tb/t1.png") == [
        ("ActiveTuberculosis", "box", [1, 2, 11, 7.5]),
        ("ObsoletePulmonaryTuberculosis", "box", [3, 3, 7, 7]),
    ]


def test_withheld_labels_are_no_negatives(official):
    assert official.labels("Tuberculosis") == {
        "imgs/health/h1.png": 0, "imgs/sick/s1.png": 0, "imgs/tb/t1.png": 1, "imgs/tb/t2.png": 1,
    }  # fmt: skip
    assert official.labels("Sick without tuberculosis")["imgs/sick/s1.png"] == 1
    assert "labels_withheld" in official.samples["imgs/test/x1.png"]["flags"]


def test_the_lists_are_the_split(official):
    splits = {image: split for image, (split,) in official.columns("split").items()}
    assert splits == {
        "imgs/health/h1.png": "train", "imgs/sick/s1.png": "train", "imgs/tb/t1.png": "train",
        "imgs/tb/t2.png": "valid", "imgs/test/x1.png": "test",
    }  # fmt: skip
    assert official.manifest.samples["patient"].n_unique() == 5


def test_the_simplified_form(tmp_path):
    root = tmp_path / "simple"
    write(
        root / "data.csv",
        "fname,image_height,image_width,source,bbox,target,tb_type,image_type\n"
        "h1.png,512,512,train,none,no_tb,none,healthy\n"
        "t1.png,512,512,train,\"{'xmin': 1.5, 'ymin': 2, 'width': 10, 'height': 5}\",tb,active,tb\n"
        "t1.png,512,512,train,\"{'xmin': 3, 'ymin': 3, 'width': 4, 'height': 4}\",tb,latent,tb\n"
        "t1.png,512,512,train,none,no_tb,none,healthy\n"
        "x.png,512,512,train,\"{'xmin': __import__(1)}\",tb,active,tb\n"
        "gone.png,512,512,val,none,no_tb,none,sick\n",
    )
    for seed, name in enumerate(("h1", "t1", "x")):
        picture(root / "images" / f"{name}.png", seed)
    found = Indexed(root, "tbx11k", tmp_path / "m")
    assert found.labels("Tuberculosis") == {"images/h1.png": 0, "images/t1.png": 1}
    assert found.regions("images/t1.png") == [
        ("Tuberculosis", "box", [1.5, 2, 11.5, 7]),
        ("Tuberculosis", "box", [3, 3, 7, 7]),
    ]
    assert found.codes == [("join", "no_row"), ("row", "bad_box"), ("row", "label_conflict")]
    assert found.notes["rows_without_image"] == 1


@pytest.mark.parametrize(
    "words",
    [
        "{'xmin': 1, 'ymin': 2, 'width': 3}",
        "{'xmin': 1, 'ymin': 2, 'width': 3, 'height': NaN}",
        "{'xmin': 1, 'ymin': 2, 'width': 3, 'height': -1}",
        "{'xmin': 1, 'ymin': 2, 'width': 3, 'height': True}",
        "{'xmin': '1', 'ymin': 2, 'width': 3, 'height': 4}",
        "[1, 2, 3, 4]",
        "dict(xmin=1)",
    ],
)
def test_words_that_are_no_box_are_refused(words):
    with pytest.raises(Reject):
        dict_box(words)
