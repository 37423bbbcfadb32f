"""What the operating system gives: signals, ended processes, temporary folders, caches, drivers."""
