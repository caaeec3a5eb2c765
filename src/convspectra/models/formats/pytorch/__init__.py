"""PyTorch checkpoints: pickled state dicts."""
