"""CT that a user's own table names is judged by its values, as every other kind judges it."""

import numpy as np
import pytest
from minivolumes import affine, body, nifti

from medvlp.archive.duplicates.across import compare_manifests
from medvlp.archive.index import index_archive
from medvlp.data.manifest import Manifest
from medvlp.errors import ConfigError
from medvlp.phantom.write import write_phantom
from medvlp_volumetric.read import read_ct


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    root = tmp_path_factory.mktemp("hospital")
    write_phantom("volumetric", root / "pacs", n=1, seed=1, settings=["size=48", "slices=24"])
    (series,) = {path.parent for path in (root / "pacs").rglob("*.dcm")}
    place = affine()
    nifti(root / "a.nii.gz", body(1, (64, 60, 12)), place)
    nifti(root / "again.nii.gz", body(1, (64, 60, 12)), place)
    nifti(root / "mr.nii.gz", np.abs(body(2)), place)
    metal = body(3)
    metal[12, 10] = 2000  # or nothing would be as bright as bone any more
    nifti(root / "twice.nii.gz", metal - 1024, place)
    nifti(root / "mask.nii.gz", (body(4) > 0).astype(np.int16), place)
    names = ["a.nii.gz", "again.nii.gz", "mr.nii.gz", "twice.nii.gz", "mask.nii.gz"]
    rows = [f"{name},p{i}" for i, name in enumerate([*names, series.relative_to(root)])]
    (root / "t.csv").write_text("\n".join(["path,patient", *rows]))
    return root


def index(archive, out, *settings):
    index_archive(archive / "t.csv", kind="table", out=out,
                  overrides=["domain=volumetric", "workers=1", *settings])  # fmt: skip
    return Manifest.open(out)


def test_what_is_no_ct_stays_out_and_copies_are_found(archive, tmp_path):
    manifest = index(archive, tmp_path / "m")
    assert sorted(manifest.rejects["code"]) == ["double_rescale", "label_map", "not_hu"]
    assert manifest.samples.height == 3
    assert manifest.duplicates.height == 1
    assert compare_manifests([manifest.path]).compared == 3
    rows = {row["kind"]: row for row in manifest.samples.iter_rows(named=True)}
    assert rows["nifti"]["spacing_mm"] == pytest.approx([2.5, 0.8, 0.8], abs=1e-5)
    (series,) = manifest.samples.filter(modality="CT", reader="pydicom").iter_rows(named=True)
    assert series["shape"] == [24, 48, 48]


def test_what_is_accepted_is_flagged_and_read(archive, tmp_path):
    manifest = index(archive, tmp_path / "m", "options.accept_not_hu=true")
    assert manifest.rejects["code"].to_list() == ["label_map"]
    told = [set(row["flags"] or ()) & {"not_hu", "double_rescale"}
            for row in manifest.samples.iter_rows(named=True)]  # fmt: skip
    assert sorted(map(sorted, told)) == [[], [], [], ["double_rescale"], ["not_hu"]]
    for row in manifest.samples.iter_rows(named=True):
        paths = manifest.paths(row["source"])
        assert read_ct(paths, row["flags"] or ()).hu_DHW.ndim == 3


def test_only_ct_may_be_of_another_scale(archive, tmp_path):
    with pytest.raises(ConfigError, match="is for CT, not for cxr"):
        index_archive(archive / "t.csv", kind="table", out=tmp_path / "m",
                      overrides=["domain=cxr", "options.accept_not_hu=true"])  # fmt: skip
