"""Others' predictions, brought as tables and joined to a protocol's truth."""
