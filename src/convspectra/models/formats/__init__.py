"""One folder a format: its reader, and its writer where files are written back."""
