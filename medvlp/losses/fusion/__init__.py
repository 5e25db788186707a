"""Image and words in one decoder: whether they belong together, and what to write or answer."""
