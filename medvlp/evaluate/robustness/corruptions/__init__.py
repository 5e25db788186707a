"""What befalls a picture between patient and model, by kind and level, on stored values."""
