from pathlib import Path

import pytest
import yaml

from medvlp.data.prompts import load_prompts
from medvlp.train.experiment import load_experiment

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Protocols and prompts: tests/unit/test_protocol.py; headings of reports: tests/unit/test_text.py.
OTHERS = {CONFIGS / "evaluate", CONFIGS / "headings"}
EXPERIMENTS = sorted(p for p in CONFIGS.rglob("*.yaml") if not OTHERS & set(p.parents))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_every_experiment_loads_and_its_contract_builds(path: Path) -> None:
    experiment = load_experiment(path)
    assert experiment.domain in (path.parent.name, path.stem)
    assert experiment.preprocess.build() is not None
    if isinstance(experiment.prompts, Path):
        load_prompts(path.parent / experiment.prompts)


def test_every_domain_has_a_smoke_and_a_base_experiment() -> None:
    names = {str(path.relative_to(CONFIGS)) for path in EXPERIMENTS}
    for domain in ("cxr", "volumetric", "video"):
        assert {f"{domain}/smoke.yaml", f"{domain}/base.yaml"} <= names


def test_the_fusion_experiments_graph_is_the_vocabularys_own() -> None:
    vocabulary = CONFIGS.parent / "medvlp" / "cxr" / "vocabulary" / "names.yaml"
    names = yaml.safe_load(vocabulary.read_text())
    known = {**names["anatomies"], **names["observations"]}
    experiment = load_experiment(CONFIGS / "cxr" / "fusion.yaml")
    observations = experiment.data.entities.observations
    ties, reached = {(name, known[name]["at"]) for name in observations}, set()
    ties |= {
        (name, known[name]["kind_of"])
        for name in observations
        if known[name].get("kind_of") in observations
    }
    while new := {place for _, place in ties} - reached:
        reached |= new
        ties |= {(n, known[n]["part_of"]) for n in new if "part_of" in known[n]}
    edges = next(o.edges for o in experiment.objectives if o.kind == "knowledge")
    assert set(edges) == ties
    assert len(edges) == len(ties)


def test_the_fvlm_experiments_places_are_the_vocabularys() -> None:
    folder = CONFIGS.parent / "volumetric" / "medvlp_volumetric" / "vocabulary"
    known = yaml.safe_load((folder / "names.yaml").read_text())["anatomies"]
    regions = load_experiment(CONFIGS / "volumetric" / "fvlm.yaml").data.regions
    assert set(regions.anatomies) == set(regions.names)
    assert {name for places in regions.anatomies.values() for name in places} <= set(known)
