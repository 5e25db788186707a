"""The tour in miniature: stages, their order, and that a second call does nothing twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medvlp.data.prompts import load_prompts
from medvlp.demo import TOURS, Tour, run_demo
from medvlp.evaluate.protocol import load_protocol
from medvlp.train.experiment import load_experiment

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

SMALL = [
    "trainer.steps=2", "trainer.valid_every=2", "optim.warmup_steps=1", "data.batch_size=4",
    "data.phantom.settings=[size=64,masks=false]", "preprocess.size=32",
    "image.widths=[8,8,8,8]", "image.stem=8",
]  # fmt: skip
CXR = next(tour for tour in TOURS if tour.domain == "cxr")


@pytest.mark.slow
def test_tour_makes_a_report_and_is_done_once(tmp_path, capsys):
    tour = Tour(
        domain="cxr",
        controls=CXR.controls,
        protocols=("cxr-phantom",),
        fractions={"train": 0.5, "valid": 0.2, "test": 0.3},
    )
    page = run_demo(tmp_path / "out", [tour], SMALL, n=40)
    first = capsys.readouterr().out
    assert page == tmp_path / "out" / "predictions" / "report.html"
    assert page.stat().st_size > 10_000
    rows = json.loads(page.with_name("report.json").read_text())["rows"]
    models = {row["model"] for row in rows}
    assert models >= {"clip", "chance", "prevalence", "image-blind", "supervised-unimodal"}
    assert "done before" not in first
    again = run_demo(tmp_path / "out", [tour], SMALL, n=40)
    second = capsys.readouterr().out
    assert again == page
    assert second.count("done before") == 5


@pytest.mark.parametrize("tour", TOURS, ids=lambda tour: tour.domain)
def test_the_tours_files_load_and_fit_each_other(tour):
    experiment = load_experiment(CONFIGS / "demo" / f"{tour.domain}.yaml")
    assert experiment.domain == tour.domain
    prompts = load_prompts(CONFIGS / "demo" / experiment.prompts)
    protocols = [load_protocol(CONFIGS / "evaluate" / f"{n}.yaml") for n in tour.protocols]
    assert {protocol.domain for protocol in protocols} == {tour.domain}
    # The thresholds and temperature in the bundle hold for the prompts that are evaluated.
    assert protocols[0].task.prompts.digest == prompts.digest
    held_out = tour.fractions["test"] * experiment.data.phantom.n
    assert held_out > 220 or tour.domain == "video"


def test_the_tour_shows_every_domain_with_its_image_blind_control():
    assert [tour.domain for tour in TOURS] == ["cxr", "volumetric", "video"]
    assert all("image-blind" in tour.controls for tour in TOURS)
