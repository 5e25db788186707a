"""The objectives of surgical video: pure functions, then thin modules."""
