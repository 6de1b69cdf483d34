"""Why an attempt failed: errors of asyncio, ssl and the system become an outcome and a phrase for the merchant.

The libraries' own texts are not passed on: they name addresses, URLs and internals.
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
    """An error that was understood where it happened."""

    def __init__(self, outcome: Outcome, error: str) -> None:
        super().__init__(error)
        self.outcome = outcome
        self.error = error


def explain(failure: Exception, waiting_for: str) -> tuple[Outcome, str]:
    """`waiting_for` is what the attempt was doing, for the case that its time ran out."""
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
    """ "connection refused" and the like."""
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
