"""Weights of surgical models that others published, from the user's own files into bundles."""
