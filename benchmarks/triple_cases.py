"""What `bench_triples.py` compares with: phantoms' truth in the vocabulary's words, MeSH terms."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from medvlp.cxr.phantom_findings import draw_findings
from medvlp.cxr.phantom_words import STYLE
from medvlp.data.structure.extract import Extractor, Triple
from medvlp.phantom.grammar import Finding
from medvlp.phantom.patients import patient_generator
from medvlp.phantom.report import write_report
from medvlp.progress import track

LEVELS = {
    "anatomy, observation, presence": 3,
    "and side": 4,
    "and side and severity": 5,
}
Row = tuple[str, str, int, str, str]
"""Anatomy, observation, presence, side, severity."""

PHANTOM = {
    "cardiomegaly": "cardiomegaly", "pleural_effusion": "pleural_effusion",
    "pneumothorax": "pneumothorax", "consolidation": "consolidation",
    "airspace_disease": "consolidation", "pneumonia": "consolidation",
    "atelectasis": "atelectasis", "nodule": "nodule", "mass": "nodule", "edema": "edema",
    "vascular_congestion": "edema", "emphysema": "emphysema", "hyperinflation": "emphysema",
    "fracture": "rib_fracture", "pacemaker": "pacemaker", "central_line": "central_line",
    "endotracheal_tube": "endotracheal_tube",
}  # fmt: skip
"""The vocabulary's observations -> the phantom finding that they are words for."""

DENIALS = {"costophrenic_blunting": "pleural_effusion", "abnormality": "rib_fracture"}
"""The same of what is denied: "the costophrenic angles are sharp", "the bony thorax is intact"."""

PLACES = {
    "cardiomegaly": "heart", "pleural_effusion": "pleural_space", "pneumothorax": "pleural_space",
    "edema": "lung", "emphysema": "lung", "rib_fracture": "rib", "pacemaker": "heart",
    "central_line": "superior_vena_cava", "endotracheal_tube": "trachea",
}  # fmt: skip
ZONES = {"upper": "upper_zone", "mid": "mid_zone", "lower": "lower_zone", "": "lung"}
SEVERITY = {"small": "mild", "large": "severe"}
AMOUNTS = {"mild": ("mild", "small"), "moderate": ("moderate",), "severe": ("severe", "large")}
PARTS = {
    "right_ventricle": "heart", "pulmonary_vasculature": "lung", "perihilar_region": "lung",
    "costophrenic_angle": "pleural_space", "bone": "rib",
}  # fmt: skip
"""Places at which the extractor may rightly be more exact than the phantom's truth."""


def phantom_report(index: int, seed: int = 11) -> tuple[str, list[Finding], list[str]]:
    """A phantom's report, its findings and those that it denies."""
    findings = draw_findings(patient_generator("cxr", seed, index, "findings"))
    rng = patient_generator("cxr", seed, index, "report")
    text, denied = write_report(rng, STYLE, findings, view="PA", ratio="0.55")
    return text, findings, denied


def phantom_truth(text: str, findings: Sequence[Finding], denied: Sequence[str]) -> set[Row]:
    """What the report says: a severity counts where the report tells it, and in doubt never."""
    rows = set()
    for f in findings:
        zone = PLACES.get(f.name) or ZONES[f.place]
        severity = SEVERITY.get(f.severity, f.severity)
        # Of haze that is due to edema, the haze is mild.
        noun = " pulmonary edema" if f.name == "edema" else ""
        words = [word + noun for word in AMOUNTS.get(severity, ())]
        told = f.presence > 0 and any(word in text.lower() for word in words)
        rows.add((zone, f.name, int(f.presence), f.side, severity if told else ""))
    for name in denied:
        rows.add((PLACES.get(name, "lung"), name, 0, "", ""))
    return rows


def phantom_found(triples: Iterable[Triple]) -> set[Row]:
    """The report's triples joined: one row a phantom finding, the strongest and most exact."""
    of: dict[str, list[Triple]] = defaultdict(list)
    for triple in triples:
        name = PHANTOM.get(triple.observation)
        if triple.presence == 0 and triple.anatomy in ("costophrenic_angle", "bone"):
            name = DENIALS.get(triple.observation, name)
        if name is not None:
            of[name].append(triple)
    return {_joined(name, found) for name, found in of.items()}


def _joined(name: str, found: Sequence[Triple]) -> Row:
    presence = next(v for v in (1, -1, 0) if any(t.presence == v for t in found))
    own = [t for t in found if t.presence == presence]
    places = [PARTS.get(t.anatomy, t.anatomy) for t in own]
    place = next((p for p in places if p.endswith("_zone")), places[0])
    sides = {t.side for t in own if t.side}
    side = sides.pop() if len(sides) == 1 else "bilateral" if sides else ""
    degrees = [t.severity for t in own if t.severity]
    # Doubt is told with a degree of its own, and of edema "on both sides" is said at times.
    severity = degrees[0] if degrees and presence == 1 and name not in _NO_DEGREE else ""
    return place, name, presence, "" if name == "edema" else side, severity


