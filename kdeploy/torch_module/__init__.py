"""Facts about a torch model: its cost, what it answers, what it holds and where it misbehaves."""
