"""A small server of a bundle, which travels with it where it is asked for."""
