"""Score every image below a folder for a few findings, in your own words.

    python examples/zero_shot_folder.py runs/first/bundle /data/new

Images are read one batch at a time, so the folder may hold any number of them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import medvlp
from medvlp.data.prompts import Prompts, PromptSet

QUESTIONS = PromptSet(
    mode="independent",
    labels={
        "edema": Prompts(
            positive=("Pulmonary edema.", "Interstitial edema is seen."),
            negative=("No pulmonary edema.", "No edema is seen."),
        ),
        "cardiomegaly": Prompts(
            positive=("The heart is enlarged.", "Cardiomegaly."),
            negative=("The heart is of normal size.", "No cardiomegaly."),
        ),
    },
)


def main(bundle_folder: str, images: str) -> None:
    """Print one line an image: file, then the probability of each finding."""
    bundle = medvlp.load(bundle_folder)
    for one in bundle.iter_embed(Path(images)):
        name = one.source.paths[0].name
        if one.embedding_E is None:
            print(f"{name}: not read ({one.code})")
            continue
        scores = bundle.score(one.embedding_E[None], QUESTIONS)
        found = zip(scores.names, scores.probability_NL[0], strict=True)
        print(f"{name}: " + ", ".join(f"{label} {p:.2f}" for label, p in found))


if __name__ == "__main__":
    main(*sys.argv[1:])
