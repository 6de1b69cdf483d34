"""Errors that an operator or integrator can act on. Each message is one sentence that says what to do.

The command line prints the message and exits with `exit_status`. Any other exception is a defect and keeps its traceback.
"""


class DuroError(Exception):
    exit_status = 1


class InvalidInput(DuroError):
    """The input is malformed; nothing was changed."""

    exit_status = 2


class NotFound(DuroError):
    """The id is well formed but does not exist here."""


class Conflict(DuroError):
    """The present state does not allow it."""


class Unavailable(DuroError):
    """A resource (database, port, directory) cannot be used."""
