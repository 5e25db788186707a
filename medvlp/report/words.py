"""The report's names for tasks and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Headline:
    """The number that stands for a task in the summary."""

    metric: str
    title: str
    blind: float | None = None
    """The value of whoever does not look, where the task itself sets it: pairs of sentences."""

    low_is_better: bool = False


HEADLINES = {
    "shortcuts": Headline("auroc", "AUROC of detectors that know no anatomy"),
    "class-retrieval": Headline("precision_at_10", "Right answers among the first 10"),
    "zero-shot": Headline("auroc_macro", "AUROC, mean over findings"),
    "generation": Headline("finding_f1_micro", "F1 of findings in the written texts"),
    "phases": Headline("f1_macro", "F1, mean over phases"),
    "grounding": Headline(
        "pixel_average_precision_macro", "Average precision of pixels, mean over findings"
    ),
    "probe": Headline("auroc_macro", "AUROC, mean over findings"),
    "phase-probe": Headline("f1_macro", "F1, mean over phases"),
    "finetune": Headline("auroc_macro", "AUROC, mean over findings"),
    "segmentation": Headline("dice_macro", "Dice, mean over structures"),
    "retrieval": Headline("recall_at_10", "Right answer among the first 10"),
    "temporal-retrieval": Headline("recall_at_1", "Right moment first"),
    "order": Headline("order_accuracy_macro", "True order of events preferred", 0.5),
    "tools": Headline(
        "average_precision_video_macro", "Average precision, mean over videos and tools"
    ),
    "triplets": Headline(
        "average_precision_video_macro_ivt", "Average precision of triplets, mean over videos"
    ),
    "polarity": Headline("robustness", "Right sentences, affirmed or denied", 0.5),
    "laterality": Headline("robustness", "Right sentences about sides", 0.5),
    "severity": Headline("robustness", "Right sentences about degree and change", 0.5),
    "grounded": Headline("robustness", "Answers from the right place in the image", 0.5),
    "corruption": Headline("robustness", "Kept of the AUROC above chance"),
    "adversarial": Headline("robustness", "Right calls that stay right"),
    "vqa": Headline("accuracy", "Share of closed questions answered rightly"),
}

FINDINGS = frozenset({"zero-shot", "probe", "finetune"})
"""Tasks whose rows are findings that are present or absent, independent of each other."""

AXES = {
    "polarity": "Tells “no effusion” from “effusion”",
    "laterality": "Tells left from right",
    "severity": "Tells mild from severe",
    "grounded": "Looks where the finding is",
    "corruption": "Keeps its answers on poorer images",
    "adversarial": "Keeps its answers under attack",
}
"""Robustness axes: task kind -> what a score of 1 means."""

AXIS_METRIC = "robustness"

TITLES = {
    "surface_dice": "Surface Dice",
    "surface_dice_macro": "Surface Dice, mean",
    "hd95_mm": "Hausdorff distance, 95th percentile (mm)",
    "hd95_mm_macro": "Hausdorff distance, 95th percentile, mean (mm)",
    "missed": "Structures missed altogether",
    "missed_macro": "Structures missed altogether, mean",
    "false_positive_empty": "Drawn where there is nothing",
    "false_positive_empty_macro": "Drawn where there is nothing, mean",
    AXIS_METRIC: "Robustness score",
    "auroc": "AUROC",
    "auroc_macro": "AUROC, mean",
    "average_precision": "Average precision",
    "average_precision_macro": "Average precision, mean",
    "prevalence": "Prevalence",
    "brier_score": "Brier score",
    "brier_score_macro": "Brier score, mean",
    "calibration_error": "Calibration error",
    "calibration_error_macro": "Calibration error, mean",
    "recall": "Sensitivity",
    "specificity": "Specificity",
    "accuracy": "Accuracy",
    "accuracy_video": "Accuracy, mean over videos",
    "f1": "F1",
    "f1_macro": "F1, mean over phases",
    "f1_macro_video": "F1, mean over videos",
    "order_accuracy": "True order preferred",
    "order_accuracy_macro": "True order preferred, mean",
    "median_rank": "Median rank",
    "reciprocal_rank": "Mean reciprocal rank",
    "average_precision_lift": "Average precision over prevalence",
    "average_precision_lift_macro": "Average precision over prevalence, mean",
    "calibration_error_adaptive": "Calibration error, bins equally full",
    "calibration_error_adaptive_macro": "Calibration error, bins equally full, mean",
    "specificity_macro": "Specificity, mean",
    "balanced_accuracy": "Balanced accuracy",
    "balanced_accuracy_macro": "Balanced accuracy, mean",
    "mcc": "Matthews' correlation",
    "mcc_macro": "Matthews' correlation, mean",
    "f1_micro": "F1, all findings pooled",
    "ppv": "Positive predictive value, in this sample",
    "npv": "Negative predictive value, in this sample",
    "ppv_stated": "Positive predictive value, at the stated prevalence",
    "npv_stated": "Negative predictive value, at the stated prevalence",
    "accuracy_video_relaxed": "Accuracy, mean over videos, forgiving near boundaries",
    "average_precision_video": "Average precision, mean over videos",
    "average_precision_video_macro": "Average precision, mean over videos, then over labels",
    "edit_score": "Order of phases (edit score)",
    "f1_macro_video_relaxed": "F1, mean over videos, forgiving near boundaries",
    "f1_present": "F1, mean over the videos that have the phase",
    "f1_present_macro": "F1, mean over the videos that have a phase, then over phases",
    "jaccard": "Jaccard index",
    "jaccard_macro": "Jaccard index, mean over phases",
    "jaccard_macro_video": "Jaccard index, mean over videos",
    "jaccard_present_macro": "Jaccard index, mean over the videos that have a phase, then phases",
    "precision": "Precision",
    "precision_macro": "Precision, mean over phases",
    "precision_macro_video": "Precision, mean over videos",
    "precision_present_macro": "Precision, mean over the videos that have a phase, then phases",
    "recall_macro": "Sensitivity, mean",
    "recall_macro_video": "Sensitivity, mean over videos",
    "recall_present_macro": "Sensitivity, mean over the videos that have a phase, then phases",
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "exact_match": "Same words as the reference",
    "finding_f1": "F1 of the finding in texts",
    "finding_f1_macro": "F1 of findings in texts, mean over findings",
    "finding_f1_micro": "F1 of findings in texts, pooled",
    "laterality_error": "Findings told on another side",
    "polarity_error": "Findings turned round (affirmed for denied, or denied for affirmed)",
    "radgraph_f1": "RadGraph F1",
    "rouge_l": "ROUGE-L",
    "token_f1": "F1 of words",
    "jaccard_present": "Jaccard index, mean over the videos that have the phase",
    "precision_present": "Precision, mean over the videos that have the phase",
    "recall_present": "Sensitivity, mean over the videos that have the phase",
    "segment_f1_10_video": "F1 of segments that overlap by 10 %, mean over videos",
    "segment_f1_25_video": "F1 of segments that overlap by 25 %, mean over videos",
    "segment_f1_50_video": "F1 of segments that overlap by 50 %, mean over videos",
    "segment_f1_10": "F1 of segments that overlap by 10 %",
    "segment_f1_25": "F1 of segments that overlap by 25 %",
    "segment_f1_50": "F1 of segments that overlap by 50 %",
    "accuracy_attacked": "Right calls under attack",
    "attack_success": "Attack success: right calls lost",
    "auroc_attacked": "AUROC under attack",
    "auroc_changed": "AUROC by corruption and level",
    "auroc_clean": "AUROC, clean images",
    "auroc_kept": "Kept of the AUROC above chance, by corruption",
    "auroc_relative": "AUROC corrupted, relative to clean",
    "robustness": "Robustness score",
    "share_right_family": "Right choices, by kind of question",
    "share_right_finding": "Right choices, by finding",
    "still_right": "Right calls that stay right, by attack",
    "area_share": "Area of the region (a blind guess)",
    "area_share_macro": "Area of the region (a blind guess), mean over findings",
    "contrast_to_noise": "Contrast to noise",
    "contrast_to_noise_macro": "Contrast to noise, mean over findings",
    "dice": "Dice at the validation threshold",
    "dice_macro": "Dice at the validation threshold, mean over findings",
    "iou": "Overlap (IoU) at the validation threshold",
    "iou_macro": "Overlap (IoU) at the validation threshold, mean over findings",
    "miou_cosine": "Overlap (IoU), mean over cosines above 0.1 to 0.5",
    "miou_cosine_macro": "Overlap (IoU), mean over cosines above 0.1 to 0.5 and findings",
    "miou_rescaled": "Overlap (IoU), mean over 0.1 to 0.5 of each map's range",
    "miou_rescaled_macro": "Overlap (IoU), mean over 0.1 to 0.5 of each map's range and findings",
    "pixel_average_precision": "Average precision of pixels",
    "pixel_average_precision_macro": "Average precision of pixels, mean over findings",
    "pointing_game": "Pointing game",
    "pointing_game_macro": "Pointing game, mean over findings",
    "slice_average_precision": "Average precision of a volume's slices",
    "slice_average_precision_macro": "Average precision of a volume's slices, mean over findings",
    "slice_pointing": "Right slice (pointing game)",
    "slice_pointing_macro": "Right slice (pointing game), mean over findings",
    "slice_share": "Share of slices with the region (a blind guess)",
    "slice_share_macro": "Share of slices with the region (a blind guess), mean over findings",
}

COMPONENTS = {
    "_i": "instruments",
    "_v": "verbs",
    "_t": "targets",
    "_iv": "instrument and verb",
    "_it": "instrument and target",
    "_ivt": "triplets",
}
"""Ending of a metric of action triplets -> what it is about."""

DEPTHS = {
    "recall_at_": "Right answer among the first",
    "precision_at_": "Share of right answers among the first",
    "hit_at_": "Some right answer among the first",
}

TASKS = {
    "shortcuts": "What can be had without looking at the anatomy (shortcuts)",
    "class-retrieval": "Finding reports that say the same as an image shows",
    "generation": "Writing a report about an image",
    "vqa": "Answering questions about an image",
    "probe": "Findings from frozen features (linear probe or nearest neighbours)",
    "phase-probe": "Surgical phases or steps from frozen features, learnt from few procedures",
    "finetune": "Findings after training the whole image encoder on labels",
    "segmentation": "Drawing structures with a head on the image encoder",
    "zero-shot": "Findings asked for in words (zero-shot)",
    "phases": "Surgical phases or steps asked for in words (zero-shot)",
    "grounding": "Pointing at findings asked for in words (zero-shot)",
    "retrieval": "Finding the report to an image, and the image to a report",
    "temporal-retrieval": "Finding the moment of a recording that a sentence tells of",
    "order": "Telling the true order of a procedure from wrong ones",
    "tools": "Instruments in view, asked for in words (zero-shot)",
    "triplets": "Instrument, verb and target asked for in words (zero-shot)",
    "polarity": "Robustness: affirmed or denied",
    "laterality": "Robustness: left or right, high or low",
    "severity": "Robustness: degree, size, number and change",
    "grounded": "Robustness: does the answer come from the image",
    "corruption": "Robustness: worse images",
    "adversarial": "Robustness: attacks",
}

PERCENT = {
    "sensitivity_validated_": "Sensitivity at the threshold set on validation for a specificity of",
    "specificity_validated_": "Specificity here of the threshold set on validation for",
    "roc_sensitivity_at_specificity_": "Sensitivity on the ROC curve at a specificity of",
    "net_benefit_at_": "Net benefit when acting from",
    "net_benefit_of_all_at_": "Net benefit of acting on everybody, at",
}
"""Metrics whose name ends in a percentage."""


def headline(task: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The metric that stands for a task: its headline, or the first that there is."""
    if task in HEADLINES:
        return HEADLINES[task].metric
    names = [str(row["metric"]) for row in rows]
    return AXIS_METRIC if AXIS_METRIC in names else next(iter(names), "")


def task_title(kind: str) -> str:
    """A task's words for people."""
    return f"Robustness: {AXES[kind].lower()}" if kind in AXES else TASKS.get(kind, kind)


def title(metric: str) -> str:
    """A metric's words for people."""
    for start, words in DEPTHS.items():
        if metric.startswith(start):
            return f"{words} {metric.removeprefix(start)}"
    base, _, component = metric.rpartition("_")
    if base.startswith("average_precision") and f"_{component}" in COMPONENTS:
        return f"{title(base)}: {COMPONENTS[f'_{component}']}"
    for start, words in PERCENT.items():
        if metric.startswith(start):
            percent, _, macro = metric.removeprefix(start).partition("_")
            return f"{words} {percent} %" + (", mean" if macro else "")
    return TITLES.get(metric, metric.replace("_", " "))
