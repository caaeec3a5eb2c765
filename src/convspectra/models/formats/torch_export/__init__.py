"""Programs that `torch.export` saved."""
