"""What the CT phantom's reports say."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from medvlp.phantom.grammar import Wording
from medvlp.phantom.report import ReportStyle
from medvlp_volumetric.phantom_findings import NAMES

WORDS: Mapping[str, Wording] = MappingProxyType(
    {
        "cardiomegaly": Wording(
            anatomy="heart",
            noun=("cardiomegaly", "cardiac enlargement"),
            present=(
                "[The heart|The cardiac silhouette] is {severity}ly enlarged.",
                "{severity} cardiomegaly [is seen|].",
                "{severity} enlargement of the heart.",
            ),
            brief=("{severity} cardiomegaly.", "Enlarged heart."),
            absent=("Heart size is [normal|within normal limits].", "The heart is not enlarged."),
        ),
        "pericardial_effusion": Wording(
            anatomy="pericardium",
            noun=("pericardial effusion", "pericardial fluid"),
            present=(
                "[There is a|] {severity} pericardial effusion.",
                "{severity} [amount of|] pericardial fluid [surrounds|around] the heart.",
            ),
            brief=("{severity} pericardial effusion.", "Pericardial effusion."),
        ),
        "aortic_aneurysm": Wording(
            anatomy="aorta",
            noun=("aortic aneurysm", "aneurysmal dilatation of the aorta"),
            present=(
                "[There is an|] aneurysm of the {place} aorta [measuring|of] {cm} cm.",
                "The {place} aorta is [aneurysmal|aneurysmally dilated] [to|, measuring] {cm} cm.",
                "{place} aortic aneurysm with a [maximal|maximum] diameter of {mm} mm.",
            ),
            brief=("{cm} cm {place} aortic aneurysm.", "Aneurysm of the {place} aorta."),
            absent=("The aorta is [normal in caliber|of normal caliber].",),
        ),
        "pleural_effusion": Wording(
            anatomy="pleural space",
            noun=("pleural effusion", "pleural fluid"),
            present=(
                "[There is a|] {severity} {side} pleural effusion.",
                "{severity} {side} pleural effusion [layering posteriorly|is present].",
                "{side} pleural fluid, {severity} [in amount|].",
            ),
            uncertain=(
                "[Possible|Questionable] trace {side} pleural effusion.",
                "A tiny {side} pleural effusion cannot be excluded.",
            ),
            brief=("{severity} {side} pleural effusion.", "{side} pleural effusion."),
        ),
        "emphysema": Wording(
            anatomy="lung",
            noun=("emphysema", "emphysematous change"),
            present=(
                "{severity} [centrilobular|bullous|] emphysema [in both lungs|].",
                "[Hyperinflated lungs|The lungs are hyperinflated] with bullae, [in keeping "
                "with|consistent with] {severity} emphysema.",
            ),
            brief=("{severity} emphysema.", "[Emphysema|Bullous emphysema]."),
        ),
        "consolidation": Wording(
            anatomy="lung",
            noun=("consolidation", "[focal|airspace] consolidation"),
            present=(
                "[There is|] [dense|airspace|] consolidation in the {side} {place}.",
                "{side} {place} [consolidation|airspace consolidation] [is seen|], [compatible "
                "with|suggesting] pneumonia.",
                "Focal consolidation of the {side} {place}.",
            ),
            uncertain=(
                "Faint opacity in the {side} {place} may represent [early|] consolidation.",
                "[Possible|Questionable] {side} {place} consolidation.",
            ),
            brief=("{side} {place} [consolidation|pneumonia].",),
        ),
        "lung_nodule": Wording(
            anatomy="lung",
            noun=("[pulmonary|lung] nodule", "pulmonary mass"),
            present=(
                "[There is a|] {cm} cm [solid|] pulmonary {lump} in the {side} {place}.",
                "A [solid|round] pulmonary {lump} [measures|measuring] {mm} mm in the {side} "
                "{place}.",
                "{side} {place} pulmonary {lump} of {cm} cm.",
            ),
            uncertain=(
                "[Possible|Questionable] {cm} cm pulmonary nodule in the {side} {place}.",
                "Faint {mm} mm density in the {side} {place} may represent a pulmonary nodule.",
            ),
            brief=("{cm} cm {side} {place} pulmonary {lump}.", "Pulmonary {lump}, {side} {place}."),
        ),
        "liver_lesion": Wording(
            anatomy="liver",
            noun=("[focal liver|hepatic] lesion", "liver metastasis"),
            present=(
                "[Hypodense|Low-attenuation] [liver|hepatic] lesion [of|measuring] {cm} cm in the "
                "{place}.",
                "[There is a|] {cm} cm hypodense lesion in the {place} of the liver.",
            ),
            uncertain=(
                "Subtle {cm} cm low-attenuation area in the liver may represent a lesion.",
                "[Possible|Questionable] hepatic lesion in the {place}.",
            ),
            brief=("{cm} cm [hepatic|liver] lesion.", "Hypodense [hepatic|liver] lesion."),
            absent=("The liver is [homogeneous|unremarkable].",),
        ),
        "splenomegaly": Wording(
            anatomy="spleen",
            noun=("splenomegaly", "splenic enlargement"),
            present=(
                "The spleen is enlarged[, measuring| to| at] {cm} cm [in length|].",
                "[Splenomegaly|Enlarged spleen] [of|measuring] {cm} cm.",
            ),
            brief=("Splenomegaly.", "Enlarged spleen[|, {cm} cm]."),
            absent=("The spleen is not enlarged.", "Spleen size is normal."),
        ),
        "renal_cyst": Wording(
            anatomy="kidney",
            noun=("renal cyst", "cystic renal lesion"),
            present=(
                "[Simple|Exophytic] {side} renal cyst [of|measuring] {cm} cm.",
                "[There is a|] {cm} cm [simple|] cyst [of|in] the {side} kidney.",
            ),
            brief=("{side} renal cyst.", "{cm} cm {side} renal cyst."),
        ),
        "kidney_stone": Wording(
            anatomy="kidney",
            noun=("kidney stone", "[renal calculus|nephrolithiasis]"),
            present=(
                "[Calcified|Dense|] {mm} mm [stone|calculus] in the {side} kidney.",
                "{side} nephrolithiasis with a {cm} cm [stone|calculus].",
                "{cm} cm {side} renal calculus.",
            ),
            brief=("{side} [nephrolithiasis|kidney stone|renal calculus].",),
        ),
        "vertebral_fracture": Wording(
            anatomy="spine",
            noun=("vertebral fracture", "[compression|vertebral compression] fracture"),
            present=(
                "[Sclerotic|] compression fracture of {place}.",
                "[There is a|] {place} vertebral [body|] fracture with sclerosis.",
                "Fractured {place} vertebral body.",
            ),
            brief=("{place} [vertebral|compression] fracture.",),
            absent=("The [spine is|vertebral bodies are] intact.",),
        ),
    }
)

STYLE = ReportStyle(
    words=WORDS,
    deniable=NAMES,
    clear=("The lungs are clear.", "Both lungs are clear.", "Clear lungs."),
    clear_unless=frozenset({"pleural_effusion", "emphysema", "consolidation", "lung_nodule"}),
    technique=(
        "[CT|Computed tomography] of the chest and [upper|] abdomen[ with intravenous contrast|].",
        "[Axial|Contrast-enhanced axial] CT of the chest and abdomen, {thickness} mm slices.",
    ),
    indication=("[Staging|Follow-up|Abdominal pain|Dyspnea|Weight loss].",),
    normal=(
        "No [acute|significant] abnormality of the chest or abdomen.",
        "Normal CT of the chest and abdomen.",
        "[Unremarkable|Normal] study.",
    ),
)
