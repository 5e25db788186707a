"""Metrics as pure functions of predictions, with patient-clustered intervals."""
