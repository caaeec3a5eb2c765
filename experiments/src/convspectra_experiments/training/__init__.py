"""One run: its settings, its training loop, and what is measured on the network."""
