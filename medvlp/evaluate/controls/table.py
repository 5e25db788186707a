"""Which control belongs to which task: in every table, or the reason why not."""

from __future__ import annotations

from collections.abc import Collection, Mapping

COMPUTED = (
    "chance",
    "all-positive",
    "prevalence",
    "metadata-only",
    "border-only",
    "random-label",
)
"""Controls that need no bundle of their own."""

BUNDLES = ("image-blind", "text-only", "random-encoder", "supervised-unimodal")
"""Controls that are trained, or made from a trained bundle."""

CONTROLS = (*COMPUTED, *BUNDLES)
"""What every table has, or says why not, in the order in which tables show them."""

PRIORS = ("centre-prior", "mean-location", "constant-report", "frequent-answer")
"""Guesses that only some tasks can make: a place, a report, an answer without the image."""

RESERVED = (*CONTROLS, *PRIORS)
"""Names that no model may carry."""

_FITTED = ("prevalence", "metadata-only", "border-only")

_NO_LABEL = "the task has no labels that a row could be fitted to"
_NO_WORDS = "the model is given an image and no question or report to answer without it"
_NO_HEAD = "the control answers by labels, the task asks for something else"
_NO_RANK = "whoever calls everything right ranks nothing"

_LABELS = {"text-only": _NO_WORDS}
_RANKS = {
    **dict.fromkeys(_FITTED, _NO_LABEL),
    "all-positive": _NO_RANK,
    "random-label": "image-blind and chance give other patients' answers already",
    "text-only": _NO_WORDS,
    "supervised-unimodal": "it has read no text",
}
_WORDS = {
    **dict.fromkeys(_FITTED, _NO_LABEL),
    "all-positive": _NO_LABEL,
    "random-label": "image-blind answers with another patient's image already",
    "supervised-unimodal": _NO_HEAD,
}
_PLACES = {
    **dict.fromkeys(_FITTED, "a place in the image is asked for, not a label"),
    "random-label": "image-blind points into another patient's image already",
    "text-only": _NO_WORDS,
    "supervised-unimodal": _NO_HEAD,
}

_ATTACKED = dict.fromkeys(
    CONTROLS, "an image is altered, and what does not look has nothing to lose"
)

UNFIT: Mapping[str, Mapping[str, str]] = {
    "corruption": _ATTACKED,
    "adversarial": _ATTACKED,
    "shortcuts": dict.fromkeys(CONTROLS, "all rows of this task are controls"),
    "zero-shot": _LABELS,
    "phases": _LABELS,
    "probe": _LABELS,
    "phase-probe": _LABELS,
    "finetune": _LABELS,
    "retrieval": _RANKS,
    "class-retrieval": _RANKS,
    "temporal-retrieval": _RANKS,
    "order": _RANKS,
    "generation": _WORDS,
    "vqa": {},
    "grounding": _PLACES,
    "segmentation": _PLACES,
}
"""Task -> control -> why it says nothing there. Tasks that are not listed take all controls."""

_MISSING = {
    **dict.fromkeys(_FITTED, "there is no training split to fit it on"),
    "image-blind": "no bundle that was trained as this control was given",
    "supervised-unimodal": "no bundle that was trained as this control was given",
    "random-encoder": "no bundle with weights drawn anew was given",
    "random-label": "there is no model whose scores could be handed to other patients",
}
ROW = "row"


def told_controls(task: str, models: Collection[str]) -> dict[str, str]:
    """Each control: ``row`` where it stands in the table, or the reason why it does not.

    Args:
        task: The task's kind.
        models: Names that have rows.

    >>> told_controls("retrieval", ["mine", "chance"])["chance"]
    'row'
    """
    unfit = UNFIT.get(task, {})
    return {
        name: ROW
        if name in models
        else unfit.get(name, _MISSING.get(name, "the task does not compute it"))
        for name in CONTROLS
    }
