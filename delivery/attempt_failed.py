"""What went wrong with an attempt, understood where it happened, and phrases for the merchant. Errors that only come out of a
library are wire_errors.py's, which imports the libraries.
"""

import errno
import os
import ssl

from delivery.sending import Outcome


class AttemptFailed(Exception):
    """An error that was understood where it happened."""

    def __init__(self, outcome: Outcome, error: str) -> None:
        super().__init__(error)
        self.outcome = outcome
        self.error = error


def os_reason(failure: OSError) -> str:
    """ "connection refused" and the like."""
    if failure.errno is not None and failure.errno in errno.errorcode:
        return os.strerror(failure.errno).lower()
    return "the connection was closed by the receiver"


def tls_reason(failure: BaseException) -> str:
    if isinstance(failure, ssl.SSLCertVerificationError):
        return f"the certificate was not accepted: {failure.verify_message}"[:200]
    if isinstance(failure, ssl.SSLError) and failure.reason:
        return f"TLS failed: {failure.reason.lower().replace('_', ' ')}"
    return "the connection was closed during the TLS handshake"


def not_http(detail: str) -> AttemptFailed:
    line = detail.partition("\n")[0].strip(" :")[:100]
    shown = f": {line}" if line and line.isprintable() else ""
    return AttemptFailed(Outcome.PROTOCOL, f"the answer is not valid HTTP{shown}")
