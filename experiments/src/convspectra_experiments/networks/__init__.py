"""The networks that are trained, and published ones."""
