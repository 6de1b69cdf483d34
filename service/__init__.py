"""What an operator runs: the command line, settings, and the processes that put the parts together."""
