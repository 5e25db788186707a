"""The CT phantom's findings: which a study has, and how each is painted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from medvlp.phantom.grammar import Finding
from medvlp_volumetric.phantom_draw import SIGN, VERTEBRA_MM, Array, Box, Volume

NAMES = (
    "cardiomegaly", "pericardial_effusion", "aortic_aneurysm", "pleural_effusion", "emphysema",
    "consolidation", "lung_nodule", "liver_lesion", "splenomegaly", "renal_cyst", "kidney_stone",
    "vertebral_fracture",
)  # fmt: skip

_NORMAL = 0.25
_EQUIVOCAL = 0.06
_FAINT = 0.4
_CAN_BE_DOUBTED = frozenset({"consolidation", "lung_nodule", "liver_lesion", "pleural_effusion"})
_SEVERITY = ("mild", "moderate", "severe")
_AMOUNT = ("small", "moderate", "large")
_SIZE_MM: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "aortic_aneurysm": (52, 80), "lung_nodule": (26, 54), "liver_lesion": (36, 66),
        "splenomegaly": (140, 180), "renal_cyst": (38, 64), "kidney_stone": (16, 28),
    }
)  # fmt: skip
_PLACES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "aortic_aneurysm": ("abdominal", "descending thoracic"),
        "consolidation": ("upper lobe", "lower lobe"), "lung_nodule": ("upper lobe", "lower lobe"),
        "liver_lesion": ("dome", "inferior segment"), "vertebral_fracture": ("T8", "T10", "L1"),
    }
)  # fmt: skip
_SIDED = frozenset(
    {"pleural_effusion", "consolidation", "lung_nodule", "renal_cyst", "kidney_stone"}
)
_GRADED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "cardiomegaly": _SEVERITY, "emphysema": _SEVERITY, "pericardial_effusion": _AMOUNT,
        "pleural_effusion": _AMOUNT,
    }
)  # fmt: skip
_LEVEL_Z = MappingProxyType({"T8": 3, "T10": 1, "L1": -2})
"""Vertebrae above the volume's middle."""


def draw_findings(rng: np.random.Generator, choice: tuple[str, ...] = NAMES) -> list[Finding]:
    """The findings of one study, drawn from `choice`; a quarter of studies have none."""
    if rng.random() < _NORMAL:
        return []
    count = int(rng.choice((1, 2, 3, 4), p=(0.15, 0.35, 0.35, 0.15)))
    names = {str(name) for name in rng.permutation(choice)[:count]}
    taken: set[str] = set()
    return [_draw_finding(rng, name, taken) for name in NAMES if name in names]


def _draw_finding(rng: np.random.Generator, name: str, taken: set[str]) -> Finding:
    side = str(rng.choice(("left", "right"))) if name in _SIDED else ""
    places = [str(p) for p in rng.permutation(_PLACES.get(name, ("",)))]
    place = next((p for p in places if f"{side} {p}" not in taken), places[0])
    taken.add(f"{side} {place}")
    if name == "pleural_effusion":
        taken.add(f"{side} lower lobe")
    size = float(np.round(rng.uniform(*_SIZE_MM[name]))) if name in _SIZE_MM else None
    severity = str(rng.choice(_GRADED[name])) if name in _GRADED else ""
    doubted = name in _CAN_BE_DOUBTED and rng.random() < _EQUIVOCAL
    return Finding(
        name=name, side=side, place=place, severity=severity, size_mm=size,
        presence=-1.0 if doubted else 1.0,
    )  # fmt: skip


def grade(finding: Finding) -> int:
    """0, 1 or 2 from mild or small to severe or large."""
    return _GRADED[finding.name].index(finding.severity)


def _shown(volume: Volume, finding: Finding, box: Box, cover: Array, hu: float | Array) -> None:
    """Blend a lesion in, faintly if it is equivocal, and record where it is."""
    volume.blend(box, cover * np.float32(_FAINT if finding.presence < 0 else 1.0), hu)
    volume.mark(finding, box, cover)


def _lung_spot(
    volume: Volume, finding: Finding, rng: np.random.Generator
) -> tuple[float, float, float]:
    upper = finding.place == "upper lobe"
    rz = volume.build.lung[2]
    return (
        SIGN[finding.side] * float(rng.uniform(68, 84)),
        float(rng.uniform(-25, 5) if upper else rng.uniform(10, 32)),
        volume.build.dome
        + rz * float(rng.uniform(0.5, 0.68) if upper else rng.uniform(0.12, 0.28)),
    )


def _nodule(volume: Volume, finding: Finding, rng: np.random.Generator) -> None:
    r = (finding.size_mm or 0) / 2
    box, depth = volume.inside(_lung_spot(volume, finding, rng), (r, r, r))
    _shown(volume, finding, box, volume.cover(depth, r), 50.0)


def _consolidation(volume: Volume, finding: Finding, rng: np.random.Generator) -> None:
    box, depth = volume.inside(_lung_spot(volume, finding, rng), (44, 48, 46))
    ragged = depth + 0.25 * _lumps(rng, depth.shape)
    lung = volume.organ(f"{finding.side} lung")[box]
    _shown(volume, finding, box, volume.cover(ragged, 20) * lung, 25.0)


