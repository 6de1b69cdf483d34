"""What is known of one attempt so far. Whatever ends it, and at whatever point, this is what gets reported."""

from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic
from typing import Final, Protocol

from delivery.egress.guard import CheckedAddress
from delivery.http.attempt_contract import AttemptResult, AttemptTimings, Outcome

MAX_RETRY_AFTER: Final = 100
MAX_BEFORE_BODY: Final = 256 * 1024
"""Bytes of interim responses and headers in one exchange. The parser reads `100 Continue` for as long as it comes."""

JUST_CLOSED: Final = 1.0
"""Seconds within which a kept connection's end still reads as having crossed the request on its way."""


class Stage(StrEnum):
    """What an attempt waits for, in the words that a timeout is reported with."""

    RESOLVING = "DNS"
    CONNECTING = "the TCP connection"
    HANDSHAKE = "the TLS handshake"
    HEADERS = "the response headers"
    BODY = "the end of the response body"


class Server(Protocol):
    """The connection that an exchange has been given to."""

    def give_up(self, exchange: "Exchange") -> None:
        """Does nothing when it serves another by now."""
        ...


@dataclass(slots=True, eq=False)
class Exchange:
    """Times are of the monotonic clock: uvloop's own goes in whole milliseconds and stands still within one round."""

    started: float = field(default_factory=monotonic)
    stage: Stage = Stage.RESOLVING
    addresses: tuple[CheckedAddress, ...] = ()
    """The host's, in the order to try them, when there are several."""
    address: str | None = None
    addresses_tried: int = 0
    """Of a new connection."""
    dns: float | None = None
    dialled: bool = False
    """The connection is new, not from the pool."""
    connect: float | None = None
    tls: float | None = None
    ready_at: float | None = None
    first_byte_at: float | None = None
    bytes_read: int = 0
    """Of the stage."""
    status: int | None = None
    retry_after: str | None = None
    body: bytes = b""
    served_by: Server | None = None
    expired: bool = False

    @property
    def met_a_stale_connection(self) -> bool:
        """The connection came from the pool and died at once, before it said anything: the peer had closed it, most
        likely. One that dies later may have been at work on the request, which must not go out again."""
        if self.dialled or self.ready_at is None or self.first_byte_at is not None:
            return False
        return monotonic() - self.ready_at <= JUST_CLOSED

    def start_over(self) -> None:
        """Once more, to the same address, over a connection of its own."""
        self.stage = Stage.RESOLVING
        self.ready_at = None

    def expire(self) -> None:
        """Its time is over, or nobody waits for it any more."""
        self.expired = True
        if self.served_by is not None:
            self.served_by.give_up(self)

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
