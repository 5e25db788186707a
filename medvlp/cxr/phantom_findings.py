"""The chest X-ray phantom's findings: which a study has, and how each is painted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from medvlp.cxr.phantom_draw import MM_PER_UNIT, Canvas, Plane, noise_plane, rib_phase, soft, stroke
from medvlp.phantom.grammar import Finding

DISEASES = (
    "cardiomegaly", "pleural_effusion", "pneumothorax", "consolidation", "atelectasis", "nodule",
    "edema", "emphysema", "rib_fracture",
)  # fmt: skip
DEVICES = ("pacemaker", "central_line", "endotracheal_tube")
NAMES = DISEASES + DEVICES

_NORMAL = 0.26
_DEVICE = 0.21
_EQUIVOCAL = 0.07
_CANNOT_DOUBT = frozenset({*DEVICES, "rib_fracture", "emphysema"})
_SEVERITY = ("mild", "moderate", "severe")
_AMOUNT = ("small", "moderate", "large")
_FAINT = 0.45
_ZONE_Y = MappingProxyType({"upper": -0.38, "mid": -0.08, "lower": 0.2})
_CLASH = {"edema": "emphysema", "emphysema": "edema"}


def draw_findings(rng: np.random.Generator) -> list[Finding]:
    """The findings of one study; about a quarter of studies have none."""
    if rng.random() < _NORMAL:
        return []
    names: list[str] = []
    for name in rng.permutation(DISEASES)[: rng.choice((1, 2, 3), p=(0.25, 0.4, 0.35))]:
        if _CLASH.get(str(name)) not in names:
            names.append(str(name))
    names += [name for name in DEVICES if rng.random() < _DEVICE]
    taken: set[tuple[str, str]] = set()
    # In the catalogue's order, so that what fills a whole zone chooses first.
    return [_draw_finding(rng, name, taken) for name in NAMES if name in names]


def _draw_finding(rng: np.random.Generator, name: str, taken: set[tuple[str, str]]) -> Finding:
    doubted = name not in _CANNOT_DOUBT and rng.random() < _EQUIVOCAL
    presence = -1.0 if doubted else 1.0
    if name in ("cardiomegaly", "edema", "emphysema"):
        severity = str(rng.choice(_SEVERITY))
        return Finding(name=name, severity=severity, presence=presence)
    if name == "endotracheal_tube":
        return Finding(name=name, size_mm=float(rng.uniform(20, 60)))
    side = str(rng.choice(("left", "right")))
    if name == "pacemaker":
        side = "left" if rng.random() < 0.8 else "right"
    if name in ("pleural_effusion", "pneumothorax"):
        if name == "pleural_effusion" and rng.random() < 0.2:
            side = "bilateral"
        for one in ("left", "right") if side == "bilateral" else (side,):
            taken.add((one, "lower" if name == "pleural_effusion" else "upper"))
        return Finding(name=name, side=side, severity=str(rng.choice(_AMOUNT)), presence=presence)
    zone = ""
    if name in ("consolidation", "nodule", "atelectasis", "rib_fracture"):
        side, zone = _free_place(rng, name, side, taken)
    size = float(np.round(rng.uniform(20, 48))) if name == "nodule" else None
    return Finding(name=name, side=side, place=zone, size_mm=size, presence=presence)


def _free_place(
    rng: np.random.Generator, name: str, side: str, taken: set[tuple[str, str]]
) -> tuple[str, str]:
    """A side and zone that nothing else fills, if there is one."""
    zones = {"atelectasis": ("lower", "mid"), "rib_fracture": ("upper", "mid", "lower")}
    own = zones.get(name, ("upper", "mid", "lower"))
    other = "left" if side == "right" else "right"
    places = [(s, str(z)) for s in (side, other) for z in rng.permutation(own)]
    for place in places:
        if place not in taken:
            taken.add(place)
            return place
    return places[0]


def strength(finding: Finding) -> float:
    """How strongly it is painted: an equivocal finding is faint."""
    return _FAINT if finding.presence < 0 else 1.0


def grade(finding: Finding) -> int:
    """0, 1 or 2 from mild or small to severe or large."""
    words = _AMOUNT if finding.severity in ("small", "large") else _SEVERITY
    return words.index(finding.severity)


def heart_scale(finding: Finding | None) -> float:
    """The heart's width relative to normal."""
    if finding is None:
        return 1.0
    return 1.0 + (0.42 + 0.12 * grade(finding)) * strength(finding)


