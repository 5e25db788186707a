"""The evaluate room: protocols, predictions, metrics with intervals, controls."""
