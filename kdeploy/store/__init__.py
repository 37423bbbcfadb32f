"""What is stored: artefacts, models as build reference, structure and tensors."""
