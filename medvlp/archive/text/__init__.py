"""Reports in all forms that they come in."""
