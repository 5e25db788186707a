"""Embed a folder once, then ask for images in words.

    python examples/embed_and_search.py runs/first/bundle /data/new "pleural effusion on the left"

`medvlp embed` and `medvlp search` do this with an index on disk; here it is in a few lines of
your own, as a start for something else (nearest neighbours, clustering, duplicates).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import medvlp


def main(bundle_folder: str, images: str, query: str, k: str = "5") -> None:
    """Print the `k` images most like the query, best first."""
    bundle = medvlp.load(bundle_folder)
    read = [one for one in bundle.iter_embed(Path(images)) if one.embedding_E is not None]
    image_NE = np.stack([one.embedding_E for one in read])
    cosine_N = image_NE @ bundle.embed_text(query)[0]
    for i in np.argsort(-cosine_N)[: int(k)]:
        print(f"{cosine_N[i]:+.3f}  {read[i].source.paths[0].name}")


if __name__ == "__main__":
    main(*sys.argv[1:])
