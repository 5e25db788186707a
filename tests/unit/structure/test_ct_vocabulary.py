"""The CT vocabulary: hand cases, and the 18 labels of CT-RATE."""

import pytest

from medvlp.data.structure.extract import load_extractor
from medvlp.data.structure.labels import NO_FINDING, labels_of
from medvlp_volumetric.sets.ct_rate import ABNORMALITIES

CT = load_extractor("volumetric")

# Sentence -> "anatomy observation presence [side] [severity]; ..."
GUIDE = """
Heart size is normal. -> heart cardiomegaly 0
The heart is enlarged. -> heart cardiomegaly 1
Trachea and both main bronchi are open. -> trachea airway_obstruction 0; bronchi airway_obstruction 0 bilateral
Small right pleural effusion. -> pleural_space pleural_effusion 1 right mild
Pleural effusion-thickening was not detected. -> pleural_space pleural_effusion 0; pleura pleural_thickening 0
Pericardial effusion-no thickening was detected. -> pericardium pericardial_effusion 0
No enlarged lymph nodes were detected in the mediastinum. -> mediastinum lymphadenopathy 0
A 9 mm lymph node is seen in the right axilla. -> axilla visible_lymph_node 1 right
Calcified plaques are seen in the aortic arch and the coronary arteries. -> aorta plaque 1; coronary_artery coronary_calcification 1
A calcification of the mitral valve. -> heart_valve valve_calcification 1
There is a 6 mm solid nodule in the left upper lobe. -> upper_lobe nodule 1 left
A nodule in the right thyroid lobe. -> thyroid thyroid_nodule 1 right
A nodule in the left adrenal gland. -> adrenal_gland adrenal_lesion 1 left
Multiple mass lesions in the right lobe of the liver. -> liver liver_lesion 1 right
Ground-glass opacities in both lower lobes. -> lower_lobe ground_glass 1 bilateral
Increased density of the subcutaneous fatty tissue. -> soft_tissue density_change 1
Fibrotic density increases in the right apex. -> lung_apex fibrotic_sequela 1 right
Thin-walled air cyst in the left lower lobe. -> lower_lobe air_cyst 1 left
A cyst in the right kidney. -> kidney renal_cyst 1 right
Mild bronchiectasis and peribronchial thickening in the right lower lobe. -> lower_lobe bronchiectasis 1 right mild; lower_lobe peribronchial_thickening 1 right
The liver is enlarged with steatosis. -> liver hepatomegaly 1; liver steatosis 1
The liver is normal. -> liver abnormality 0
Contour and parenchymal density of the spleen are normal. -> spleen abnormality 0
Vertebral body heights are preserved. -> spine compression_deformity 0
Bilateral adrenal glands were normal. -> adrenal_gland adrenal_lesion 0 bilateral
A stent in the common bile duct. -> bile_duct biliary_stent 1
"""  # noqa: E501
CASES = [
    tuple(line.split(" ->", 1)) for line in GUIDE.splitlines() if line and not line.startswith("#")
]


@pytest.mark.parametrize(("sentence", "wanted"), CASES, ids=[case[0] for case in CASES])
def test_hand_cases(sentence, wanted):
    found = {
        " ".join(filter(None, (t.anatomy, t.observation, str(t.presence), t.side, t.severity)))
        for t in CT.sentence(sentence)
    }
    assert found == {part.strip() for part in wanted.split(";")}


def test_every_name_can_be_said_and_every_label_is_made():
    vocabulary = CT.vocabulary
    assert set(vocabulary.words.anatomies) == set(vocabulary.anatomies)
    assert set(vocabulary.words.observations) == set(vocabulary.observations)
    told = {label for o in vocabulary.observations.values() for label in o.labels}
    assert told == set(ABNORMALITIES)


SAID = {
    "Medical material": "A port catheter ends in the superior vena cava.",
    "Arterial wall calcification": "Calcified plaques in the abdominal aorta.",
    "Cardiomegaly": "Cardiomegaly.",
    "Pericardial effusion": "Minimal pericardial effusion.",
    "Coronary artery wall calcification": "Calcifications of the coronary arteries.",
    "Hiatal hernia": "Sliding hiatal hernia.",
    "Lymphadenopathy": "Small lymph nodes in the mediastinum.",
    "Emphysema": "Centrilobular emphysema of both upper lobes.",
    "Atelectasis": "Linear atelectasis in the lingula.",
    "Lung nodule": "A nodule of 5 mm in the middle lobe.",
    "Lung opacity": "Patchy ground-glass areas in both lungs.",
    "Pulmonary fibrotic sequela": "Pleuroparenchymal sequelae in the apices.",
    "Pleural effusion": "Effusion in both hemithoraces.",
    "Mosaic attenuation pattern": "Mosaic attenuation in the lower lobes.",
    "Peribronchial thickening": "Peribronchial thickness is increased in both lungs.",
    "Consolidation": "Consolidation of the left lower lobe.",
    "Bronchiectasis": "Cylindrical bronchiectasis in the middle lobe.",
    "Interlobular septal thickening": "Interlobular septal thickening at the bases.",
}


@pytest.mark.parametrize("label", ABNORMALITIES)
def test_each_label_comes_out_of_a_sentence_and_is_denied_by_its_denial(label):
    found = labels_of(CT.report(SAID[label]), CT.vocabulary)
    assert {name for name, value in found.items() if value == 1} - {NO_FINDING} == {label}
    denied = SAID[label][0].lower() + SAID[label][1:]
    assert labels_of(CT.report(f"No {denied}"), CT.vocabulary).get(label) != 1


def test_a_report_of_nothing_but_devices_has_no_finding():
    report = "A pacemaker is seen. No pleural effusion. No nodule or mass in the lungs."
    found = labels_of(CT.report(report), CT.vocabulary)
    assert found[NO_FINDING] == 1
    assert (found["Medical material"], found["Lung nodule"], found["Pleural effusion"]) == (1, 0, 0)
