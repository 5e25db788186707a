import pytest

from medvlp.data.sections import load_headings, sections
from medvlp.data.sentences import sentences
from medvlp.data.text import report_nodes
from medvlp.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Nodule of 3.5 cm. Stable.", ["Nodule of 3.5 cm.", "Stable."]),
        ("Mass 1.2 x 0.8 cm. in the liver.", ["Mass 1.2 x 0.8 cm. in the liver."]),
        ("Fracture of T1. No effusion.", ["Fracture of T1.", "No effusion."]),
        ("Seen by Dr. Smith vs. the prior.", ["Seen by Dr. Smith vs. the prior."]),
        ("Bleeding, e.g. from a vessel. Clear.", ["Bleeding, e.g. from a vessel.", "Clear."]),
        ("Tube No. 3 in place. Effusion? No.", ["Tube No. 3 in place.", "Effusion?", "No."]),
        ("lungs clear. heart normal.", ["lungs clear.", "heart normal."]),
        ("1. Cardiomegaly. 2. Edema of 2.5 mm.", ["Cardiomegaly.", "Edema of 2.5 mm."]),
        ("1) Nodule\n2) Mass\n- Cyst", ["Nodule", "Mass", "Cyst"]),
        ("2 images. Normal. 3 mm nodule.", ["2 images.", "Normal.", "3 mm nodule."]),
        ("Lungs clear\nHeart normal", ["Lungs clear", "Heart normal"]),
        (
            "The cardiac silhouette is at the upper limit of normal size and the\n"
            "Azygos vein is prominent. Clear.",
            [
                "The cardiac silhouette is at the upper limit of normal size and the "
                "Azygos vein is prominent.",
                "Clear.",
            ],
        ),
        ("First.\n\nsecond", ["First.", "second"]),
        ("-- ... --", []),
        ("", []),
    ],
)
def test_sentences(text, expected):
    assert sentences(text) == expected


def test_no_word_is_lost():
    text = "1. Big. 2. T2-weighted 3.5 x 2.1 cm. mass, i.e. tumour! Is it? Yes."
    words = " ".join(sentences(text)).split()
    assert [w for w in text.split() if w not in ("1.", "2.")] == words


def test_sections_by_any_spelling_of_a_heading():
    text = "CT chest\nClinical history: cough\nFINDINGS\nClear. Impression: 1. Normal."
    assert [(s.name, s.text) for s in sections(text)] == [
        ("body", "CT chest"),
        ("indication", "cough"),
        ("findings", "Clear."),
        ("impression", "1. Normal."),
    ]


def test_a_word_in_a_sentence_is_no_heading():
    text = "These findings: are in the impression of the reader. History is unknown."
    assert [s.name for s in sections(text)] == ["body"]


def test_headings_of_another_language(tmp_path):
    file = tmp_path / "de.yaml"
    file.write_text("findings: [Befund]\nimpression: [Beurteilung]\n")
    found = sections("Befund: Frei.\nBeurteilung: Normal.", load_headings(file))
    assert [(s.name, s.text) for s in found] == [("findings", "Frei."), ("impression", "Normal.")]


@pytest.mark.parametrize("content", ["findings: Befund", "", "[a]", "{}"])
def test_ill_formed_headings_are_refused(tmp_path, content):
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError):
        load_headings(file)


def test_the_tree():
    rows = report_nodes("x1", "FINDINGS: Clear. Heart normal.\nIMPRESSION: Normal.", first=4)
    shape = [(r["node"], r["parent"], r["level"], r["source"], r["order"]) for r in rows]
    assert shape == [
        ("x1-4", None, "report", "report", 0),
        ("x1-5", "x1-4", "section", "findings", 0),
        ("x1-6", "x1-5", "sentence", "report", 0),
        ("x1-7", "x1-5", "sentence", "report", 1),
        ("x1-8", "x1-4", "section", "impression", 1),
        ("x1-9", "x1-8", "sentence", "report", 0),
    ]


def test_synthetic_text_says_so_in_every_node():
    rows = report_nodes("x1", "FINDINGS: Clear.", "synthetic:labels")
    assert {r["source"] for r in rows} == {"synthetic:labels"}


def test_blank_text_makes_no_node():
    assert report_nodes("x1", " \n ") == []