_NO_DEGREE = ("nodule", "consolidation", "atelectasis", "rib_fracture")


def phantom_scores(extractor: Extractor, count: int) -> dict[str, float]:
    """F1 of the rows of phantom reports, by how much of a row has to be right."""
    hits: Counter[str] = Counter()
    told: Counter[str] = Counter()
    for i in track(range(count), "phantom reports"):
        text, findings, denied = phantom_report(i)
        truth = phantom_truth(text, findings, denied)
        found = phantom_found(extractor.report(text))
        for level, width in LEVELS.items():
            a, b = {r[:width] for r in truth}, {r[:width] for r in found}
            hits[level] += len(a & b)
            told[level] += len(a) + len(b)
    return {level: 2 * hits[level] / told[level] for level in LEVELS}


# -- MeSH ----------------------------------------------------------------------------------------

MESH = {
    "granuloma": (("Calcified Granuloma", "Granuloma"), ("granuloma",)),
    "granulomatous_disease": (("Granulomatous Disease",), ("granulomatous_disease",)),
    "cardiomegaly": (("Cardiomegaly", "Cardiac Shadow, enlarged"), ("cardiomegaly",)),
    "atelectasis": (("Pulmonary Atelectasis",), ("atelectasis",)),
    "pleural_effusion": (("Pleural Effusion",), ("pleural_effusion",)),
    "scarring": (("Cicatrix",), ("scarring",)),
    "opacity": (("Opacity", "Density"), ("opacity", "interstitial_opacity", "nodule")),
    "airspace_disease": (("Airspace Disease",), ("airspace_disease",)),
    "infiltrate": (("Infiltrate",), ("infiltrate",)),
    "consolidation": (("Consolidation",), ("consolidation",)),
    "pneumonia": (("Pneumonia",), ("pneumonia",)),
    "nodule": (("Nodule",), ("nodule",)),
    "mass": (("Mass",), ("mass",)),
    "hyperinflation": (("Lung, hyperdistention", "Lung, Hyperlucent"), ("hyperinflation",)),
    "low_volume": (("Lung, hypoinflation", "Volume Loss"), ("low_volume",)),
    "emphysema": (("Emphysema", "Pulmonary Emphysema"), ("emphysema",)),
    "copd": (("Pulmonary Disease, Chronic Obstructive",), ("copd",)),
    "vascular_congestion": (("Pulmonary Congestion",), ("vascular_congestion",)),
    "edema": (("Pulmonary Edema",), ("edema",)),
    "pneumothorax": (("Pneumothorax",), ("pneumothorax",)),
    "costophrenic_blunting": (("Costophrenic Angle, blunted",), ("costophrenic_blunting",)),
    "diaphragm_elevation": (("Diaphragm, elevated",), ("diaphragm_elevation",)),
    "diaphragm_flattening": (("Diaphragm, flattened",), ("diaphragm_flattening",)),
    "diaphragm_eventration": (("Diaphragmatic Eventration",), ("diaphragm_eventration",)),
    "hernia": (("Hernia, Hiatal",), ("hernia",)),
    "degenerative_change": (
        (
            "Thoracic Vertebrae, degenerative",
            "Spine, degenerative",
            "Lumbar Vertebrae, degenerative",
            "Shoulder, degenerative",
            "Osteophyte",
            "Spondylosis",
            "Arthritis",
        ),
        ("degenerative_change",),
    ),
    "fracture": (("Fractures, Bone",), ("fracture", "compression_deformity")),
    "scoliosis": (("Scoliosis",), ("scoliosis",)),
    "kyphosis": (("Kyphosis",), ("kyphosis",)),
    "osteopenia": (("Bone Diseases, Metabolic",), ("osteopenia",)),
    "atherosclerosis": (("Atherosclerosis",), ("atherosclerosis",)),
    "tortuosity": (("Aorta, tortuous", "Aorta, Thoracic, tortuous"), ("tortuosity",)),
    "fibrosis": (("Pulmonary Fibrosis",), ("fibrosis",)),
    "central_line": (("Catheters, Indwelling",), ("central_line",)),
    "surgical_clips": (("Surgical Instruments", "Sutures"), ("surgical_clips",)),
    "foreign_body": (("Foreign Bodies",), ("foreign_body",)),
    "stent": (("Stents",), ("stent",)),
}
"""Row of the table -> MeSH terms of Open-I that stand for it, and observations. A term is the head
of a heading, or head and qualifier, joined by a comma. The commonest that name an observation."""
