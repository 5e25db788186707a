"""Disentangled alignment of anatomies and observations (MeDSLIP)."""
