"""Slices to volumes: grouping, geometry, repair, values, quality records."""
