"""The paper's experiments: networks and data; uses the public functions only."""
