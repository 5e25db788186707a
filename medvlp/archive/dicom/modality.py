"""The modality of a file: stated, or concluded from what else the header says."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    MRImageStorage,
)

_STORAGE: dict[str, str] = {
    CTImageStorage: "CT",
    EnhancedCTImageStorage: "CT",
    MRImageStorage: "MR",
    EnhancedMRImageStorage: "MR",
    ComputedRadiographyImageStorage: "CR",
    DigitalXRayImageStorageForPresentation: "DX",
    DigitalXRayImageStorageForProcessing: "DX",
}
_MR_ONLY = ("EchoTime", "RepetitionTime", "MagneticFieldStrength")
_CT_ONLY = ("ConvolutionKernel", "GantryDetectorTilt", "CTDIvol", "DataCollectionDiameter")
_AIR_INTERCEPT = -1000.0


def conclude_modality(ds: Dataset, storage_class: str, intercept: float) -> str:
    """The modality of a file that states none; empty where nothing decides it.

    Args:
        ds: The file's data set.
        storage_class: Its SOPClassUID, which may be empty, too.
        intercept: Its rescale intercept: Hounsfield units put air at -1000.
    """
    if storage_class in _STORAGE:
        return _STORAGE[storage_class]
    if any(keyword in ds for keyword in _MR_ONLY):
        return "MR"
    placed = "ImagePositionPatient" in ds
    if placed and (intercept <= _AIR_INTERCEPT or any(keyword in ds for keyword in _CT_ONLY)):
        return "CT"
    return ""
