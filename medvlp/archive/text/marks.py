"""What tells the acquisitions and reconstructions in one DICOM series apart."""

from __future__ import annotations

from typing import Any

from pydicom.dataset import Dataset

Marks = tuple[str, ...]
"""One value for each of `MARKS`, empty where the file does not say."""

MARKS = (
    "reference",
    "dimension",
    "stack",
    "temporal",
    "phase",
    "trigger",
    "units",
    "kernel",
    "energy",
    "contrast",
    "echo",
    "kind",
    "number",
    "acquisition",
    "time",
)
"""In the order in which they are tried where slices share a place."""

_POSITION_POINTERS = frozenset({0x00200032, 0x00201041, 0x00209057, 0x00209113, 0x00209301})
"""Dimensions that count along the volume: image position, slice location, position in a stack."""

_PLAIN = {
    "reference": "FrameOfReferenceUID",
    "temporal": "TemporalPositionIdentifier",
    "phase": "NominalPercentageOfCardiacPhase",
    "trigger": "TriggerTime",
    "units": "RescaleType",
    "kernel": "ConvolutionKernel",
    "energy": "KVP",
    "contrast": "ContrastBolusAgent",
    "echo": "EchoTime",
    "kind": "ImageType",
    "number": "SeriesNumber",
    "acquisition": "AcquisitionNumber",
}
_FRAME = {
    "stack": ("FrameContentSequence", "StackID"),
    "temporal": ("FrameContentSequence", "TemporalPositionIndex"),
    "phase": ("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase"),
    "units": ("PixelValueTransformationSequence", "RescaleType"),
    "kernel": ("CTReconstructionSequence", "ConvolutionKernel"),
    "energy": ("CTXRayDetailsSequence", "KVP"),
    "echo": ("MREchoSequence", "EffectiveEchoTime"),
    "kind": ("CTImageFrameTypeSequence", "FrameType"),
    "acquisition": ("FrameContentSequence", "FrameAcquisitionNumber"),
    "time": ("FrameContentSequence", "FrameAcquisitionDateTime"),
}


_EMPTY = Dataset()
"""What an absent group is like; never changed, for making one a frame takes long."""


def marks_of(ds: Dataset) -> Marks:
    """The marks of a file that holds one slice, or several frames without a description each."""
    values = {name: _text(ds, keyword) for name, keyword in _PLAIN.items()}
    values["time"] = _text(ds, "AcquisitionDateTime") or _text(ds, "AcquisitionTime")
    return tuple(values.get(name, "") for name in MARKS)


def frame_marks(ds: Dataset, frame: Dataset, shared: Dataset) -> Marks:
    """The marks of one frame of an enhanced file (PS3.3 C.7.6.16 and C.7.6.17).

    Args:
        ds: The file's data set.
        frame: The frame's item of the per-frame functional groups.
        shared: The item of the shared functional groups.
    """
    values = {
        name: _text(_first(frame, group) or _first(shared, group), keyword)
        for name, (group, keyword) in _FRAME.items()
    }
    values["dimension"] = _dimension(ds, _first(frame, "FrameContentSequence"))
    values["number"] = _text(ds, "SeriesNumber")
    values["reference"] = _text(ds, "FrameOfReferenceUID")
    return tuple(values.get(name, "") for name in MARKS)


def _dimension(ds: Dataset, content: Dataset) -> str:
    """The frame's indices along every dimension but those that count along the volume."""
    indices = _value(content, "DimensionIndexValues")
    items = _value(ds, "DimensionIndexSequence")
    if indices is None or items is None:
        return ""
    indices = [indices] if isinstance(indices, int) else list(indices)
    pointers = [_value(item, "DimensionIndexPointer") for item in items]
    if len(pointers) != len(indices):
        return ""
    pairs = zip(pointers, indices, strict=True)
    return ",".join(str(index) for pointer, index in pairs if pointer not in _POSITION_POINTERS)


def _first(ds: Dataset, keyword: str) -> Dataset:
    items = _value(ds, keyword)
    return items[0] if items else _EMPTY


def _value(ds: Dataset, keyword: str) -> Any:
    """The attribute's value, or None: what merely tells slices apart may be unreadable."""
    try:
        return ds.get(keyword)
    except Exception:
        return None


def _text(ds: Dataset, keyword: str) -> str:
    value = _value(ds, keyword)
    return "" if value is None else str(value).strip()
