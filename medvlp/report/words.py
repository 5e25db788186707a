"""The report's plain words: what each metric is called and how to read it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Headline:
    """The number that stands for a task in the summary."""

    metric: str
    title: str
    chance: float | None
    """The value of a blind guess, where it is the same for every data set."""

    low_is_better: bool = False


HEADLINES = {
    "class-retrieval": Headline("precision_at_10", "Right answers among the first 10", None),
    "zero-shot": Headline("auroc_macro", "AUROC, mean over findings", 0.5),
    "phases": Headline("f1_macro", "F1, mean over phases", None),
    "retrieval": Headline("recall_at_10", "Right answer among the first 10", None),
    "temporal-retrieval": Headline("recall_at_1", "Right moment first", None),
    "tools": Headline(
        "average_precision_video_macro", "Average precision, mean over videos and tools", None
    ),
    "triplets": Headline(
        "average_precision_video_macro_ivt", "Average precision of triplets, mean over videos", None
    ),
    "polarity": Headline("robustness", "Right sentences, affirmed or denied", 0.5),
    "laterality": Headline("robustness", "Right sentences about sides", 0.5),
    "severity": Headline("robustness", "Right sentences about degree and change", 0.5),
    "grounded": Headline("robustness", "Answers from the right place in the image", 0.5),
    "corruption": Headline("robustness", "Kept of the AUROC above chance", None),
    "adversarial": Headline("robustness", "Right calls that stay right", None),
}

TITLES = {
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
    "class-retrieval": "Finding reports that say the same as an image shows",
    "zero-shot": "Findings asked for in words (zero-shot)",
    "phases": "Surgical phases or steps asked for in words (zero-shot)",
    "retrieval": "Finding the report to an image, and the image to a report",
    "temporal-retrieval": "Finding the moment of a recording that a sentence tells of",
    "tools": "Instruments in view, asked for in words (zero-shot)",
    "triplets": "Instrument, verb and target asked for in words (zero-shot)",
    "polarity": "Robustness: affirmed or denied",
    "laterality": "Robustness: left or right, high or low",
    "severity": "Robustness: degree, size, number and change",
    "grounded": "Robustness: does the answer come from the image",
    "corruption": "Robustness: worse images",
    "adversarial": "Robustness: attacks",
}

READING = {
    "zero-shot": (
        "AUROC is the chance that a study with the finding scores higher than one without it: "
        "0.5 is a coin toss, 1.0 is perfect. It does not depend on how common the finding is.",
        "Average precision does: a blind guess reaches the prevalence, so compare it with that.",
        "The calibration error is the average gap between a stated probability and how often it "
        "comes true; 0 is best. Sensitivity and specificity use the threshold that was chosen on "
        "validation patients and travels inside the model.",
    ),
    "phases": (
        "F1 joins how many windows of a phase were found with how many calls were right; 1.0 is "
        "perfect. The mean over phases counts a short phase as much as a long one.",
        "The mean over videos is computed inside each video first; papers use both conventions "
        "and the two numbers must not be compared with each other.",
    ),
    "retrieval": (
        "Each image searches all reports of the test patients, and each report all images. "
        "Reports with the same words count as one answer. Compare with the chance row: the more "
        "candidates there are, the harder the search.",
    ),
    "temporal-retrieval": (
        "A sentence is searched in its own recording, or in all of them. An answer is right if it "
        "overlaps a true moment by the stated share (tIoU) of the time that the two cover "
        "together. Compare with the chance row: it answers from random scores by the same rule.",
    ),
    "tools": (
        "Average precision is computed within each video for the tools that occur in it, then "
        "averaged. A blind guess reaches about the share of time that a tool is in view.",
    ),
    "triplets": (
        "Average precision is computed within each video for the classes that occur in it, then "
        "averaged over videos and classes. A class that occurs in no video counts nowhere.",
    ),
    "polarity": (
        "Each question offers two sentences that differ in one respect. Pairs come in couples that "
        "exchange right and wrong, so that a model that does not look, or counts words, gets half.",
    ),
    "laterality": (
        "Each question offers two sentences that differ in one respect. Pairs come in couples that "
        "exchange right and wrong, so that a model that does not look, or counts words, gets half.",
        "Families named mirror show an image and its mirror image with covered corners: a side "
        "marker cannot help there.",
    ),
    "severity": (
        "Each question offers two sentences that differ in one respect. Pairs come in couples that "
        "exchange right and wrong, so that a model that does not look, or counts words, gets half.",
    ),
    "grounded": (
        "Covering a finding must cost more than covering as much elsewhere; the image must say "
        "more than an empty one or a patient without the finding does, and a report must fit its "
        "own image better than another one with the same finding. Who does not look gets half.",
    ),
    "corruption": (
        "1.0 means that worse images cost nothing, 0 that nothing above chance is left, as a mean "
        "over all kinds and levels. A model without skill on clean images has no score.",
        "Made-up corruptions are only stand-ins: smoke in a real operation looks different.",
    ),
    "adversarial": (
        "The share of right calls that stay right, as a mean over attacks. Budgets are grey levels "
        "of 255 after rounding to 8 bits. Noise of the same size that nobody aimed stands beside "
        "them; it counts for nothing in the score.",
    ),
}

CONTROLS = {
    "chance": "random scores",
    "prevalence": "the share of training patients with the finding, whatever the image shows",
    "metadata-only": "a regression on sex, age, view, site and scanner, without the image",
    "image-blind": (
        "the same model trained and tested with images swapped between patients: what can be "
        "had without looking"
    ),
    "supervised-unimodal": "the image model trained on the labels alone, without any text",
}


PERCENT = {
    "roc_sensitivity_at_specificity_": "Sensitivity on the ROC curve at a specificity of",
    "net_benefit_at_": "Net benefit when acting from",
    "net_benefit_of_all_at_": "Net benefit of acting on everybody, at",
}
"""Metrics whose name ends in a percentage."""


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
