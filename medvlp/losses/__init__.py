"""The losses room: pure functions first, thin modules second."""
