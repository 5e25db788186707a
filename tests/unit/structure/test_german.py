"""German reports are read by another words file and nothing else."""

import pytest

from medvlp.data.structure.extract import load_extractor

GERMAN = load_extractor("cxr", "de")
ENGLISH = load_extractor("cxr")


def rows(text, extractor):
    return {
        " ".join(
            filter(None, (t.anatomy, t.observation, str(t.presence), t.side, t.severity))
        )
        for t in extractor.sentence(text)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sentence", "told"),
    [
        ("Kein Pleuraerguss, kein Pneumothorax.",
         {"pleural_space pleural_effusion 0", "pleural_space pneumothorax 0"}),
        ("Kein Nachweis von Infiltraten oder Ergüssen.",
         {"lung infiltrate 0", "pleural_space pleural_effusion 0"}),
        ("Herz normal groß.", {"heart cardiomegaly 0"}),
        ("Das Herz ist nicht vergrößert.", {"heart cardiomegaly 0"}),
        ("Herz deutlich vergrößert.", {"heart cardiomegaly 1 severe"}),
        ("Geringer Pleuraerguss links.", {"pleural_space pleural_effusion 1 left mild"}),
        ("Verschattung im rechten Unterlappen, am ehesten Pneumonie.",
         {"lower_lobe opacity 1 right", "lower_lobe pneumonia -1 right"}),
        ("Lunge frei, Mediastinum unauffällig.",
         {"lung opacity 0", "mediastinum mediastinal_widening 0"}),
        ("Verdacht auf Infiltrat rechts basal.", {"lung_base infiltrate -1 right"}),
        ("Pneumonie nicht auszuschließen.", {"lung pneumonia -1"}),
        ("Atelektase oder Infiltrat im Mittellappen.",
         {"middle_lobe atelectasis -1", "middle_lobe infiltrate -1"}),
        ("Knöcherner Thorax intakt.", {"bone abnormality 0"}),
        ("ZVK von rechts mit Spitze in der Vena cava superior.",
         {"superior_vena_cava central_line 1 right"}),
    ],
)  # fmt: skip
def test_another_language_is_another_file(sentence, told):
    assert rows(sentence, GERMAN) == told
    assert rows(sentence, ENGLISH) != told
