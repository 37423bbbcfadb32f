"""Run a recipe: artefact in, artefact out; the cache, the lineage, the only writer."""
