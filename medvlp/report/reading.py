"""How to read a report: what to mind in each task's numbers, and what each control is."""

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
    "phase-probe": (
        _TRAINED,
        "A linear head on frozen features calls one phase for every window. Compare with the "
        "encoder of random weights: what it reaches needs no pre-training.",
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
    "order": (
        "The texts of a level are laid over a recording's windows in their true order and in wrong "
        "ones (reversed, two neighbours swapped, shuffled). Half of the comparisons are won by "
        "whoever does not look.",
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
