import json

import pytest
from minisets import Indexed, picture, write

from medvlp.archive.index import index_archive
from medvlp.data.manifest import Manifest
from medvlp.errors import ArchiveError


def entry(study, views=2, report="the heart is normal in size . the lungs are clear ."):
    return {"id": study, "report": report, "image_path": [f"{study}/{i}.png" for i in range(views)]}


TOLD = {
    "train": [
        entry("CXR1_IM-0001-1001"),
        entry("CXR2_IM-0652"),
        entry("CXR3_IM-1384", report=" "),
        {"id": "CXR9", "report": 3},
        entry("CXR1_IM-0001-1001"),
    ],
    "val": [entry("CXR4_IM-2050")],
    "test": [entry("CXR5_IM-2117", report="There is a small effusion .")],
}


def build(root):
    write(root / "annotation.json", json.dumps(TOLD))
    images = [
        f"{study}/{i}.png"
        for study in ("CXR1_IM-0001-1001", "CXR2_IM-0652", "CXR4_IM-2050", "CXR5_IM-2117")
        for i in range(2)
    ]
    for seed, name in enumerate([*images[:3], *images[4:], "CXR8_IM-1/0.png"]):
        picture(root / "images" / name, seed)
    (root / "images" / images[-1]).write_bytes(b"cut")
    write(root / "note.txt", "words")
    return root


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("iu")
    return Indexed(build(folder / "iu_xray"), "iu-xray", folder / "m")


def test_entries_and_images_are_accounted_for(found):
    assert len(found.samples) == 6
    assert found.codes == [
        ("ignored", "not_of_the_set"),
        ("join", "no_row"),
        ("read", "not_a_picture"),
        ("row", "bad_json"),
        ("row", "duplicate_row"),
        ("row", "empty_report"),
    ]
    assert found.notes == {
        "studies_train": 5, "studies_train_published": 2_069,
        "studies_val": 1, "studies_val_published": 296,
        "studies_test": 1, "studies_test_published": 590,
        "rows_without_image": 1,
    }  # fmt: skip


def test_two_views_are_one_study_with_one_report(found):
    first = [found.samples[f"images/CXR1_IM-0001-1001/{i}.png"] for i in range(2)]
    assert first[0]["study"] == first[1]["study"]
    assert found.manifest.samples["study"].n_unique() == 4
    texts = found.manifest.texts.filter(found.manifest.texts["level"] == "report")
    assert texts.height == 6
    assert texts["text"].str.contains("small effusion").sum() == 1


def test_the_split_is_that_of_the_file(found):
    splits = {image.split("/")[1][:4]: split for image, (split,) in found.columns("split").items()}
    assert splits == {"CXR1": "train", "CXR2": "train", "CXR4": "valid", "CXR5": "test"}


def test_patients_are_those_of_open_i(found, tmp_path):
    write(
        tmp_path / "xml" / "1.xml",
        '<eCitation><uId id="CXR1"/><MedlineCitation><Article><Abstract>'
        '<AbstractText Label="FINDINGS">Clear.</AbstractText></Abstract></Article>'
        "</MedlineCitation></eCitation>",
    )
    key = found.manifest.private / "key"
    index_archive(tmp_path / "xml", kind="open-i", out=tmp_path / "m", key=key)
    (patient,) = Manifest.open(tmp_path / "m").samples["patient"]
    assert found.samples["images/CXR1_IM-0001-1001/0.png"]["patient"] == patient


def test_another_json_file_is_refused(tmp_path):
    write(tmp_path / "iu" / "annotation.json", "{}")
    with pytest.raises(ArchiveError, match="no lists train, val and test"):
        Indexed(tmp_path / "iu", "iu-xray", tmp_path / "m")
