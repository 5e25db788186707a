"""Pictures on which names may be burned in are held until somebody has looked at them.

No detector of text in pixels finds all of it, so whole classes of pictures are held: those that
say so, screen captures, scanned film, ultrasound, and cameras. Colour alone is no reason: what
makes colour pictures of a patient is in one of these classes.
"""

from __future__ import annotations

from medvlp.archive.dicom.header import Header
from medvlp.archive.dicom.values import tag_name
from medvlp.archive.verdict import Reject

UNSTATED = "burned_in_unstated"
"""Flag of a picture of a safe class that does not say whether anything is burned in."""

_MODALITIES = frozenset(
    (
        "US", "IVUS", "BDUS", "EC", "DD",  # ultrasound, also as it was called
        "ES", "GM", "XC", "OP", "OPM", "SM", "LS", "CP", "CS", "DM", "FA", "LP", "MA",  # cameras
        "HC", "FD", "DF", "FS", "DS", "VF", "AS", "ST", "TG", "DG",  # film and retired ones
        "SC", "OT", "DOC", "KO",  # captures and documents
    )
)  # fmt: skip
_CONVERSIONS = frozenset(("DV", "DI", "DF", "WSD", "SD", "SI", "DRW", "SYN"))


def burned_in_flags(header: Header, policy: str) -> tuple[str, ...]:
    """Flags of a picture that may be used.

    Args:
        header: Its header.
        policy: ``hold`` or ``allow``, as in `IndexConfig.burned_in`.

    Raises:
        Reject: ``burned_in_risk``: it is held.
    """
    return allowed(risk_of(header), policy) or unstated_flags(header)


def allowed(risk: str, policy: str) -> tuple[str, ...]:
    """Flags of a picture with a risk that `risk_of` found, under a policy.

    Raises:
        Reject: ``burned_in_risk``: it is held.
    """
    if risk and policy == "hold":
        raise Reject("burned_in_risk", risk)
    return ("burned_in_allowed",) if risk else ()


def unstated_flags(header: Header) -> tuple[str, ...]:
    """`UNSTATED` for a picture of a safe class that makes no statement."""
    return () if header.burned_in or risk_of(header) else (UNSTATED,)


def risk_of(header: Header) -> str:
    """The number of the element for which a picture is held; empty where there is none."""
    reason = _reason(header)
    return "" if reason is None else tag_name(reason)


def _reason(header: Header) -> str | None:
    """The element for which a picture is held, or None."""
    if header.burned_in not in ("", "NO"):
        return "BurnedInAnnotation"
    if header.modality in _MODALITIES:
        return "Modality"
    if header.conversion in _CONVERSIONS:
        return "ConversionType"
    return "ImageType" if header.captured else None
