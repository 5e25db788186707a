"""Objectives that learn from volumes alone."""
