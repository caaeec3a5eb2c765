"""Engines for many small matrices, and the pool that runs them."""
