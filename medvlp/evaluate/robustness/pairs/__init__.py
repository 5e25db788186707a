"""Sentence pairs, one of them right: from a grammar, and about the images of a manifest."""
