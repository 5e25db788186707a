"""Which shortcut would do: what predicts a label without any anatomy, and what a model leans on."""
