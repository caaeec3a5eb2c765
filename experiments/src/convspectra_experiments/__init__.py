"""The experiments and benchmarks of convspectra: networks, training, studies and their reports."""
