"""Translates errors of asyncio, ssl and the operating system into an outcome and a phrase for the tenant.

The libraries' own messages are not passed on: they contain addresses, URLs and internals.
"""

import errno
import logging
import os
import ssl

from delivery.egress.guard import Blocked
from delivery.egress.resolver import DnsFailed
from delivery.http.attempt_contract import Outcome

logger = logging.getLogger(__name__)


class AttemptFailed(Exception):
    """An error with its outcome and its phrase for the tenant."""

    def __init__(self, outcome: Outcome, error: str) -> None:
        super().__init__(error)
        self.outcome = outcome
        self.error = error


def explain(failure: Exception, waiting_for: str) -> tuple[Outcome, str]:
    """Returns the outcome and the phrase. `waiting_for` is the stage that a timeout names."""
    if isinstance(failure, AttemptFailed):
        return failure.outcome, failure.error
    if isinstance(failure, TimeoutError):
        return Outcome.TIMEOUT, f"timed out waiting for {waiting_for}"
    if isinstance(failure, Blocked):
        return Outcome.BLOCKED, str(failure)
    if isinstance(failure, DnsFailed):
        return Outcome.DNS, str(failure)
    logger.error("an attempt failed with an unexpected error", exc_info=failure)
    return Outcome.PROTOCOL, f"internal error ({type(failure).__name__})"


def os_reason(failure: OSError) -> str:
    """The system's message in lower case, such as "connection refused"."""
    if failure.errno is not None and failure.errno in errno.errorcode:
        return os.strerror(failure.errno).lower()
    return "the connection was closed by the receiver"


def tls_reason(failure: BaseException) -> str:
    if isinstance(failure, ssl.SSLCertVerificationError):
        return f"invalid certificate: {failure.verify_message}"[:200]
    if isinstance(failure, ssl.SSLError) and failure.reason:
        return f"TLS failed: {failure.reason.lower().replace('_', ' ')}"
    return "the connection was closed during the TLS handshake"


def not_http(detail: str) -> AttemptFailed:
    line = detail.partition("\n")[0].strip(" :")[:100]
    shown = f": {line}" if line and line.isprintable() else ""
    return AttemptFailed(Outcome.PROTOCOL, f"invalid HTTP response{shown}")
