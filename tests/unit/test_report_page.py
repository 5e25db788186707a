"""What the page says, and that everybody can read it: structure, contrast, no network."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from medvlp.evaluate.metrics.estimate import metric_rows, plain_rows
from medvlp.evaluate.metrics.findings import finding_measures
from medvlp.evaluate.predictions import PREDICTIONS
from medvlp.evaluate.published import published
from medvlp.report.build import build_report
from medvlp.report.checklists.fill import FACTS, checklists
from medvlp.report.folder import ProtocolFolder
from medvlp.report.summary import sentences

MODELS = (("mine", 2.0, False), ("weak", 0.0, False), ("chance", 0.0, True))


def rows(rng):
    for model, skill, control in MODELS:
        for i in range(120):
            label = int(rng.random() < 0.4)
            yield dict.fromkeys(PREDICTIONS.names()) | {
                "model": model, "protocol": "p", "seed": 0, "sample": f"s{i}",
                "patient": f"p{i // 2}", "name": "edema", "label": label, "sex": "FM"[i % 2],
                "score": float(1 / (1 + np.exp(-rng.normal() - skill * label))),
                "control": control,
            }  # fmt: skip


def subgroup(group, *, suppressed=False, value=0.7):
    return {
        "domain": "cxr", "protocol": "findings", "model": "mine", "control": False,
        "metric": "auroc_macro", "name": "all", "column": "age_band", "group": group,
        "suppressed": suppressed, "worst": False, "value": None if suppressed else value,
        "low": None if suppressed else 0.6, "high": None if suppressed else 0.8,
        "n": 0 if suppressed else 77,
    }  # fmt: skip


def write_folder(folder, *, kind="zero-shot", metric_list=None, **more):
    frame = pl.DataFrame(list(rows(np.random.default_rng(0))), schema=PREDICTIONS)
    folder.mkdir(parents=True)
    frame.write_parquet(folder / "predictions.parquet")
    found = metric_list or plain_rows(
        metric_rows(
            frame, lambda *_: finding_measures({}), domain="cxr", draws=200, confidence=0.95, seed=0
        )
    )
    metrics = {
        "domain": "cxr", "protocol": folder.name, "version": 1, "digest": "ab" * 32,
        "counts": {"unknown_labels": 5}, "undefined_draws": [], "artefacts": {}, "rows": found,
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics | more))
    told = [{"name": name, "digest": "cd" * 32, "control": None} for name in ("mine", "weak")]
    (folder / "bundles.json").write_text(json.dumps(told))
    protocol = {
        "name": folder.name, "version": 1, "domain": "cxr", "task": {"kind": kind},
        "data": {"split": "test"}, "bootstrap": {"draws": 200, "confidence": 0.95, "seed": 0},
    }  # fmt: skip
    (folder / "protocol.yaml").write_text(yaml.safe_dump(protocol))


def axis_row(model, value, *, control=False):
    return {
        "domain": "cxr", "protocol": "sides", "model": model, "control": control,
        "metric": "robustness", "name": "laterality", "value": value, "low": value - 0.02,
        "high": value + 0.02, "n": 500, "seeds": 1, "seed_sd": None,
    }  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    write_folder(
        root / "benchx-covidx-finetune-1",
        subgroups=[subgroup("0-39"), subgroup("80+", suppressed=True), subgroup("gap", value=0.1)],
        leaks=[{"kind": "patient", "between": ["split test", "split train"], "count": 4, "of": 120,
                "model": None, "detail": "4 patients stand in both", "allowed": True}],
        leaks_unchecked=["training of weak"],
        controls={"chance": "row", "border-only": "there is no training split to fit it on"},
    )  # fmt: skip
    write_folder(
        root / "sides",
        kind="laterality",
        metric_list=[axis_row("mine", 0.91), axis_row("chance", 0.5, control=True)],
    )
    column = {"protocol": "benchx-covidx-finetune-1", "domain": "cxr", "metric": "auroc_macro",
              "name": "all", "low_is_better": False}  # fmt: skip
    rank = {"domain": "cxr", "model": "mine", "rank": 1.0, "low": 1.0, "high": 1.5, "columns": 1}
    failed = {
        "protocol": "benchx-covidx-finetune-1",
        "model": "lost",
        "key": "k",
        "state": "failed",
    }
    index = {"columns": [column], "ranks": [rank], "cells": [failed], "refused": []}
    (root / "suite.json").write_text(json.dumps(index))
    return build_report(root).read_text()


class Outline(HTMLParser):
    """Elements with their attributes, and the way down to each."""

    VOID = frozenset({"meta", "img", "br", "line", "rect", "use", "path"})

    def __init__(self, text):
        super().__init__()
        self.open, self.found = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs), tuple(self.open)))
        if tag not in self.VOID:
            self.open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs), tuple(self.open)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open, tag
            assert self.open[-1][0] == tag, (tag, self.open[-1])
            self.open.pop()

    def all(self, *tags):
        return [entry for entry in self.found if entry[0] in tags]


@pytest.fixture(scope="module")
def outline(page):
    return Outline(page)


def test_headings_go_down_one_step_at_a_time(outline):
    levels = [int(tag[1]) for tag, _, _ in outline.all("h1", "h2", "h3", "h4", "h5")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_landmarks_and_skip_link(outline):
    assert {tag: len(outline.all(tag)) for tag in ("header", "nav", "main", "footer")} == {
        "header": 1, "nav": 1, "main": 1, "footer": 1
    }  # fmt: skip
    ids = {attrs.get("id") for _, attrs, _ in outline.found}
    links = [attrs["href"] for tag, attrs, _ in outline.all("a")]
    assert links[0] == "#summary"
    assert all(link[0] == "#" and link[1:] in ids for link in links)
    assert outline.all("html")[0][1]["lang"] == "en"


def test_every_table_has_caption_and_scopes(outline):
    captions = [above[-1][0] for tag, _, above in outline.all("caption")]
    assert captions == ["table"] * len(outline.all("table"))
    assert all(attrs.get("scope") in ("col", "row") for _, attrs, _ in outline.all("th"))


def test_figures_have_words_or_are_hidden(outline):
    for _, attrs, above in outline.all("svg"):
        named = [a for _, a in above if a.get("role") == "img"]
        assert attrs.get("aria-hidden") == "true"
        if "bar" not in attrs.get("class", ""):
            assert named
            assert len(named[0]["aria-label"]) > 20
    assert all(attrs.get("alt") for _, attrs, _ in outline.all("img"))


def test_what_scrolls_can_be_reached_by_keyboard(outline):
    scrolling = [a for _, a, _ in outline.found if "scroll" in a.get("class", "").split()]
    assert scrolling
    assert all(a.get("tabindex") == "0" and a.get("aria-label") for a in scrolling)
    names = [a["aria-label"] for a in scrolling]
    assert len(set(names)) == len(names)


def test_the_page_asks_for_nothing_outside(outline, page):
    for tag, attrs, _ in outline.found:
        assert tag not in ("script", "link", "iframe", "object", "base", "form")
        for key in ("src", "href", "xlink:href", "srcset", "action"):
            assert attrs.get(key, "#").startswith(("#", "data:"))
    assert not re.search(r"@import|url\((?!#)|https?://", page)


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def six(colour):
    return colour if len(colour) == 7 else "#" + "".join(2 * c for c in colour[1:])


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_text_stands_out_from_its_ground(page, scheme):
    style = page[page.index("<style>") : page.index("</style>")]
    dark = r"@media \(prefers-color-scheme: dark\) \{\s*:root \{([^}]*)\}"
    blocks = {"light": [], "dark": re.findall(dark, style),
              "print": re.findall(r"@media print \{ :root \{([^}]*)\}", style)}  # fmt: skip
    base = re.findall(r"(?m)(?:^|\}):root \{([^}]*)\}", style)
    assert len(base) == 2
    values = {}
    for block in [*base, *blocks[scheme]]:
        values |= {n: six(v) for n, v in re.findall(r"--([\w-]+): (#[0-9a-f]+)", block)}
    for ground in ("page", "card", "hint"):
        for ink in ("ink", "soft", "control", "accent", "good", "warn"):
            assert contrast(values[ink], values[ground]) >= 4.5, (scheme, ink, ground)
    assert contrast(values["ink"], values["tint-warn"]) >= 4.5


def test_the_summary_says_whom_what_and_what_not(page):
    assert "Tested on 120 samples of 60 patients (split test)." in page
    assert re.search(r"mine: AUROC, mean 0\.\d{3}, between", page)
    assert "mine is clearly better than every control (chance)." in page
    assert "weak is not clearly better than chance (0.500)." in page
    assert "weak is not clearly better than: chance." in page
    assert "Leaks were found and let through (patient)" in page


def test_paired_comparisons_decide_where_they_are_there(tmp_path):
    """Intervals that overlap may hide a clear paired difference, and the other way round."""
    pair = {"metric": "auroc_macro", "name": "all", "first": "mine", "second": "chance",
            "difference": 0.1, "low": -0.1, "high": 0.3}  # fmt: skip
    write_folder(tmp_path / "a", comparisons=[pair], leaks=[])
    told = [line["text"] for line in sentences(ProtocolFolder(tmp_path / "a"))]
    assert "mine is not clearly better than: chance." in told
    write_folder(tmp_path / "b", comparisons=[pair | {"low": 0.05}], leaks=[])
    told = [line["text"] for line in sentences(ProtocolFolder(tmp_path / "b"))]
    assert "mine is clearly better than every control (chance)." in told
    assert told[-1] == "No leak between training and test data was found."


def test_a_leak_nobody_looked_for_is_said(tmp_path):
    write_folder(tmp_path / "a")
    last = sentences(ProtocolFolder(tmp_path / "a"))[-1]
    assert last["tone"] == "warn"
    assert "not looked for" in last["text"]


def test_small_groups_show_no_number(page):
    cell = re.search(r'<th scope="row">80\+.*?</tr>', page, re.DOTALL).group()
    assert "too few to show" in cell
    assert not re.search(r"\d\.\d|>\d+<", cell.replace("80+", ""))
    assert "kept\nback (1 cell)" in page or "kept back (1 cell)" in page


def test_cards_tell_leaks_controls_and_what_was_not_looked_at(page):
    assert "4 patients stand in both" in page
    assert "Could not be looked at: training of weak." in page
    assert "<dt>border-only</dt><dd>there is no training split to fit it on</dd>" in page


def test_head_to_head_and_published_numbers(page):
    part = page[page.index('id="head-to-head"') : page.index('id="robustness"')]
    assert "1.00" in part
    assert "failed" in part
    assert "Published, not re-run." in part
    assert "F1 = 66.7" in part


def test_robustness_names_axes_that_are_missing(page):
    part = page[page.index('id="robustness"') : page.index('id="part0"')]
    assert "Tells left from right" in part
    assert "0.910" in part
    assert "Not evaluated: polarity, severity, grounded, corruption, adversarial." in part


def test_decision_curves_are_drawn_where_there_is_net_benefit(page, tmp_path):
    assert "Decision curves" in page
    write_folder(tmp_path / "a", metric_list=[axis_row("mine", 0.9) | {"metric": "auroc"}])
    assert "Decision curves" not in build_report(tmp_path).read_text()


def test_checklists_have_their_items_and_say_who_must_write(page):
    found = {c.name: c for c in checklists()}
    assert {name: len(c.items) for name, c in found.items()} == {"CLAIM 2024": 44, "TRIPOD+AI": 27}
    for checklist in found.values():
        numbers = [item.number for item in checklist.items]
        assert numbers == [str(k + 1) for k in range(len(numbers))]
        assert {name for item in checklist.items for name in item.knows} <= set(FACTS)
        assert all(item.knows or item.person for item in checklist.items)
    part = page[page.index('id="checklists"') :]
    assert part.count('class="todo"') > 40
    assert "benchx-covidx-finetune-1: 60 patients, 120 samples" in part


@pytest.mark.parametrize(
    ("protocol", "models", "first"),
    [("benchx-nih-finetune-1", 10, 77.0), ("cholec80-surglavi", 7, None), ("cataract-1k", 2, None)],
)
def test_published_numbers_belong_to_a_protocol(protocol, models, first):
    parts = published([protocol])
    assert sum(len(part.models) for part in parts) == models
    assert all(column.protocol == protocol for part in parts for column in part.columns)
    if first is not None:
        assert parts[0].models["ConVIRT"][0] == first
    assert published(["nowhere"]) == []


def test_no_template_grows_long():
    folder = Path(__file__).resolve().parents[2] / "medvlp" / "report" / "templates" / "report"
    assert all(len(path.read_text().splitlines()) <= 90 for path in folder.glob("*.j2"))
