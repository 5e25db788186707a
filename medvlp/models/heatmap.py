"""Where in an image a text is found: the cosine of each patch with the text."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from medvlp.archive.series.nifti import nifti_bytes
from medvlp.data.preprocess import Preprocess, model_input
from medvlp.data.underlay import Underlay
from medvlp.errors import InputError
from medvlp.models.heat_volume import HeatVolume, blend
from medvlp.models.montage import draw_montage
from medvlp.models.two_tower import TwoTower

SLICES = 8
"""Slices of highest cosine that a montage shows, beside those evenly between."""

_STEPS = 2**12
"""Steps of a cosine of 1 in a NIfTI file: far finer than any difference that tells places apart,
and coarse enough for the file to be compressed."""


@dataclass(frozen=True, kw_only=True)
class Heatmap:
    """A text's place in one image, slice or frame."""

    text: str

    picture: NDArray[np.uint8]
    """(H,W,3), the view for people."""

    map_HW: NDArray[np.float32]
    """Cosine of patch and text, in [-1,1], upsampled to the picture."""

    similarity: float
    """Cosine of the whole input and the text."""

    grid: NDArray[np.float32]
    """The cosines on the token grid: (h,w), (d,h,w) or (f,h,w)."""

    index: int | None = None
    """The slice or frame of the stored array that is shown: that of the highest cosine; None for
    flat images."""

    share_D: NDArray[np.float32] | None = None
    """Share of each slice in the whole volume's vector, from towers that weigh slices."""

    underlay: Underlay | None = None
    """The volume itself, where the input was a file that says where its voxels lie."""

    def overlay(self) -> NDArray[np.uint8]:
        """The picture with the map over it, (H,W,3); the map's own range becomes the colours'."""
        low, high = float(self.map_HW.min()), float(self.map_HW.max())
        return blend(self.picture, (self.map_HW - low) / max(high - low, 1e-12))

    def save_overlay(self, path: str | Path) -> None:
        """Write `overlay` as a PNG file."""
        with _whole(Path(path)) as partial:
            Image.fromarray(self.overlay()).save(partial, "png")

    def native(self) -> NDArray[np.float32]:
        """The cosines at the volume's own voxels, in the order and orientation of its files.

        (D,H,W): the axes of the underlay's `values_DHW`. Linear between the centres of the token
        grid's cells; NaN at voxels that the model does not see, because its input is cut there.

        Raises:
            InputError: The input was no file of a volume.
        """
        return self._underlay().placement.spread(self.grid)

    def save_nifti(self, path: str | Path) -> None:
        """Write `native` as a NIfTI file (``.nii.gz``) on the volume's own grid.

        Shape and affine are those of the volume's file, or of a DICOM series' columns, rows and
        slices, so that any viewer lays the map over it. Values are float32 in steps of 2^-12.

        Raises:
            InputError: The input was no file of a volume, or `path` has another ending.
        """
        target = Path(path)
        if not target.name.endswith(".nii.gz"):
            raise InputError(
                "the file for a NIfTI volume has another ending", remedy="end its name in .nii.gz"
            )
        heat_DHW = np.rint(self.native() * np.float32(_STEPS)) / np.float32(_STEPS)
        data = nifti_bytes(heat_DHW.transpose(2, 1, 0), self._underlay().affine_whd)
        with _whole(target) as partial:
            partial.write_bytes(data)

    def save_montage(
        self, path: str | Path, slices: int = SLICES, window: tuple[float, float] | None = None
    ) -> None:
        """Write a PNG sheet of the slices that matter: those of highest cosine, not adjacent.

        Beside them a coronal scout through the highest place, the highest cosine of each slice
        and, from towers that weigh slices, its share; below, slices evenly from head to feet.

        Args:
            path: The file.
            slices: How many of highest cosine.
            window: Values to show as black and as white, in HU for CT; by default what suits the
                volume.

        Raises:
            InputError: The input was no file of a volume, or no slice is asked for.
        """
        if slices < 1:
            raise InputError(f"a montage of {slices} slices", remedy="ask for one or more")
        laid = HeatVolume.of(self._underlay(), self.native(), self.grid.shape, window)
        figure = draw_montage(laid, self.text, self.similarity, self.share_D, slices)
        with _whole(Path(path)) as partial:
            figure.savefig(partial, format="png", facecolor=figure.get_facecolor())

    def _underlay(self) -> Underlay:
        if self.underlay is None:
            raise InputError(
                "the heatmap is of no volume file, so nothing says where it lies in a patient",
                remedy="name a CT series or NIfTI file; for pictures and video, use save_overlay",
            )
        return self.underlay


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """The name under which a file is written that gets its own only if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@torch.inference_mode()
def text_heatmaps(
    model: TwoTower,
    preprocess: Preprocess,
    stored: NDArray[Any],
    texts: Sequence[tuple[str, Tensor]],
    underlay: Underlay | None = None,
) -> list[Heatmap]:
    """The places of texts in one stored array, which the model sees once.

    Args:
        model: The model.
        preprocess: What makes its input.
        stored: The array.
        texts: Each text with its embedding, (E,) on the model's device.
        underlay: The volume that the array was made from.
    """
    device = next(model.parameters()).device
    image = model_input(preprocess, [stored], device)
    features, image_1E, patch_1PE = model.encode_image(image)
    share_D = None if features.share_BD is None else features.share_BD[0].cpu().numpy()
    found = []
    for text, text_E in texts:
        cosines = patch_cosines(patch_1PE[0], text_E, features.grid)
        index = None if cosines.ndim == 2 else best_slice(cosines, len(stored))
        picture = preprocess.picture(stored, 0.5 if index is None else (index + 0.5) / len(stored))
        size = picture.shape[:2]
        if index is None:
            map_HW = upsample(cosines, size)
        else:
            map_HW = upsample(cosines, (len(stored), *size))[index]
        heatmap = Heatmap(
            text=text,
            picture=picture,
            map_HW=map_HW.cpu().numpy(),
            similarity=(image_1E[0] @ text_E).item(),
            grid=cosines.cpu().numpy(),
            index=index,
            share_D=share_D,
            underlay=underlay,
        )
        found.append(heatmap)
    return found


def patch_cosines(patch_PE: Tensor, text_E: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Cosine of every projected patch with a unit text vector, on the token grid."""
    return (F.normalize(patch_PE.float(), dim=-1) @ text_E.float()).reshape(grid)


def upsample(cosines: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Cosines on the token grid at another resolution, linearly between patch centres."""
    mode = "bilinear" if cosines.ndim == 2 else "trilinear"
    spread: Tensor = F.interpolate(cosines[None, None], shape, mode=mode, align_corners=False)
    return spread[0, 0]


def best_slice(cosines: Tensor, depth: int) -> int:
    """The slice or frame, of `depth`, that holds the highest cosine of a (d,h,w) grid."""
    per_slice = upsample(cosines, (depth, *cosines.shape[1:])).flatten(1).amax(1)
    return int(torch.argmax(per_slice))