def _lumps(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Smooth noise with about unit spread, from waves in random directions."""
    total = np.zeros(shape, dtype=np.float32)
    z, y, x = (np.linspace(0, 1, n, dtype=np.float32) for n in shape)
    for _ in range(6):
        a, b, c = (float(v) for v in rng.uniform(-14, 14, 3))
        phase = a * z[:, None, None] + b * y[None, :, None] + c * x[None, None, :]
        total += np.sin(phase + float(rng.uniform(0, 6.3)))
    total *= np.float32(0.577)
    return total


def _effusion(volume: Volume, finding: Finding, rng: np.random.Generator) -> None:
    lung = volume.organ(f"{finding.side} lung")
    thick = (26, 44, 66)[grade(finding)] + float(rng.uniform(0, 6))
    # Fluid settles at the back; the layer thins towards the apex.
    above = np.clip((volume.z - volume.build.dome) / (1.5 * thick + 40), -1, 1)
    level = volume.build.lung[1] - thick * (1 - above)
    cover = np.clip((volume.y[None, :] - level[:, None]) / volume.step[1] + 0.5, 0, 1)
    whole = (slice(None), slice(None), slice(None))
    _shown(volume, finding, whole, cover[:, :, None] * lung, 8.0)


def _emphysema(volume: Volume, finding: Finding, rng: np.random.Generator) -> None:
    lungs = volume.organ("left lung") | volume.organ("right lung")
    for _ in range((10, 18, 26)[grade(finding)]):
        sign, r = float(rng.choice((-1, 1))), float(rng.uniform(9, 17))
        spot = (
            sign * float(rng.uniform(55, 100)),
            float(rng.uniform(-45, 45)),
            volume.build.dome + float(rng.uniform(25, 115)),
        )
        for radius, hu in ((r + 2.5, -600.0), (r, -1000.0)):
            box, depth = volume.inside(spot, (radius, radius, radius))
            volume.blend(box, volume.cover(depth, radius) * lungs[box], hu)
    volume.masks[finding.name] = lungs


def _liver_lesion(volume: Volume, finding: Finding, rng: np.random.Generator) -> None:
    r = (finding.size_mm or 0) / 2
    down = 34 if finding.place == "dome" else 78
    spot = (-78 + float(rng.uniform(-12, 12)), float(rng.uniform(-20, 8)), volume.build.dome - down)
    box, depth = volume.inside(spot, (r, r, r))
    liver = volume.organ("liver")[box]
    _shown(volume, finding, box, volume.cover(depth, r) * liver, 15.0)


def _cyst(volume: Volume, finding: Finding, rng: np.random.Generator) -> None:
    r = (finding.size_mm or 0) / 2
    z = volume.build.kidney_z + float(rng.uniform(-14, 14))
    box, depth = volume.inside((SIGN[finding.side] * (66 + 0.6 * r), 46, z), (r, r, r))
    _shown(volume, finding, box, volume.cover(depth, r), 4.0)


def _stone(volume: Volume, finding: Finding, rng: np.random.Generator) -> None:
    r = (finding.size_mm or 0) / 2
    z = volume.build.kidney_z + float(rng.uniform(-10, 10))
    box, depth = volume.inside((SIGN[finding.side] * 57, 46, z), (r, r, 1.3 * r))
    _shown(volume, finding, box, volume.cover(depth, r), 1100.0)


def _aneurysm(volume: Volume, finding: Finding, rng: np.random.Generator) -> None:
    r = (finding.size_mm or 0) / 2
    low = finding.place == "abdominal"
    z = volume.build.kidney_z + 12 if low else volume.build.dome + 62
    spot = (26.0, (30.0 if low else 36.0), z + float(rng.uniform(-8, 8)))
    box, depth = volume.inside(spot, (r, r, 1.35 * r))
    cover = volume.cover(depth, r)
    # Thrombus lines the sac; blood fills two thirds of it.
    _shown(volume, finding, box, cover, 45.0)
    volume.ball(spot, (0.68 * r, 0.68 * r, 1.1 * r), 60 + volume.build.contrast)
    volume.organs[box][cover > 0.5] = 4


def _fracture(volume: Volume, finding: Finding, rng: np.random.Generator) -> None:
    z = _LEVEL_Z[finding.place] * VERTEBRA_MM
    y = volume.build.body[1] - 48
    box, depth = volume.inside((0.0, y - 4, z), (29, 24, 15))
    _shown(volume, finding, box, volume.cover(depth, 24), 700.0)
    cleft, hole = volume.inside((0.0, y - 10, z + 6), (20, 14, 5))
    volume.blend(cleft, volume.cover(hole, 14), 60.0)


def _heart(volume: Volume, finding: Finding, rng: np.random.Generator) -> None:
    volume.masks[finding.name] = volume.organ("heart")


def _spleen(volume: Volume, finding: Finding, rng: np.random.Generator) -> None:
    volume.masks[finding.name] = volume.organ("spleen")


def heart_scale(finding: Finding | None) -> float:
    """The heart's size relative to normal."""
    return 1.0 if finding is None else 1.26 + 0.08 * grade(finding)


def fluid_mm(finding: Finding | None) -> float:
    """Thickness of the pericardial fluid."""
    return 0.0 if finding is None else (9.0, 14.0, 20.0)[grade(finding)]


def inflation(finding: Finding | None) -> float:
    """0 for normal lungs, 1 for severe hyperinflation."""
    return 0.0 if finding is None else 0.6 + 0.2 * grade(finding)


def spleen_scale(finding: Finding | None) -> float:
    """The spleen's length relative to normal, which is 100 mm long here."""
    return 1.0 if finding is None else (finding.size_mm or 0) / 100


PAINTERS: Mapping[str, Callable[[Volume, Finding, np.random.Generator], None]] = MappingProxyType(
    {
        "emphysema": _emphysema, "consolidation": _consolidation, "lung_nodule": _nodule,
        "pleural_effusion": _effusion, "cardiomegaly": _heart, "splenomegaly": _spleen,
        "liver_lesion": _liver_lesion, "renal_cyst": _cyst, "kidney_stone": _stone,
        "aortic_aneurysm": _aneurysm, "vertebral_fracture": _fracture,
    }
)  # fmt: skip
"""In the order of painting; pericardial fluid is painted with the heart."""
