"""The channels of a model: which go together, what they are worth, how they are removed."""
