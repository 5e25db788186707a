"""The 3D CT domain."""

from __future__ import annotations

from pathlib import Path

from medvlp.domain import Domain, Ref

DOMAIN = Domain(
    name="volumetric",
    title="3D CT",
    modalities=("CT",),
    dicom_unit="series",
    suffixes=(".nii", ".nii.gz"),
    kinds={
        "abdomenct-1k": Ref("medvlp_volumetric.sets.abdomenct_1k:index_abdomenct_1k"),
        "amos": Ref("medvlp_volumetric.sets.amos:index_amos"),
        "bimcv-r": Ref("medvlp_volumetric.sets.bimcv_r:index_bimcv_r"),
        "btcv": Ref("medvlp_volumetric.sets.btcv:index_btcv"),
        "ct-org": Ref("medvlp_volumetric.sets.ct_org:index_ct_org"),
        "ct-rate": Ref("medvlp_volumetric.sets.ct_rate:index_ct_rate"),
        "inspect-ctpa": Ref("medvlp_volumetric.sets.inspect_ctpa:index_inspect"),
        "m3d-cap": Ref("medvlp_volumetric.sets.m3d_cap:index_m3d_cap"),
        "merlin": Ref("medvlp_volumetric.sets.merlin:index_merlin"),
        "nifti": Ref("medvlp_volumetric.nifti:index_nifti"),
        "rad-chestct": Ref("medvlp_volumetric.sets.rad_chestct:index_rad_chestct"),
        "totalsegmentator": Ref("medvlp_volumetric.sets.totalsegmentator:index_totalsegmentator"),
    },
    probe=Ref("medvlp_volumetric.read:probe"),
    check_volume=Ref("medvlp_volumetric.check:check_volume"),
    resolve=Ref("medvlp_volumetric.read:resolve"),
    view=Ref("medvlp_volumetric.view:view"),
    preprocess={
        "ct": Ref("medvlp_volumetric.preprocess:CtPreprocessConfig"),
        "ct-slices": Ref("medvlp_volumetric.preprocess_slices:CtSlicesConfig"),
    },
    encoders={
        "ctvit": Ref("medvlp_volumetric.encoders.ctvit:CtvitConfig"),
        "i3d": Ref("medvlp_volumetric.encoders.i3d:I3dConfig"),
        "primus": Ref("medvlp_volumetric.encoders.primus:PrimusConfig"),
        "resnet3d": Ref("medvlp_volumetric.encoders.resnet3d:ResNet3dConfig"),
        "slices": Ref("medvlp_volumetric.encoders.slices:SlicesConfig"),
        "swin3d": Ref("medvlp_volumetric.encoders.swin3d:Swin3dConfig"),
        "turned": Ref("medvlp_volumetric.encoders.turned:TurnedConfig"),
        "vit3d": Ref("medvlp_volumetric.encoders.vit3d:Vit3dConfig"),
    },
    objectives={
        "hierarchical": Ref("medvlp_volumetric.losses.hierarchical:HierarchicalConfig"),
        "masked-volume": Ref("medvlp_volumetric.losses.masked_volume:MaskedVolumeConfig"),
        "organs": Ref("medvlp_volumetric.losses.organs:OrgansConfig"),
        "volume-ssl": Ref("medvlp_volumetric.losses.volume_ssl:VolumeSslConfig"),
    },
    imports={
        "colipri": Ref("medvlp_volumetric.imports.colipri:KIND"),
        "ct-clip": Ref("medvlp_volumetric.imports.ct_clip:KIND"),
        "fvlm": Ref("medvlp_volumetric.imports.fvlm:KIND"),
        "m3d-clip": Ref("medvlp_volumetric.imports.m3d_clip:KIND"),
        "merlin": Ref("medvlp_volumetric.imports.merlin:KIND"),
    },
    vocabulary=Path(__file__).with_name("vocabulary"),
    phantom=Ref("medvlp_volumetric.phantom:PHANTOM"),
)
