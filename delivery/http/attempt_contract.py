"""What the dispatcher and the sender exchange. The sender makes one attempt; whether and when to retry is decided
elsewhere, by the outcome.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from delivery.egress.endpoint_url import EndpointUrl


class Outcome(StrEnum):
    OK = "ok"
    """Answered 2xx in time; response_status.py says what counts as answered."""
    HTTP_STATUS = "http_status"
    """Answered anything else; redirects are not followed."""
    TIMEOUT = "timeout"
    """Some stage took too long; the error names it."""
    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    """No handshake, or a certificate that is not for this host."""
    PROTOCOL = "protocol"
    """Connected, and then no HTTP status."""
    BLOCKED = "blocked"
    """Refused by the egress guard: final for the delivery."""


@dataclass(frozen=True, slots=True)
class SendLimits:
    attempt_timeout: float = 15.0
    """Seconds for everything: DNS, connect, TLS, headers and body."""
    connect_timeout: float = 5.0
    """Seconds of it for the TCP handshake."""
    body_read: int = 64 * 1024
    """Body bytes after which the connection is dropped. A receiver that writes this much is not
    waiting to be heard, and its status is known."""
    body_kept: int = 4 * 1024
    header_line: int = 32 * 1024
    """Bytes of one header after which reading ends. The parser joins a header's pieces anew with each one."""
    keepalive: float = 15.0
    """Seconds that an idle connection is kept."""
    kept_open: int = 512
    """Connections are kept for reuse only while no more than this many are open: it leaves descriptors for requests in
    flight, which the dispatcher bounds."""


@dataclass(slots=True)  # not frozen, for speed: see schema/deliveries/deliveries.py
class OutboundRequest:
    url: EndpointUrl
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    """Complete and in order, without Host and Content-Length."""
    body: bytes = field(repr=False)


class AttemptTimings(NamedTuple):
    """Milliseconds that each part took. None: that part did not happen, or did not end."""

    dns: float | None = None
    connect: float | None = None
    tls: float | None = None
    first_byte: float | None = None
    """From the connection's being ready to the first byte of the answer."""
    total: float = 0.0


@dataclass(slots=True)  # not frozen, for speed: see schema/deliveries/deliveries.py
class AttemptResult:
    outcome: Outcome
    status: int | None
    """Known once the status line has arrived, whatever follows it."""
    error: str | None
    """One short phrase for the merchant; None when ok. Holds no secret and no address that DNS told us."""
    retry_after: str | None
    """The header as received, at most 100 characters."""
    response_body: bytes = field(repr=False)
    address: str | None
    """The address that was dialled or whose connection was reused."""
    timings: AttemptTimings
    local_fault: bool = False
    """The fault is on our side: it says nothing of the endpoint's health."""
    timed_out: bool = False
    """The deadline passed before the response ended; its status may have arrived all the same."""