def inflation(finding: Finding | None) -> float:
    """0 for normal lungs, up to 1.2 for severe hyperinflation."""
    return 0.0 if finding is None else 0.7 + 0.22 * grade(finding)


def _sides(finding: Finding) -> tuple[str, ...]:
    return ("left", "right") if finding.side == "bilateral" else (finding.side,)


def _effusion(canvas: Canvas, finding: Finding, rng: np.random.Generator) -> None:
    for side in _sides(finding):
        u = (canvas.sided(side) - canvas.build.lung_cx) / canvas.build.lung_rx
        dome = canvas.build.dome_y[side == "left"]
        height = (0.1, 0.22, 0.42)[grade(finding)] + float(rng.uniform(0, 0.05))
        level = dome + 0.06 - height - 0.16 * np.clip(u, -0.6, 1) ** 3
        fluid = soft(canvas.y - level, 0.06) * canvas.lungs[side]
        canvas.image += np.float32(0.36 * strength(finding)) * fluid
        canvas.mark(finding, fluid)


def _pneumothorax(canvas: Canvas, finding: Finding, rng: np.random.Generator) -> None:
    side = finding.side
    out, depth, lung = canvas.sided(side), canvas.depth[side], canvas.lungs[side]
    thick = (0.42, 0.58, 0.75)[grade(finding)] + float(rng.uniform(0, 0.05))
    edge = thick * np.clip((0.42 - canvas.y) / 0.8, 0, 1)
    # The pleural space opens at the apex and the side, not towards the heart.
    lateral = soft(out - canvas.build.lung_cx + 0.12 + 0.2 * soft(-0.45 - canvas.y, 0.2), 0.08)
    gap = soft(edge - depth, 0.06) * lateral * lung
    force = np.float32(strength(finding))
    assert canvas.texture is not None
    canvas.texture *= 1 - force * gap
    rim = soft(0.05 - np.abs(depth - edge), 0.04) * lateral * lung * soft(edge - 0.06, 0.05)
    canvas.image += force * (0.16 * rim + 0.1 * (lung - gap) * lung - 0.13 * gap)
    canvas.mark(finding, gap)


def _patch(canvas: Canvas, side: str, x: float, y: float, r: float) -> Plane:
    out = canvas.sided(side)
    inside: Plane = 1 - (np.square(out - x) + np.square(canvas.y - y)) / np.float32(r * r)
    return inside


def _consolidation(canvas: Canvas, finding: Finding, rng: np.random.Generator) -> None:
    x = canvas.build.lung_cx + float(rng.uniform(-0.05, 0.06))
    y = _ZONE_Y[finding.place] + float(rng.uniform(-0.04, 0.04))
    blob = _patch(canvas, finding.side, x, y, float(rng.uniform(0.22, 0.27)))
    ragged = blob + 0.22 * noise_plane(rng, len(canvas.y), 12)
    cover = soft(ragged - 0.1, 0.5) * canvas.lungs[finding.side]
    canvas.image += np.float32(0.26 * strength(finding)) * cover
    canvas.mark(finding, cover)


def _atelectasis(canvas: Canvas, finding: Finding, rng: np.random.Generator) -> None:
    out, lung = canvas.sided(finding.side), canvas.lungs[finding.side]
    base = {"lower": 0.3, "mid": 0.02}[finding.place] + float(rng.uniform(-0.03, 0.03))
    slope = float(rng.uniform(-0.25, -0.1))
    cover = np.zeros_like(out)
    for k in range(3):
        line = canvas.y - (base - 0.085 * k) - slope * (out - canvas.build.lung_cx)
        length = soft(0.2 - 0.03 * k - np.abs(out - canvas.build.lung_cx), 0.06)
        cover = np.maximum(cover, soft(0.026 - np.abs(line), 0.014) * length)
    cover *= lung
    canvas.image += np.float32(0.36 * strength(finding)) * cover
    canvas.mark(finding, cover)


def _nodule(canvas: Canvas, finding: Finding, rng: np.random.Generator) -> None:
    radius = (finding.size_mm or 0) / 2 / MM_PER_UNIT
    x = canvas.build.lung_cx + float(rng.uniform(-0.07, 0.1))
    y = _ZONE_Y[finding.place] + float(rng.uniform(-0.05, 0.05))
    ball = _patch(canvas, finding.side, x, y, radius)
    cover = soft(ball, 0.5)
    canvas.image += np.float32(0.4 * strength(finding)) * cover
    canvas.mark(finding, cover)


