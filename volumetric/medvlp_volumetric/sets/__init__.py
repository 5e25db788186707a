"""Readers of published CT data sets in their own on-disk layouts."""
