"""All that knows ONNX files: checks, facts, passes, encodings."""
