"""Evaluation tasks of surgical video, beside the core's."""
