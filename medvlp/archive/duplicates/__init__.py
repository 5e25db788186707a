"""Copies and near copies across patients and splits."""
