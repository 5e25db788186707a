"""`medvlp zeroshot` over files: what it writes, what it refuses, what it leaves behind."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import medvlp
from medvlp.data.prompts import prompts_from_labels
from medvlp.errors import BundleError, ConfigError, InputError
from medvlp.evaluate import zeroshot
from medvlp.evaluate.zeroshot import choose_prompts, zeroshot_files
from medvlp.models.heatmap import Heatmap


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures") / "new"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(rng.integers(0, 255, (40, 36), dtype=np.uint8)).save(folder / f"{i:02}.png")
    (folder / "07.png").write_bytes(b"no picture at all")
    return folder


def run(bundle, inputs, **options):
    shown = io.StringIO()
    full = {"prompts": None, "labels": None, "csv": None, "json_file": None, "heatmaps": None}
    code = zeroshot_files(
        bundle, inputs, **(full | options), console=Console(file=shown, width=150)
    )
    return code, shown.getvalue()


def test_rows_equal_the_bundle_and_bad_files_are_listed(tiny_bundle, pictures, tmp_path):
    bundle = tiny_bundle("cxr")
    code, shown = run(bundle, [pictures], csv=tmp_path / "s.csv", json_file=tmp_path / "s.jsonl")
    assert code == 0
    assert "read 19 of 20" in shown
    assert "refused 1: not_a_picture 1" in shown
    with (tmp_path / "s.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["row"]) for row in rows] == list(range(1, 21))
    assert rows[7]["status"] == "not_a_picture"
    assert rows[7]["edema"] == ""
    good = [row for row in rows if row["status"] == "read"]
    assert [row["input"] for row in good][:2] == [
        str(pictures / "00.png"),
        str(pictures / "01.png"),
    ]
    scores = medvlp.load(bundle).zero_shot([row["input"] for row in good])
    got = np.array([[float(row[name]) for name in scores.names] for row in good])
    np.testing.assert_allclose(got, scores.probability_NL, atol=1e-6)
    records = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert records[7] == {"row": 8, "input": str(pictures / "07.png"), "status": "not_a_picture"}
    assert records[0]["probability"]["edema"] == pytest.approx(got[0, 0], abs=1e-6)
    assert records[0]["present"] == {"edema": None, "cardiomegaly": None}


def test_labels_pick_columns_and_keep_the_scores(tiny_bundle, pictures, tmp_path):
    bundle = tiny_bundle("cxr")
    one = pictures / "00.png"
    run(bundle, [one], csv=tmp_path / "all.csv")
    run(bundle, [one], csv=tmp_path / "one.csv", labels="Cardiomegaly")
    header, row = (tmp_path / "one.csv").read_text().split()
    assert header == "row,input,status,cardiomegaly"
    assert row.split(",")[-1] == (tmp_path / "all.csv").read_text().split()[1].split(",")[-1]


def test_prompt_file_is_used(tiny_bundle, pictures, tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text("mode: exclusive\nlabels: {a: {positive: [One.]}, b: {positive: [Two.]}}\n")
    run(tiny_bundle("cxr"), [pictures / "00.png"], csv=tmp_path / "s.csv", prompts=file)
    header, row = (tmp_path / "s.csv").read_text().split()
    assert header == "row,input,status,a,b"
    assert sum(map(float, row.split(",")[3:])) == pytest.approx(1, abs=1e-5)


def test_heatmaps_are_named_by_number(tiny_bundle, pictures, tmp_path):
    run(tiny_bundle("cxr"), [pictures / "03.png"], heatmaps=tmp_path / "maps")
    names = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert names == ["00001-01-edema.png", "00001-02-cardiomegaly.png"]
    with Image.open(tmp_path / "maps" / names[0]) as picture:
        assert picture.size == (32, 32)


def test_overlay_leaves_the_coldest_place_as_it_is():
    picture = np.full((2, 2, 3), 100, np.uint8)
    map_HW = np.array([[0.0, 0.5], [0.5, 1.0]], np.float32)
    heatmap = Heatmap(text="x", picture=picture, map_HW=map_HW, similarity=0, grid=map_HW)
    mixed = heatmap.overlay()
    assert mixed[0, 0].tolist() == [100, 100, 100]
    # The hottest place is 45 % of inferno's last colour (252, 255, 164).
    assert np.abs(mixed[1, 1] - np.array([168.6, 169.7, 129.0])).max() < 1.1


def test_nothing_readable_is_exit_4_and_says_why(tiny_bundle, pictures, tmp_path):
    code, shown = run(tiny_bundle("cxr"), [pictures / "07.png"], csv=tmp_path / "s.csv")
    assert code == 4
    assert "read 0 of 1" in shown


def test_series_are_scored_by_folder(tiny_bundle, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    volume = np.random.default_rng(0).integers(-1000, 500, (20, 20, 12)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([2.0, 2, 3, 1])), tmp_path / "v.nii.gz")
    code, shown = run(tiny_bundle("volumetric"), [tmp_path], heatmaps=tmp_path / "maps")
    assert code == 0
    assert "read 1 of 1" in shown
    words = ("01-edema", "02-cardiomegaly")
    ends = ("-montage.png", ".nii.gz", ".png")
    names = [f"00001-{word}{end}" for word in words for end in ends]
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == sorted(names)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"labels": "edema,pnuemothorax"}, InputError, "'pnuemothorax'"),
        ({"labels": "edema", "prompts": "x.yaml"}, InputError, "both given"),
        ({"prompts": "empty.yaml"}, ConfigError, "is empty"),
        ({"prompts": "absent.yaml"}, ConfigError, "absent.yaml"),
    ],
)
def test_wrong_prompts_are_refused(tiny_bundle, pictures, tmp_path, options, error, says):
    (tmp_path / "empty.yaml").write_text("")
    if "prompts" in options:
        options = options | {"prompts": tmp_path / options["prompts"]}
    with pytest.raises(error, match=says):
        run(tiny_bundle("cxr"), [pictures], csv=tmp_path / "s.csv", **options)
    assert not (tmp_path / "s.csv").exists()


def test_labels_of_a_bundle_without_prompts_are_free():
    asked = choose_prompts(None, None, "scoliosis, edema")
    assert asked.names == ("scoliosis", "edema")
    assert asked.prompts == prompts_from_labels(["scoliosis", "edema"])
    with pytest.raises(InputError, match="no prompts"):
        choose_prompts(None, None, None)


def test_missing_input_and_damaged_bundle(tiny_bundle, pictures, tmp_path):
    with pytest.raises(InputError, match="input 2 of 2 does not exist"):
        run(tiny_bundle("cxr"), [pictures, tmp_path / "absent"])
    with pytest.raises(BundleError):
        run(pictures, [pictures])


def test_interruption_leaves_nothing(tiny_bundle, pictures, tmp_path, monkeypatch):
    def interrupted(*args):
        yield from ()
        raise KeyboardInterrupt

    monkeypatch.setattr(zeroshot, "score_sources", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_bundle("cxr"), [pictures], csv=tmp_path / "s.csv")
    assert list(tmp_path.iterdir()) == []
