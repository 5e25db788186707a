"""What is evaluated: one small file a task."""
