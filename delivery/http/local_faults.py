"""Failures of the sender itself: no file descriptors, or the operator's egress proxy failed.

They do not change the endpoint's health. The tenant sees a phrase without internals; the log has the reason,
once per minute instead of once per delivery.
"""

import logging
from time import monotonic
from typing import Final

from delivery.http.attempt_contract import Outcome
from delivery.http.attempt_failed import AttemptFailed

WARNING_INTERVAL_SECONDS: Final = 60.0
_logger = logging.getLogger(__name__)


class LocalFault(AttemptFailed):
    """A failure that the endpoint did not cause."""

    def __init__(self, error: str) -> None:
        super().__init__(Outcome.CONNECT, error)


class OutOfDescriptors(LocalFault):
    def __init__(self) -> None:
        super().__init__("the sender ran out of file descriptors")


class RateLimitedWarning:
    """Logs at most one warning per minute."""

    def __init__(self) -> None:
        self._next_at = 0.0

    def log(self, message: str) -> None:
        if monotonic() >= self._next_at:
            self._next_at = monotonic() + WARNING_INTERVAL_SECONDS
            _logger.warning(message)
