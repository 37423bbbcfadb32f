"""Progress for people: the one way to a terminal, and who shows a run there."""
