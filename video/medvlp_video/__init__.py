"""The surgical video domain."""

from __future__ import annotations

from medvlp.domain import Domain, Ref

DOMAIN = Domain(
    name="video",
    title="Surgical video",
    suffixes=(".avi", ".mkv", ".mov", ".mp4", ".webm"),
    kinds={
        "autolaparo": Ref("medvlp_video.sets.autolaparo:index_autolaparo"),
        "cataract-1k": Ref("medvlp_video.sets.cataract_1k:index_cataract_1k"),
        "cholec80": Ref("medvlp_video.sets.cholec80:index_cholec80"),
        "cholect50": Ref("medvlp_video.sets.cholect50:index_cholect50"),
        "grasp": Ref("medvlp_video.sets.grasp:index_grasp"),
        "lime": Ref("medvlp_video.sets.lime:index_lime"),
        "multibypass140": Ref("medvlp_video.sets.multibypass140:index_multibypass140"),
        "ophnet": Ref("medvlp_video.sets.ophnet:index_ophnet"),
        "surglavi": Ref("medvlp_video.sets.surglavi:index_surglavi"),
        "svl": Ref("medvlp_video.sets.svl:index_svl"),
        "video": Ref("medvlp_video.source:index_video"),
    },
    probe=Ref("medvlp_video.read:probe"),
    recordings=True,
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
        "order": Ref("medvlp_video.tasks.order:OrderConfig"),
    },
    imports={
        "hecvl": Ref("medvlp_video.imports.camma:HECVL"),
        "peskavlp": Ref("medvlp_video.imports.camma:PESKAVLP"),
        "surgclip": Ref("medvlp_video.imports.surgclip:KIND"),
        "surgvlp": Ref("medvlp_video.imports.camma:SURGVLP"),
    },
    proxies=Ref("medvlp_video.proxy_make:PROXIES"),
    phantom=Ref("medvlp_video.phantom:PHANTOM"),
    commands={
        "narrate": Ref("medvlp_video.narration.command:narrate"),
        "timeline": Ref("medvlp_video.timeline.command:timeline"),
    },
)
