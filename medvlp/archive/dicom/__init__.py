"""DICOM files: bounded parsing, headers, pixels, and trees of them."""
