"""Shipped CT protocols ask for what the readers of their sets give."""

from pathlib import Path

import pytest

from medvlp.evaluate.protocol import load_protocol
from medvlp_volumetric.phantom_draw import ORGANS
from medvlp_volumetric.phantom_findings import NAMES
from medvlp_volumetric.sets import abdomenct_1k, amos, btcv, ct_org

FOLDER = Path(__file__).parents[2] / "configs" / "evaluate"
READERS = {"abdomenct-1k": abdomenct_1k, "amos": amos, "btcv": btcv, "ct-org": ct_org}


@pytest.mark.parametrize("name", READERS)
def test_every_organ_that_a_set_draws_is_segmented(name):
    task = load_protocol(FOLDER / f"ct/segment-{name}.yaml").task
    assert sorted(task.structures) == sorted(READERS[name].ORGANS.values())


def test_one_organ_has_one_name_in_all_sets():
    named = set(load_protocol(FOLDER / "ct/segment-totalsegmentator.yaml").task.structures)
    for name in ("amos", "btcv"):
        ours = set(READERS[name].ORGANS.values())
        # What TotalSegmentator draws beside the group "organs", or divides otherwise.
        assert ours - named <= {
            "aorta", "inferior_vena_cava", "portal_vein_and_splenic_vein", "prostate_or_uterus",
        }  # fmt: skip


def test_the_study_points_at_focal_findings_of_the_phantom_and_draws_what_it_shows():
    task = load_protocol(FOLDER / "ct-study/ct-study-grounding.yaml").task
    whole_organs = {"cardiomegaly", "splenomegaly", "emphysema"}
    assert set(task.labels) == set(NAMES) - whole_organs
    task = load_protocol(FOLDER / "ct-study/ct-study-segmentation.yaml").task
    assert set(task.structures) <= {*NAMES, *ORGANS}
    task = load_protocol(FOLDER / "ct-study/ct-study-zero-shot.yaml").task
    assert set(task.prompts.names) == set(NAMES)
