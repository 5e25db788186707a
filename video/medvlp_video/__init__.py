"""The surgical video domain."""

from __future__ import annotations

from medvlp.domain import Domain, Ref

DOMAIN = Domain(
    name="video",
    title="Surgical video",
    suffixes=(".avi", ".mkv", ".mov", ".mp4", ".webm"),
    kinds={
        "video": Ref("medvlp_video.source:index_video"),
        "cholect50": Ref("medvlp_video.cholect50:index_cholect50"),
    },
    probe=Ref("medvlp_video.read:probe"),
    resolve=Ref("medvlp_video.read:resolve"),
    view=Ref("medvlp_video.view:view"),
    recording=Ref("medvlp_video.recordings:recording"),
    preprocess={"clip": Ref("medvlp_video.preprocess:ClipPreprocessConfig")},
    encoders={
        "frames": Ref("medvlp_video.encoders:FrameEncoderConfig"),
        "timesformer": Ref("medvlp_video.timesformer:TimesformerConfig"),
    },
    objectives={
        "ego-nce": Ref("medvlp_video.losses.ego_nce:EgoNceConfig"),
        "hierarchy": Ref("medvlp_video.losses.hierarchy:HierarchyConfig"),
        "memory": Ref("medvlp_video.losses.memory:MemoryConfig"),
        "mil-nce": Ref("medvlp_video.losses.mil_nce:MilNceConfig"),
        "procedural": Ref("medvlp_video.losses.procedural:ProceduralConfig"),
        "video-ssl": Ref("medvlp_video.losses.video_ssl:VideoSslConfig"),
    },
    tasks={
        "tools": Ref("medvlp_video.tasks.tools:ToolsConfig"),
        "triplets": Ref("medvlp_video.tasks.triplets:TripletsConfig"),
        "temporal-retrieval": Ref("medvlp_video.tasks.moments:MomentsConfig"),
    },
    imports={
        "hecvl": Ref("medvlp_video.imports.camma:HECVL"),
        "peskavlp": Ref("medvlp_video.imports.camma:PESKAVLP"),
        "surgclip": Ref("medvlp_video.imports.surgclip:KIND"),
        "surgvlp": Ref("medvlp_video.imports.camma:SURGVLP"),
    },
    phantom=Ref("medvlp_video.phantom:PHANTOM"),
)
