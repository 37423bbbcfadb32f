"""What a device makes of raw outputs, one task a file: numpy only, shipped in bundles as it is."""
