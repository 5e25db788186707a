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
    preprocess={
        "ct": Ref("medvlp_volumetric.preprocess:CtPreprocessConfig"),
        "ct-slices": Ref("medvlp_volumetric.preprocess_slices:CtSlicesConfig"),
    },
    encoders={
        "resnet3d": Ref("medvlp_volumetric.encoders.resnet3d:ResNet3dConfig"),
        "slices": Ref("medvlp_volumetric.encoders.slices:SlicesConfig"),
        "swin3d": Ref("medvlp_volumetric.encoders.swin3d:Swin3dConfig"),
        "vit3d": Ref("medvlp_volumetric.encoders.vit3d:Vit3dConfig"),
    },
    phantom=Ref("medvlp_volumetric.phantom:PHANTOM"),
)