def _edema(canvas: Canvas, finding: Finding, rng: np.random.Generator) -> None:
    haze = np.zeros_like(canvas.y)
    for side in ("left", "right"):
        out = canvas.sided(side)
        wing = 1 - np.square((out - 0.24) / 0.27) - np.square((canvas.y - 0.02) / 0.42)
        haze += soft(wing, 1.2) * canvas.lungs[side]
    mottle = 1 + 0.3 * noise_plane(rng, len(canvas.y), 24)
    force = np.float32((0.2 + 0.05 * grade(finding)) * strength(finding))
    canvas.image += force * haze * mottle
    canvas.mark(finding, haze)


def _emphysema(canvas: Canvas, finding: Finding, rng: np.random.Generator) -> None:
    canvas.mark(finding, np.maximum(canvas.lungs["left"], canvas.lungs["right"]))


def _cardiomegaly(canvas: Canvas, finding: Finding, rng: np.random.Generator) -> None:
    assert canvas.heart is not None
    canvas.mark(finding, canvas.heart)


def _pacemaker(canvas: Canvas, finding: Finding, rng: np.random.Generator) -> None:
    sign = 1.0 if finding.side == "left" else -1.0
    x, y = 0.52 + float(rng.uniform(-0.04, 0.04)), -0.46 + float(rng.uniform(-0.03, 0.03))
    box = np.maximum(np.abs(canvas.sided(finding.side) - x) / 0.1, np.abs(canvas.y - y) / 0.085)
    can = soft(1 - box, 0.2)
    lead = stroke(
        canvas,
        [(sign * x, y), (sign * 0.2, -0.5), (-0.07, -0.3), (-0.06, 0.1), (0.1, 0.32), (0.26, 0.3)],
        0.018,
    )
    canvas.image += 0.55 * can + 0.3 * lead
    canvas.mark(finding, np.maximum(can, lead))


def _central_line(canvas: Canvas, finding: Finding, rng: np.random.Generator) -> None:
    sign = 1.0 if finding.side == "left" else -1.0
    start = (sign * float(rng.uniform(0.14, 0.18)), -1.0)
    tip = (-0.1, float(rng.uniform(-0.16, 0.0)))
    line = stroke(canvas, [start, (sign * 0.17, -0.66), (-0.085, -0.4), tip], 0.034)
    canvas.image += 0.45 * line
    canvas.mark(finding, line)


def _endotracheal_tube(canvas: Canvas, finding: Finding, rng: np.random.Generator) -> None:
    carina = -0.16
    tip = carina - (finding.size_mm or 0) / MM_PER_UNIT
    tube = stroke(canvas, [(0.015, -1.1), (0.0, -0.7), (-0.005, tip)], 0.045)
    canvas.image += 0.4 * tube
    canvas.mark(finding, tube)


def fracture(canvas: Canvas, finding: Finding | None, rng: np.random.Generator) -> Plane | None:
    """Bend neighbouring ribs at a step and return the bright callus there."""
    if finding is None:
        return None
    y = _ZONE_Y[finding.place] + float(rng.uniform(-0.05, 0.05))
    x = float(rng.uniform(0.5, 0.58))
    out, step = canvas.sided(finding.side), canvas.build.rib_step
    near = soft(1.7 * step - np.abs(canvas.y - y), 0.4 * step)
    canvas.rib_bend = 0.42 * near * soft(out - x, 0.02) * (out > 0)
    phase = rib_phase(canvas)
    onto_rib = soft(np.cos(2 * np.float32(np.pi) * phase) - 0.5, 0.4)
    knot = soft(0.075 - np.abs(out - x), 0.03) * near
    canvas.mark(finding, soft(0.09 - np.abs(out - x), 0.01) * (near > 0.5))
    return 0.42 * knot * onto_rib


PAINTERS: Mapping[str, Callable[[Canvas, Finding, np.random.Generator], None]] = MappingProxyType(
    {
        "cardiomegaly": _cardiomegaly, "emphysema": _emphysema, "edema": _edema,
        "consolidation": _consolidation, "atelectasis": _atelectasis, "nodule": _nodule,
        "pneumothorax": _pneumothorax, "pleural_effusion": _effusion, "pacemaker": _pacemaker,
        "central_line": _central_line, "endotracheal_tube": _endotracheal_tube,
    }
)  # fmt: skip
"""In the order of painting; a broken rib is painted with the bones."""
