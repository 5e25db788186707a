"""The data room: manifest, splits, text, batches, cache and counter-based randomness."""
