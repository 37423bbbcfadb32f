"""Models of several files: how they are made, and when an early answer is final."""
