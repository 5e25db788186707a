"""The chest X-ray domain."""

from __future__ import annotations

from medvlp.domain import Domain, Ref

DOMAIN = Domain(
    name="cxr",
    title="Chest X-ray",
    modalities=("CR", "DX"),
    dicom_unit="file",
    suffixes=(".png", ".jpg", ".jpeg", ".tif", ".tiff"),
    kinds={
        "nih-cxr14": Ref("medvlp.cxr.sets.nih:index_nih"),
        "open-i": Ref("medvlp.cxr.sets.open_i:index_open_i"),
    },
    probe=Ref("medvlp.cxr.read:probe"),
    resolve=Ref("medvlp.cxr.read:resolve"),
    view=Ref("medvlp.cxr.view:view"),
    preprocess={"cxr": Ref("medvlp.cxr.preprocess:CxrPreprocessConfig")},
    phantom=Ref("medvlp.cxr.phantom:PHANTOM"),
)
