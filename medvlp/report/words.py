"""The report's plain words: what each metric is called and how to read it."""

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
    "finetune": Headline("auroc_macro", "AUROC, mean over findings"),
    "segmentation": Headline("dice_macro", "Dice, mean over structures"),
    "retrieval": Headline("recall_at_10", "Right answer among the first 10"),
    "temporal-retrieval": Headline("recall_at_1", "Right moment first"),
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
    "finetune": "Findings after training the whole image encoder on labels",
    "segmentation": "Drawing structures with a head on the image encoder",
    "zero-shot": "Findings asked for in words (zero-shot)",
    "phases": "Surgical phases or steps asked for in words (zero-shot)",
    "grounding": "Pointing at findings asked for in words (zero-shot)",
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

_TRAINED = (
    "Every model and every control was trained with the same budget of settings. Which setting "
    "was taken, the probabilities and the thresholds come from validation patients alone; no "
    "patient, and no file, stands in two of the three splits."
)

READING = {
    "class-retrieval": (
        "An answer is right if its study has the finding that the image has. With few findings a "
        "blind guess is right often: of five equally frequent ones, nine searches in ten hit one "
        "within ten answers. Read precision, beside the chance row.",
    ),
    "shortcuts": (
        "Every row is a detector that knows nothing of anatomy, fitted on training patients. Well "
        "above 0.5, the label can be had that way, and a model may have taken it.",
        "Rows of a model say how well site, scanner, view or sex can be read from its embeddings.",
    ),
    "probe": (
        _TRAINED,
        "AUROC is the chance that a study with the finding scores higher than one without it: "
        "0.5 is a coin toss, 1.0 is perfect. Compare with the encoder of random weights: what it "
        "reaches needs no pre-training.",
    ),
    "finetune": (
        _TRAINED,
        "AUROC is the chance that a study with the finding scores higher than one without it: "
        "0.5 is a coin toss, 1.0 is perfect. The encoder of random weights was trained on the same "
        "labels: the distance to it is what pre-training brought.",
    ),
    "segmentation": (
        _TRAINED,
        "Dice is twice the common area over the sum of both areas; 1.0 is perfect. It counts the "
        "structure alone, never the background, and only samples that have the structure; in the "
        "others it is told how often something was drawn where there is nothing.",
        "Surface Dice is the share of the outlines that lie within the protocol's tolerance of "
        "each other. The Hausdorff distance leaves out structures that were missed altogether, "
        "which are counted apart.",
        "The prevalence row draws the mean mask of the training patients, whatever the image "
        "shows.",
    ),
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
    "generation": (
        "BLEU and ROUGE-L count words in common with the reference report (1.0 is the same text). "
        "They reward common phrases: compare with the text-only row, which writes without seeing, "
        "and with constant-report, which gives everybody the most frequent training report.",
        "F1 of findings asks whether the same findings are affirmed; a labeller reads both texts, "
        "and what the reference doubts does not count. Findings turned round, or told on another "
        "side, are counted among those that both texts speak of.",
    ),
    "vqa": (
        "Many questions can be answered without looking: the text-only row has learnt from the "
        "questions alone, and prevalence gives the most frequent training answer to the same "
        "question. What a model adds by looking is the distance to these rows.",
        "Open answers are compared as texts: the same words, or F1 of the words in common.",
    ),
    "grounding": (
        "Only images in which the finding is drawn count. Average precision asks whether pixels "
        "of the finding have higher values than the others, at every threshold at once; the "
        "pointing game asks whether the highest value lies inside. A flat map reaches the area of "
        "the region in both, a smooth random one a little more (the chance row). A map that always "
        "points where the finding is most often reaches the mean-location row: a model has to beat "
        "that row to show that it looks.",
        "IoU and Dice use a threshold that was chosen for each model and finding on validation "
        "patients. Contrast to noise ignores its sign: a map that is dark exactly where it should "
        "be bright has the same value, so read it beside the others.",
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
    "constant-report": "the most frequent training report, for everybody",
    "text-only": "the same decoder trained and tested on blank images: what words alone give",
    "centre-prior": "a map that points at the middle of every image",
    "mean-location": "the mean place of the finding in training patients, whatever the image shows",
    "all-positive": "calls everything present: what F1 gives for nothing",
    "border-only": (
        "a regression on the outer tenth of the picture alone: marks, letters, padding and "
        "collimator edges, hardly any anatomy"
    ),
    "random-label": "the first model's scores handed to other patients: no skill is left",
    "metadata-only": "a regression on sex, age, view, site and scanner, without the image",
    "image-blind": (
        "the same model trained and tested with images swapped between patients: what can be "
        "had without looking"
    ),
    "random-encoder": "the first model's image encoder with random weights, trained the same way",
    "supervised-unimodal": "the image model trained on the labels alone, without any text",
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
