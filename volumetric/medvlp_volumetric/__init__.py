"""The 3D CT domain."""

from __future__ import annotations

from medvlp.domain import Domain, Ref

DOMAIN = Domain(
    name="volumetric",
    title="3D CT",
    modalities=("CT",),
    dicom_unit="series",
    suffixes=(".nii", ".nii.gz"),
    kinds={"nifti": Ref("medvlp_volumetric.nifti:index_nifti")},
    probe=Ref("medvlp_volumetric.read:probe"),
    check_volume=Ref("medvlp_volumetric.check:check_volume"),
    resolve=Ref("medvlp_volumetric.read:resolve"),
    view=Ref("medvlp_volumetric.view:view"),
    preprocess={"ct": Ref("medvlp_volumetric.preprocess:CtPreprocessConfig")},
    encoders={
        "resnet3d": Ref("medvlp_volumetric.encoders:ResNet3dConfig"),
        "vit3d": Ref("medvlp_volumetric.encoders:Vit3dConfig"),
        "primus": Ref("medvlp_volumetric.encoders_primus:PrimusConfig"),
    },
    objectives={
        "masked-volume": Ref("medvlp_volumetric.losses.masked_volume:MaskedVolumeConfig"),
        "volume-ssl": Ref("medvlp_volumetric.losses.volume_ssl:VolumeSslConfig"),
    },
    phantom=Ref("medvlp_volumetric.phantom:PHANTOM"),
)
