"""How requests may come: as one large batch, or at random times."""
