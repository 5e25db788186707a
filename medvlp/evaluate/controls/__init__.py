"""The rows that stand beside every model: what can be had without looking."""
