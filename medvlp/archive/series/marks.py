"""What tells the acquisitions and reconstructions in one DICOM series apart."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from medvlp.archive.dicom.values import Fields
from medvlp.archive.verdict import Reject

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
_GROUPS = tuple(dict.fromkeys(group for group, _ in _FRAME.values()))


def marks_of(fields: Fields) -> Marks:
    """The marks of a file that holds one slice, or several frames without a description each."""
    values = {name: fields.words(keyword) for name, keyword in _PLAIN.items()}
    values["time"] = fields.words("AcquisitionDateTime") or fields.words("AcquisitionTime")
    return tuple(values.get(name, "") for name in MARKS)


class FrameMarks:
    """The marks of an enhanced file's frames (PS3.3 C.7.6.16 and C.7.6.17).

    Args:
        fields: The file's fields.
        shared: The item of the shared functional groups.
    """

    def __init__(self, fields: Fields, shared: Fields) -> None:
        self._shared = {group: _first(shared, group) for group in _GROUPS}
        self._pointers = [_pointer(item) for item in _items(fields, "DimensionIndexSequence")]
        self._plain = {
            "number": fields.words("SeriesNumber"),
            "reference": fields.words("FrameOfReferenceUID"),
        }

    def of(self, frame: Fields) -> Marks:
        """The marks of the frame with this item of the per-frame functional groups."""
        own = {group: _first(frame, group) for group in _GROUPS}
        values = dict(self._plain)
        for name, (group, keyword) in _FRAME.items():
            holder = own[group] or self._shared[group]
            values[name] = "" if holder is None else holder.words(keyword)
        values["dimension"] = self._dimension(own["FrameContentSequence"])
        return tuple(values.get(name, "") for name in MARKS)

    def _dimension(self, content: Fields | None) -> str:
        """The frame's indices along every dimension but those that count along the volume."""
        indices = [] if content is None else content.words("DimensionIndexValues").split("\\")
        if len(self._pointers) != len(indices):
            return ""
        pairs = zip(self._pointers, indices, strict=True)
        return ",".join(index for pointer, index in pairs if pointer not in _POSITION_POINTERS)


def _pointer(item: Fields) -> int:
    """The element along which a dimension counts; 0 where it does not say."""
    data = item.content("DimensionIndexPointer")
    if len(data) != 4:
        return 0
    group, number = struct.unpack(item.order("DimensionIndexPointer") + "HH", data)
    return int(group << 16 | number)


def _first(fields: Fields, keyword: str) -> Fields | None:
    """The first item of a group, if it says anything."""
    items = _items(fields, keyword)
    return items[0] if items and len(items[0].dataset) else None


def _items(fields: Fields, keyword: str) -> Sequence[Fields]:
    """The items; none where they are unreadable, for they merely tell slices apart."""
    try:
        return fields.items(keyword)
    except Reject:
        return ()
