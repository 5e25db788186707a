"""What tests of imports of CT models share: the known volume, and how a bundle is judged by it."""

import numpy as np
import torch
from published import TEXTS
from torch import nn

from medvlp_volumetric.imports.known import known_volume

SHAPE = (16, 16, 16)


def hu(shape=SHAPE, window=(-1000.0, 1000.0)):
    return torch.from_numpy(known_volume(shape, window).astype(np.float32))


def ras(volume_DHW):
    """(1,1,R,A,S) of a volume to the head, back and left."""
    return volume_DHW.flip(1, 2).permute(2, 1, 0)[None, None]


def check(bundle, image_E, texts_NE, shape=SHAPE, window=(-1000.0, 1000.0), atol=1e-5):
    """The bundle embeds the known volume and `TEXTS` as the original does, whatever is beside."""
    volume = known_volume(shape, window)
    np.testing.assert_allclose(bundle.embed_image(volume)[0], image_E, atol=atol)
    np.testing.assert_allclose(bundle.embed_text(TEXTS), texts_NE, atol=atol)
    for text, row in zip(TEXTS, texts_NE, strict=True):
        np.testing.assert_allclose(bundle.embed_text(text)[0], row, atol=atol)
    assert np.isfinite(bundle.heatmap(volume, "edema").grid).all()


def parts(**modules):
    return nn.ModuleDict(modules)
