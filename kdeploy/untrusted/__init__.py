"""What others wrote: documents, paths and code, read within bounds and refused in a sentence."""
