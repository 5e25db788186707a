"""Pictures and words changed on purpose, within a budget that is kept after rounding."""
