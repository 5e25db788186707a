"""The labeller on hand cases, on phantom reports of known truth, and on real ones where present."""

import csv
from collections import Counter

import pytest

from medvlp.cxr import phantom_findings as cxr_phantom
from medvlp.cxr.phantom_words import STYLE as CXR_STYLE
from medvlp.data.findings import NO_FINDING, Findings, Words, load_findings
from medvlp.errors import ConfigError
from medvlp.phantom.patients import patient_generator
from medvlp.phantom.report import write_report
from medvlp_volumetric import phantom_findings as ct_phantom
from medvlp_volumetric.phantom_words import STYLE as CT_STYLE

CXR = load_findings("cxr")
CT = load_findings("volumetric")

HAND = [
    ("cxr", "Mild cardiomegaly.", {"cardiomegaly": 1}),
    ("cxr", "The heart is not enlarged.", {"cardiomegaly": 0}),
    ("cxr", "Heart size is normal.", {"cardiomegaly": 0}),
    ("cxr", "Heart size is not normal.", {"cardiomegaly": None}),
    ("cxr", "No effusion or pneumothorax.", {"pleural_effusion": 0, "pneumothorax": 0}),
    ("cxr", "Possible pneumonia.", {"pneumonia": -1, "lung_opacity": -1}),
    ("cxr", "Pericardial effusion.", {"pleural_effusion": None}),
    ("cxr", "Subcutaneous emphysema.", {"emphysema": None}),
    ("cxr", "Pacemaker in place.", {"pacemaker": 1, "support_devices": 1, NO_FINDING: 1}),
    ("cxr", "No pacemaker.", {"pacemaker": 0, "support_devices": None}),
    ("cxr", "Fractured ribs. No fracture of the clavicle.", {"rib_fracture": 1, "fracture": 1}),
    ("cxr", "Left effusion. No right effusion.", {"pleural_effusion": 1}),
    ("cxr", "No effusion. Possible left effusion.", {"pleural_effusion": -1}),
    ("cxr", "Clear lungs.", {"consolidation": 0, "edema": 0, "cardiomegaly": None}),
    ("cxr", "Clear lungs. Small nodule.", {"nodule": 1, "consolidation": 0}),
    ("cxr", "INDICATION: Pneumonia.\nFINDINGS: Heart size is normal.", {"pneumonia": None}),
    ("cxr", "INDICATION: Pneumonia.", {"pneumonia": None, NO_FINDING: None}),
    ("cxr", "Blunting of the left costophrenic angle.", {"pleural_effusion": 1}),
    ("cxr", "", {"edema": None, NO_FINDING: None}),
    ("cxr", "Normal chest radiograph.", {"edema": 0, "cardiomegaly": 0, NO_FINDING: 1}),
    ("volumetric", "A 9 mm lymph node is seen in the mediastinum.", {"lymphadenopathy": 1}),
    ("volumetric", "No enlarged lymph nodes.", {"lymphadenopathy": 0}),
    ("volumetric", "Calcified plaques in the coronary arteries.",
     {"coronary_artery_wall_calcification": 1, "arterial_wall_calcification": None}),
    ("volumetric", "Calcified plaques in the coronary arteries and the aortic arch.",
     {"coronary_artery_wall_calcification": 1, "arterial_wall_calcification": 1}),
    ("volumetric", "Pleural effusion-thickening was not detected in both hemithorax.",
     {"pleural_effusion": 0}),
    ("volumetric", "Hypodense nodule in the right thyroid lobe.", {"lung_nodule": None}),
    ("volumetric", "Ground-glass areas in both lungs.", {"lung_opacity": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("domain", "text", "expected"), HAND, ids=[text for _, text, _ in HAND])
def test_hand_cases(domain, text, expected):
    found = load_findings(domain).label(text)
    assert {name: found[name] for name in expected} == expected


def phantom_agreement(domain, catalogue, style, findings, **extra):
    """Share of (report, finding) pairs labelled as the phantom's own truth has it."""
    kept = Counter()
    for i in range(400):
        drawn = catalogue.draw_findings(patient_generator(domain, 7, i, "findings"))
        rng = patient_generator(domain, 7, i, "report")
        text, denied = write_report(rng, style, drawn, **extra)
        found = findings.label(text)
        truth = {finding.name: int(finding.presence) for finding in drawn}
        for name in catalogue.NAMES:
            told = truth.get(name, 0)
            # Of what is neither drawn nor denied, a report may be silent.
            right = {0} if name in denied else {told} if name in truth else {0, None}
            kept[found[name] in right] += 1
    return kept[True] / kept.total()


def test_phantom_x_ray_reports_are_labelled_as_they_were_drawn():
    extra = {"view": "PA", "ratio": "0.55"}
    assert phantom_agreement("cxr", cxr_phantom, CXR_STYLE, CXR, **extra) >= 0.998


def test_phantom_ct_reports_are_labelled_as_they_were_drawn():
    agreement = phantom_agreement("volumetric", ct_phantom, CT_STYLE, CT, thickness="5")
    assert agreement >= 0.998


def test_every_mention_names_the_words_that_gave_it():
    text = "The heart is enlarged. There is no left pleural effusion."
    told = {(m.finding, m.sentence[slice(*m.span)], m.value) for m in CXR.mentions(text)}
    assert ("cardiomegaly", "heart is enlarged", 1) in told
    assert ("pleural_effusion", "effusion", 0) in told


def test_a_domain_without_findings_has_none():
    empty = load_findings("video")
    assert empty.names == ()
    assert empty.label("The gallbladder is dissected.") == {}


def test_a_users_own_words_are_taken(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("cxr:\n  erguss: {words: [erguss*], other: [perikarderguss]}\n")
    own = load_findings("cxr", path)
    assert own.label("Erguss links.")["erguss"] == 1
    assert own.label("Perikarderguss.")["erguss"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (Words(words=("~ heart",)), "no phrase"),
        (Words(words=("heart ~~~ large",)), "no phrase"),
        (Words(words=("heart",), includes=("lung",)), "unknown lung"),
    ],
)
def test_words_that_cannot_be_used_are_refused(words, said):
    with pytest.raises(ConfigError, match=said):
        Findings({"heart": words})


def test_real_ct_reports_agree_with_their_hand_labels(shared):
    file = shared / "data" / "reports-ct-ctclip" / "val_nodates.csv"
    with file.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    scores = []
    found = [CT.label(row["report_text"]) for row in rows]
    for column in list(rows[0])[2:]:
        name = column.lower().replace(" ", "_")
        pairs = Counter(
            (row[column] == "1", f[name] == 1) for row, f in zip(rows, found, strict=True)
        )
        right, wrong = pairs[True, True], pairs[True, False] + pairs[False, True]
        scores.append(2 * right / (2 * right + wrong))
    assert len(rows) == 155
    assert sum(scores) / len(scores) > 0.9
