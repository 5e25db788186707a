"""The table that a paper prints."""
