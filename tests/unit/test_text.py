import tarfile
import time
from itertools import islice
from pathlib import Path

import pytest

from medvlp.archive.text.open_i_xml import parse_open_i
from medvlp.data.sections import load_headings, sections
from medvlp.data.sentences import sentences
from medvlp.data.text import report_nodes
from medvlp.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


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
        ("No effusion.No pneumothorax.", ["No effusion.", "No pneumothorax."]),
        ("no effusion.no pneumothorax seen", ["no effusion.", "no pneumothorax seen"]),
        ("At L5-S1. On T2.Stable.", ["At L5-S1.", "On T2.", "Stable."]),
        ("See series 4, image 23. Im. 45 and Fig. 3 too. Done.",
         ["See series 4, image 23.", "Im. 45 and Fig. 3 too.", "Done."]),
        ("At 10:30 a.m. by Dr. J. Smith. At 5 p.m. He left.",
         ["At 10:30 a.m. by Dr. J. Smith.", "At 5 p.m.", "He left."]),
        ("Grade I. Hepatitis B. Type A.", ["Grade I.", "Hepatitis B.", "Type A."]),
        ("Mass of 3,5 cm on 1.2.2020. Was 3 mm. Now 5 mm. 2 others.",
         ["Mass of 3,5 cm on 1.2.2020.", "Was 3 mm.", "Now 5 mm.", "2 others."]),
        ("der 3. Rippe links. Am 12. März normal.", ["der 3. Rippe links.", "Am 12. März normal."]),
        ("Dr. XXXX told XXXX. XXXX, M.D. End.", ["Dr. XXXX told XXXX.", "XXXX, M.D.", "End."]),
        ("Opacity (?) noted... maybe. Wait... Done.", ["Opacity (?) noted... maybe.", "Wait...",
         "Done."]),
        ("Nodule (see Fig. 3. above) grew. Cyst (new?) in the liver.",
         ["Nodule (see Fig. 3. above) grew.", "Cyst (new?) in the liver."]),
        ("1. Big 2. Small. 3. None", ["Big", "Small.", "None"]),
        ("(1) A big one. (2) A small one.", ["A big one.", "A small one."]),
        ("1.Cardiomegaly. 2.Edema.", ["Cardiomegaly.", "Edema."]),
        ("Lungs: clear; heart: normal.", ["Lungs: clear; heart: normal."]),
        ("RUL\t3 mm\tstable\nLLL\t4 mm\tnew", ["RUL 3 mm stable", "LLL 4 mm new"]),
        ("• a nodule • a cyst", ["a nodule", "a cyst"]),
        ('Open. " Nodules " Effusion', ["Open.", "Nodules", "Effusion"]),
        ("“Fusiform aorta.” Plaques.", ["“Fusiform aorta.”", "Plaques."]),
        ("Metastases of the colon ca. were seen. Known ca. Stable.",
         ["Metastases of the colon ca. were seen.", "Known ca.", "Stable."]),
        ("Visit www.hospital.org for more. End", ["Visit www.hospital.org for more.", "End"]),
        ("Changes are seen in the liver, the spleen and in the left adrenal\n"
         "Lungs are clear", ["Changes are seen in the liver, the spleen and in the left adrenal "
                             "Lungs are clear"]),
        ("Lungs clear\nThe cardiac silhouette is at the upper limit of normal size and\nthe aorta"
         " is prominent",
         ["Lungs clear", "The cardiac silhouette is at the upper limit of normal size and the aorta"
          " is prominent"]),
        ("-- ... --", []),
        ("", []),
    ],
)  # fmt: skip
def test_sentences(text, expected):
    assert sentences(text) == expected


def test_no_word_is_lost():
    text = "1. Big. 2. T2-weighted 3.5 x 2.1 cm. mass, i.e. tumour! Is it? Yes."
    words = " ".join(sentences(text)).split()
    assert [w for w in text.split() if w not in ("1.", "2.")] == words


PARTS = [("indication", "Cough"), ("findings", "Clear lungs."), ("impression", "Normal.")]


