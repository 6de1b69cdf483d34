"""Errors an operator or integrator can act on. Each message is one sentence that says what to do.

The command line prints the message alone and exits with `exit_status`; anything that is not a
DuroError is a defect of ours and keeps its traceback.
"""


class DuroError(Exception):
    exit_status = 1


class InvalidInput(DuroError):
    """What was asked for is malformed; nothing was changed."""

    exit_status = 2


class NotFound(DuroError):
    """The id is well formed but names nothing here."""


class Conflict(DuroError):
    """It cannot be done in the present state."""


class Unavailable(DuroError):
    """Something this needs (database, port, directory) cannot be used as it is."""
