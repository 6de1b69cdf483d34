"""The one place where errors of asyncio, ssl, the system and aiohttp become an outcome and a phrase for the merchant.

The libraries' own texts are not passed on: they name addresses, URLs and internals.
"""

import logging
import ssl
from collections.abc import Callable
from typing import Any, Final

from aiohttp import (
    ClientError,
    ClientOSError,
    ClientPayloadError,
    ClientResponseError,
    ServerDisconnectedError,
)

from delivery.attempt_failed import AttemptFailed, not_http, os_reason, tls_reason
from delivery.egress_guard import Blocked
from delivery.resolver import DnsFailed
from delivery.sending import Outcome

logger = logging.getLogger(__name__)


def explain(failure: Exception, waiting_for: str) -> tuple[Outcome, str]:
    """`waiting_for` is what the attempt was busy with, for the case that time ran out."""
    if isinstance(failure, TimeoutError):
        return Outcome.TIMEOUT, f"no time was left for {waiting_for}"
    for kind, translate in _KNOWN:
        if isinstance(failure, kind):
            return translate(failure)
    logger.error("an attempt failed in a way that has no name", exc_info=failure)
    return Outcome.PROTOCOL, f"internal error ({type(failure).__name__})"


def _lost(failure: ClientOSError) -> tuple[Outcome, str]:
    """With TLS 1.3 the server's no to our handshake arrives after it, as the cause of a lost connection; when it beats
    our first write, aiohttp knows no cause."""
    if isinstance(failure.__cause__, ssl.SSLError):
        return Outcome.TLS, tls_reason(failure.__cause__)
    return Outcome.PROTOCOL, os_reason(failure)


def _unparsed(failure: ClientResponseError) -> tuple[Outcome, str]:
    return Outcome.PROTOCOL, not_http(failure.message).error


_KNOWN: Final[tuple[tuple[type[Exception], Callable[[Any], tuple[Outcome, str]]], ...]] = (
    (AttemptFailed, lambda failure: (failure.outcome, failure.error)),
    (Blocked, lambda failure: (Outcome.BLOCKED, str(failure))),
    (DnsFailed, lambda failure: (Outcome.DNS, str(failure))),
    (ClientResponseError, _unparsed),
    (ClientPayloadError, lambda _: (Outcome.PROTOCOL, "the response's body broke off")),
    (
        ServerDisconnectedError,
        lambda _: (Outcome.PROTOCOL, "the connection was closed without a complete answer"),
    ),
    (ClientOSError, _lost),
    (ClientError, lambda _: (Outcome.PROTOCOL, "the connection was lost")),
)