@pytest.mark.parametrize(
    "text",
    [
        "INDICATION: Cough\nFINDINGS: Clear lungs.\nIMPRESSION: Normal.",
        "indication: Cough\nfindings: Clear lungs.\nimpression: Normal.",
        "Clinical history : Cough \r\nFindings :  Clear lungs. \r\nConclusion:\r\n Normal.",
        "REASON FOR EXAM\nCough\n\nObservations\nClear lungs.\n\nOPINION\nNormal.",
        "**Indication:** Cough\n\n**Findings:** Clear lungs.\n\n**Impression:** Normal.",
        "**INDICATION** Cough\n**FINDINGS** Clear lungs.\n**IMPRESSION** Normal.",
        "1. INDICATION: Cough\n2. FINDINGS: Clear lungs.\n3. IMPRESSION: Normal.",
        "I. INDICATION: Cough\nII. FINDINGS: Clear lungs.\nIII. IMPRESSION: Normal.",
        "Indication\n----------\nCough\nFindings\n========\nClear lungs.\nImpression\n---\nNormal.",
        "===\nINDICATION\n===\nCough\n\n## Findings\nClear lungs.\n\n## Impression\nNormal.",
        "[INDICATION] Cough\n[FINDINGS] Clear lungs.\n[IMPRESSION] Normal.",
        "INDICATION - Cough\nFindings - Clear lungs.\nImpression -- Normal.",
        "INDICATION Cough\nFINDINGS Clear lungs.\nIMPRESSION Normal.",
        "Indication Cough\nFindings Clear lungs.\nImpression Normal.",
        "INDICATION: Cough FINDINGS: Clear lungs. IMPRESSION: Normal.",
        "Indication: Cough Findings: Clear lungs. Impression: Normal.",
        "INDICATION Cough FINDINGS Clear lungs. IMPRESSION Normal.",
        "INDICATION. Cough\nFINDINGS. Clear lungs.\nIMPRESSION. Normal.",
        "Indication: CoughFINDINGS: Clear lungs.IMPRESSION: Normal.",
        "INDICATION:Cough\nFINDINGS:Clear lungs.Impression:Normal.",
        "INDICATION (clinical): Cough\nFINDINGS (chest): Clear lungs.\nIMPRESSION: Normal.",
        "> Indication: Cough\n> Findings: Clear lungs.\n> Impression: Normal.",
        "\u2028INDICATION:\u00a0Cough\u2028FINDINGS\u00a0: Clear lungs.\x0bIMPRESSION: Normal.",
    ],
)
def test_sections_in_any_layout(text):
    assert [(s.name, s.text.removesuffix("\n>").strip()) for s in sections(text)] == PARTS


def test_sections_by_any_spelling_of_a_heading():
    text = "CT chest\nClinical history: cough\nFINDINGS\nClear. Impression: 1. Normal."
    assert [(s.name, s.text) for s in sections(text)] == [
        ("body", "CT chest"),
        ("indication", "cough"),
        ("findings", "Clear."),
        ("impression", "1. Normal."),
    ]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("FINDINGS AND IMPRESSION: x", ["findings_impression"]),
        ("Findings/Impression:\nx", ["findings_impression"]),
        ("IMPRESSION & FINDINGS: x", ["findings_impression"]),
        ("IMPRESSION/RECOMMENDATION: x", ["impression"]),
        ("FINDINGS: a\nIMPRESSION: b\nADDENDUM: c\nFINDINGS: d",
         ["findings", "impression", "addendum", "findings"]),
        ("IMPRESSION NO ACUTE DISEASE", ["impression"]),
        ("HISTORY: COUGH\nIMPRESSION: NORMAL", ["indication", "impression"]),
        ("FINDINGS:\nIMPRESSION:\nNormal", ["impression"]),
        ("IMPRESSION: XXXX. FINDINGS: XXXX.", ["impression", "findings"]),
        ("", []),
        (" \n--- \n", []),
    ],
)  # fmt: skip
def test_section_names(text, names):
    assert [s.name for s in sections(text)] == names


