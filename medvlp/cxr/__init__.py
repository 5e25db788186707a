"""The chest X-ray domain."""

from __future__ import annotations

from pathlib import Path

from medvlp.domain import Domain, Ref

DOMAIN = Domain(
    name="cxr",
    title="Chest X-ray",
    modalities=("CR", "DX"),
    dicom_unit="file",
    suffixes=(".png", ".jpg", ".jpeg", ".tif", ".tiff"),
    kinds={
        "chexpert": Ref("medvlp.cxr.sets.chexpert:index_chexpert"),
        "chexpert-plus": Ref("medvlp.cxr.sets.chexpert_plus:index_chexpert_plus"),
        "covidx-cxr4": Ref("medvlp.cxr.sets.covidx:index_covidx"),
        "iu-xray": Ref("medvlp.cxr.sets.r2gen:index_iu_xray"),
        "mimic-cxr": Ref("medvlp.cxr.sets.mimic:index_mimic"),
        "ms-cxr": Ref("medvlp.cxr.sets.ms_cxr:index_ms_cxr"),
        "nih-cxr14": Ref("medvlp.cxr.sets.nih:index_nih"),
        "object-cxr": Ref("medvlp.cxr.sets.object_cxr:index_object_cxr"),
        "open-i": Ref("medvlp.cxr.sets.open_i:index_open_i"),
        "padchest": Ref("medvlp.cxr.sets.padchest:index_padchest"),
        "rsna-pneumonia": Ref("medvlp.cxr.sets.rsna:index_rsna"),
        "siim-acr": Ref("medvlp.cxr.sets.siim:index_siim"),
        "tbx11k": Ref("medvlp.cxr.sets.tbx11k:index_tbx11k"),
        "vindr-cxr": Ref("medvlp.cxr.sets.vindr:index_vindr"),
    },
    probe=Ref("medvlp.cxr.read:probe"),
    resolve=Ref("medvlp.cxr.read:resolve"),
    view=Ref("medvlp.cxr.view:view"),
    preprocess={"cxr": Ref("medvlp.cxr.preprocess:CxrPreprocessConfig")},
    vocabulary=Path(__file__).with_name("vocabulary"),
    phantom=Ref("medvlp.cxr.phantom:PHANTOM"),
)
