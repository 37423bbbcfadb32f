"""What the TensorRT exporter and runtime share."""
