"""A clock for tests."""


class ToldClock:
    """It moves when it is told to."""

    def __init__(self, time=0.0):
        self.time = time

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.time += seconds
