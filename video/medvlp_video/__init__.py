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
    encoders={"frames": Ref("medvlp_video.encoders:FrameEncoderConfig")},
    tasks={
        "tools": Ref("medvlp_video.tasks.tools:ToolsConfig"),
        "triplets": Ref("medvlp_video.tasks.triplets:TripletsConfig"),
        "temporal-retrieval": Ref("medvlp_video.tasks.moments:MomentsConfig"),
    },
    proxies=Ref("medvlp_video.proxy_make:PROXIES"),
    phantom=Ref("medvlp_video.phantom:PHANTOM"),
)
