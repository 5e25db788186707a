"""Reporting checklists: what the tool knows is filled in, the rest is marked for a person."""
