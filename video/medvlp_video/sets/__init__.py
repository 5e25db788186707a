"""Readers of published sets of surgical video in their own on-disk layouts."""
