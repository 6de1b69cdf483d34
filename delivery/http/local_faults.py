"""What fails on our side of the wire: no descriptors, no way through the operator's proxy.

The merchant reads a phrase without our internals, the endpoint's health hears nothing of it, and the operator is
told the reason, but not at the rate of deliveries.
"""

import logging
from time import monotonic
from typing import Final

from delivery.http.attempt_contract import Outcome
from delivery.http.attempt_failed import AttemptFailed

QUIET_SECONDS: Final = 60.0
_logger = logging.getLogger(__name__)


class LocalFault(AttemptFailed):
    """The endpoint has no part in it."""

    def __init__(self, error: str) -> None:
        super().__init__(Outcome.CONNECT, error)


class OutOfDescriptors(LocalFault):
    def __init__(self) -> None:
        super().__init__("the sender ran out of file descriptors")


class RateLimitedWarning:
    """Once a minute at most."""

    def __init__(self) -> None:
        self._quiet_until = 0.0

    def say(self, what: str) -> None:
        if monotonic() >= self._quiet_until:
            self._quiet_until = monotonic() + QUIET_SECONDS
            _logger.warning(what)
