"""The parts of the training loop: batches, device, optimizer, average, checkpoint, prediction."""
