"""The state of one attempt. Its result is built from this, whenever and however the attempt ends."""

from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic
from typing import Final, Protocol

from delivery.egress.guard import CheckedAddress
from delivery.http.attempt_contract import AttemptResult, AttemptTimings, Outcome

MAX_RETRY_AFTER: Final = 100
MAX_BEFORE_BODY: Final = 256 * 1024
"""Bytes of interim responses and headers in one exchange. The parser itself has no limit."""

STALE_SECONDS: Final = 1.0
"""A pooled connection that closes within this time counts as closed before the request reached the peer."""


class Stage(StrEnum):
    """What an attempt waits for, as a timeout reports it."""

    RESOLVING = "DNS"
    CONNECTING = "the TCP connection"
    HANDSHAKE = "the TLS handshake"
    HEADERS = "the response headers"
    BODY = "the end of the response body"


class ExchangeConnection(Protocol):
    """The connection that serves an exchange."""

    def time_out(self, exchange: "Exchange") -> None:
        """Ends the exchange. Does nothing when the connection already serves another one."""
        ...


@dataclass(slots=True, eq=False)
class Exchange:
    """Times come from `monotonic`: uvloop's clock has whole milliseconds and stops within an iteration."""

    started: float = field(default_factory=monotonic)
    stage: Stage = Stage.RESOLVING
    addresses: tuple[CheckedAddress, ...] = ()
    """The host's addresses in the order to try them; empty when there is only one."""
    address: str | None = None
    addresses_tried: int = 0
    """Addresses tried for a new connection."""
    dns: float | None = None
    dialled: bool = False
    """The connection is new, not from the pool."""
    connect: float | None = None
    tls: float | None = None
    ready_at: float | None = None
    first_byte_at: float | None = None
    bytes_read: int = 0
    """Bytes received in this stage."""
    status: int | None = None
    retry_after: str | None = None
    body: bytes = b""
    connection: ExchangeConnection | None = None
    expired: bool = False

    @property
    def connection_was_stale(self) -> bool:
        """Whether a pooled connection closed within STALE_SECONDS, before its first byte.

        The peer most likely closed it before the request arrived. If it closes later, the peer may have
        processed the request, so it is not sent twice in one attempt.
        """
        if self.dialled or self.ready_at is None or self.first_byte_at is not None:
            return False
        return monotonic() - self.ready_at <= STALE_SECONDS

    def restart(self) -> None:
        """Prepares for the same request over a new connection."""
        self.stage = Stage.RESOLVING
        self.ready_at = None

    def expire(self) -> None:
        """Ends the exchange at its deadline, or when its caller was cancelled."""
        self.expired = True
        if self.connection is not None:
            self.connection.time_out(self)

    def result(self, outcome: Outcome, error: str | None, *, local_fault: bool = False) -> AttemptResult:
        ready_at, first_byte_at = self.ready_at, self.first_byte_at
        return AttemptResult(
            outcome,
            self.status,
            error,
            self.retry_after,
            self.body,
            self.address,
            AttemptTimings(
                _ms(self.dns),
                _ms(self.connect),
                _ms(self.tls),
                None if ready_at is None or first_byte_at is None else (first_byte_at - ready_at) * 1000,
                (monotonic() - self.started) * 1000,
            ),
            local_fault,
            self.expired,
        )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
