"""Consumers of the log, and the catch-up loop that runs them."""
