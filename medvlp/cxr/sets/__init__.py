"""Readers of published chest X-ray data sets in their own on-disk layouts."""