@pytest.mark.parametrize(
    "text",
    [
        "These findings: are in the impression of the reader. History is unknown.",
        "The findings are stable. Findings are stable. Findings suggest edema.",
        "Comparison is made with the prior study. Comparison with prior.",
        "COMPARISON IS MADE WITH THE PRIOR STUDY. FINDINGS CONSISTENT WITH EDEMA.",
        "FINDINGS SUGGEST pneumonia, an IMPRESSION of edema.",
        "The patient was examined; impression: stable.",
        "My impression is that the findings, history and technique are fine.",
        "EXAM DATE: 2010\nStudy Number: 7\nREPORT STATUS: final",
        "A nodule was seen on the examination of the chest that preceded the present\nstudy\n"
        "and is unchanged.",
        "In comparison: the nodule grew.",
        "CHEST EXAMINATION\nNothing else.",
    ],
)
def test_a_word_in_a_sentence_is_no_heading(text):
    assert [s.name for s in sections(text)] == ["body"]


def test_nothing_but_headings_is_lost():
    text = "HISTORY: a b.\nFINDINGS c d. IMPRESSION: e\n1. f"
    words = " ".join(s.text for s in sections(text)).split()
    assert words == ["a", "b.", "c", "d.", "e", "1.", "f"]


def test_headings_of_another_language(tmp_path):
    file = tmp_path / "de.yaml"
    file.write_text("findings: [Befund]\nimpression: [Beurteilung]\n")
    found = sections("Befund: Frei.\nBeurteilung: Normal.", load_headings(file))
    assert [(s.name, s.text) for s in found] == [("findings", "Frei."), ("impression", "Normal.")]


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("de", "Klinische Angaben: Husten\nBefund\nFrei.\nBEURTEILUNG Normal."),
        ("fr", "Renseignements cliniques : toux\nRÉSULTATS\nNormal.\nConclusion: rien"),
        ("es", "Motivo de consulta: tos\nHALLAZGOS: nada.\nIMPRESIÓN DIAGNÓSTICA: normal"),
        ("pt", "Indicação clínica: tosse\nACHADOS: nada.\nImpressão diagnóstica: normal"),
        ("it", "Quesito clinico: tosse\nREFERTO: nulla.\nCONCLUSIONI: nulla"),
        ("nl", "Klinische gegevens: hoest\nVERSLAG: niets.\nConclusie: normaal"),
    ],
)
def test_headings_that_come_along(language, text):
    headings = load_headings(ROOT / "configs" / "headings" / f"{language}.yaml")
    names = [s.name for s in sections(text, headings)]
    assert names == ["indication", "findings", "impression"]


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


@pytest.mark.parametrize("size", [2**17, pytest.param(2**20, marks=pytest.mark.soak)])
@pytest.mark.parametrize(
    "unit",
    ["FINDINGS ", "FINDINGS:", "FINDINGS/", "FINDINGS(", "x", ".", ". ", "!?", "a.b", "(", "1. ",
     "(1) ", " ", "\n", "\t", "-", "*", "A.", "\n- ", "[(*_", "IMPRESSION\n---", "/ ", '" A'],
)  # fmt: skip
def test_text_of_any_kind_takes_linear_time(unit, size):
    text = unit * (size // len(unit)) + "x"
    start = time.process_time()
    sections(text)
    sentences(text)
    # Seconds a megabyte; anything quadratic takes hours.
    assert time.process_time() - start < 60 * size / 2**20


def test_open_i_is_understood(shared):
    """The tags of 200 real reports, flattened to lines with headings in capitals."""
    archive = shared / "data/reports-iu/NLMCXR_reports.tgz"
    if not archive.exists():
        pytest.skip("real data reports-iu are not here")
    wrong = total = 0
    with tarfile.open(archive) as tar:
        for member in islice((m for m in tar if m.isreg()), 200):
            told = parse_open_i(tar.extractfile(member).read()).sections
            parts = sections("\n".join(f"{label}: {words}" for label, words in told))
            found = {(part.name, part.text) for part in parts}
            total += len(told)
            wrong += sum((label.lower(), words) not in found for label, words in told)
    assert total > 600
    assert wrong <= 0.01 * total
