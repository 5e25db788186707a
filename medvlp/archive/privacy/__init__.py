"""Pseudonyms, scrubbing, withdrawal."""
