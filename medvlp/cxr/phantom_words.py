"""What the chest X-ray phantom's reports say."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from medvlp.cxr.phantom_findings import DISEASES
from medvlp.phantom.grammar import Wording
from medvlp.phantom.report import ReportStyle

WORDS: Mapping[str, Wording] = MappingProxyType(
    {
        "cardiomegaly": Wording(
            anatomy="heart",
            noun=("cardiomegaly", "cardiac enlargement"),
            present=(
                "The heart is {severity}ly enlarged[, with a cardiothoracic ratio of| with a "
                "cardiothoracic ratio of|, cardiothoracic ratio] {ratio}.",
                "{severity} [cardiomegaly|enlargement of the cardiac silhouette] [is seen|].",
                "The cardiac silhouette is {severity}ly enlarged.",
            ),
            uncertain=(
                "[Possible|Questionable] borderline cardiomegaly.",
                "The heart may be [mildly|slightly] enlarged.",
            ),
            brief=("{severity} cardiomegaly.", "[Enlarged heart|Enlarged cardiac silhouette]."),
            absent=(
                "Heart size is [normal|within normal limits].",
                "The [heart|cardiac silhouette] is not enlarged.",
            ),
        ),
        "pleural_effusion": Wording(
            anatomy="pleural space",
            noun=("pleural effusion", "pleural fluid"),
            present=(
                "[There {is}|] {severity} {side} pleural effusion{s} [|present].",
                "{severity} {side} pleural effusion{s} {is} [seen|noted|present].",
                "Blunting of the {side} costophrenic angle{s} [due to|from] {severity} "
                "pleural effusion{s}.",
            ),
            uncertain=(
                "[Possible|Questionable] trace {side} pleural effusion{s}.",
                "A tiny {side} pleural effusion cannot be excluded.",
            ),
            brief=("{severity} {side} pleural effusion{s}.", "{side} pleural effusion{s}."),
            absent=("The costophrenic angles are [sharp|clear].",),
        ),
        "pneumothorax": Wording(
            anatomy="pleural space",
            noun=("pneumothorax",),
            present=(
                "[There is a|] {severity} {side} pneumothorax [|with a visible pleural line].",
                "{side} apical and lateral lucency [consistent with|in keeping with] a {severity} "
                "pneumothorax.",
                "A {severity} pneumothorax is [seen|present] on the {side}.",
            ),
            uncertain=(
                "[Possible|Questionable] {side} pneumothorax.",
                "A small {side} pneumothorax cannot be excluded.",
            ),
            brief=("{severity} {side} pneumothorax.", "Pneumothorax on the {side}."),
        ),
        "consolidation": Wording(
            anatomy="lung",
            noun=("consolidation", "[focal|lobar] consolidation", "airspace consolidation"),
            present=(
                "[There is|] [dense|airspace|] consolidation in the {side} {place} [lung|] zone.",
                "{side} {place} zone [airspace opacity|airspace consolidation] [is seen|], "
                "[consistent with consolidation|compatible with pneumonia].",
                "Focal consolidation of the {side} {place} zone [is noted|is present].",
            ),
            uncertain=(
                "Faint opacity in the {side} {place} zone may represent [early|] consolidation.",
                "[Possible|Questionable] {side} {place} zone consolidation.",
            ),
            brief=(
                "{side} {place} zone [consolidation|pneumonia].",
                "Consolidation in the {side} {place} zone.",
            ),
        ),
        "atelectasis": Wording(
            anatomy="lung",
            noun=("atelectasis", "[linear|plate-like] atelectasis"),
            present=(
                "[Linear|Plate-like|Band-like] atelectasis in the {side} {place} zone.",
                "{side} {place} zone [linear bands|linear opacities] [of|representing] "
                "atelectasis.",
                "[There is|] subsegmental atelectasis [at|in] the {side} {place} zone.",
            ),
            uncertain=("[Possible|Probable] minor atelectasis in the {side} {place} zone.",),
            brief=(
                "{side} {place} zone atelectasis.",
                "[Linear|Subsegmental] atelectasis, {side}.",
            ),
        ),
        "nodule": Wording(
            anatomy="lung",
            noun=("[pulmonary|lung] nodule", "pulmonary mass", "nodule"),
            present=(
                "[There is a|] {cm} cm [round|rounded|] [{lump}|pulmonary {lump}] in the {side} "
                "{place} [lung|] zone.",
                "A [well-defined|round] {lump} [measures|measuring] {mm} mm [is seen|] in the "
                "{side} {place} zone.",
                "{side} {place} zone pulmonary {lump} of {cm} cm.",
            ),
            uncertain=(
                "[Possible|Questionable] {side} {place} zone nodule of about {cm} cm.",
                "Faint {mm} mm density in the {side} {place} zone may represent a nodule.",
            ),
            brief=("{cm} cm {side} {place} zone {lump}.", "Pulmonary {lump} in the {side} lung."),
        ),
        "edema": Wording(
            anatomy="lung",
            noun=("pulmonary edema", "[interstitial|alveolar] edema", "vascular congestion"),
            present=(
                "{severity} [bilateral|symmetric|] perihilar haze [consistent with|due to] "
                "pulmonary edema.",
                "[There is|] {severity} pulmonary edema.",
                "Perihilar opacities [in a butterfly distribution|on both sides], [consistent "
                "with|suggesting] {severity} pulmonary edema.",
            ),
            uncertain=(
                "[Possible|Questionable] mild pulmonary edema.",
                "Early pulmonary edema cannot be excluded.",
            ),
            brief=("{severity} pulmonary edema.", "Pulmonary edema."),
        ),
        "emphysema": Wording(
            anatomy="lung",
            noun=("emphysema", "hyperinflation"),
            present=(
                "The lungs are [hyperinflated|hyperexpanded] with flattened diaphragms, "
                "[consistent with|in keeping with] {severity} emphysema.",
                "{severity} [emphysema|hyperinflation] [with flattening of the diaphragms|].",
                "[Hyperinflation|Hyperlucent lungs] and flat hemidiaphragms, [as in|from] "
                "emphysema.",
            ),
            brief=("{severity} emphysema.", "[Emphysematous|Hyperinflated] lungs."),
        ),
        "rib_fracture": Wording(
            anatomy="rib",
            noun=("rib fracture", "[displaced|acute] rib fracture"),
            present=(
                "[Displaced|] {side} lateral rib fractures [are seen|] [at|in] the {place} zone.",
                "Fractures of several {side} ribs at the level of the {place} zone.",
                "There are [healing|displaced] {side} rib fractures.",
            ),
            brief=("{side} rib fractures.", "Fractured {side} ribs."),
            absent=("The [bony thorax is|ribs are] intact.",),
        ),
        "pacemaker": Wording(
            anatomy="device",
            noun=("pacemaker", "cardiac pacing device"),
            present=(
                "{side} [chest wall|sided|] pacemaker with its lead [in|projecting over] the "
                "right ventricle.",
                "A [cardiac pacing device|pacemaker generator] [overlies|projects over] the "
                "{side} upper chest.",
            ),
            brief=("{side} pacemaker in place.", "Pacemaker [in situ|in place]."),
        ),
        "central_line": Wording(
            anatomy="device",
            noun=("central venous [line|catheter]",),
            present=(
                "{side} [internal jugular|] central venous [line|catheter] with its tip "
                "[in|over] the superior vena cava.",
                "A central venous catheter [enters from|has been placed from] the {side}; its tip "
                "[projects over|lies in] the SVC.",
            ),
            brief=("{side} central venous [line|catheter] in place.",),
        ),
        "endotracheal_tube": Wording(
            anatomy="device",
            noun=("endotracheal tube",),
            present=(
                "[The|An] endotracheal tube [|tip] [lies|ends|terminates] {cm} cm above the "
                "carina.",
                "Endotracheal tube [in place|in situ], {cm} cm [above|from] the carina.",
            ),
            brief=("Endotracheal tube in [place|satisfactory position].", "Intubated patient."),
        ),
    }
)

STYLE = ReportStyle(
    words=WORDS,
    deniable=DISEASES,
    clear=("The lungs are clear.", "Both lungs are clear.", "Clear lungs."),
    clear_unless=frozenset(DISEASES) - {"cardiomegaly", "rib_fracture"},
    technique=(
        "[Single|One] {view} view of the chest.",
        "{view} [chest radiograph|chest X-ray].",
        "Frontal [radiograph|view] of the chest, {view} projection.",
    ),
    indication=("[Cough|Dyspnea|Follow-up|Routine examination|Chest pain].",),
    normal=(
        "No acute cardiopulmonary [abnormality|process|disease].",
        "Normal [chest radiograph|chest X-ray|study].",
        "No [|radiographic] abnormality of the chest.",
    ),
)
