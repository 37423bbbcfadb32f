"""What computes on a GPU for the runtimes: calls, integer and sparse layers, choosing kernels."""
