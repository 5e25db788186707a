"""Objectives of 3D CT, beside the core's."""
