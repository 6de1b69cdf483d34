"""The rows: each takes the shared setup and returns its measurements."""
