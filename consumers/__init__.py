"""What follows the log: the one catch-up loop and the consumers that run in it."""
