"""Photographs of the retina: a domain that medvlp does not bring, added from outside."""

from __future__ import annotations

from medvlp.domain import Domain, Ref

DOMAIN = Domain(
    name="fundus",
    title="Retina photographs",
    probe=Ref("medvlp_fundus.read:probe"),
    resolve=Ref("medvlp_fundus.read:resolve"),
    preprocess={"fundus": Ref("medvlp_fundus.preprocess:FundusPreprocessConfig")},
    encoders={"patches": Ref("medvlp_fundus.encoder:PatchEncoderConfig")},
)
