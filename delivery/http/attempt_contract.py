"""The types that the dispatcher and the sender exchange.

The sender makes one attempt. The verdict on its outcome (engine/verdict.py) decides whether and when to
retry.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from delivery.egress.endpoint_url import EndpointUrl
from schema.secret_repr import HidesSecrets


class Outcome(StrEnum):
    OK = "ok"
    """A 2xx status in time; response_status.py defines when a status counts."""
    HTTP_STATUS = "http_status"
    """Any other status; redirects are not followed."""
    TIMEOUT = "timeout"
    """A stage took too long; the error names the stage."""
    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    """The handshake failed, or the certificate is not valid for this host."""
    PROTOCOL = "protocol"
    """Connected, but no valid HTTP status arrived."""
    BLOCKED = "blocked"
    """The egress guard blocked the target. The delivery is not retried."""


@dataclass(frozen=True, slots=True)
class SendLimits:
    attempt_timeout: float = 15.0
    """Seconds for everything: DNS, connect, TLS, headers and body."""
    connect_timeout: float = 5.0
    """Seconds for the TCP handshake, within attempt_timeout."""
    body_read: int = 64 * 1024
    """Body bytes after which the connection is aborted. The status has arrived before them."""
    body_kept: int = 4 * 1024
    header_line: int = 32 * 1024
    """Bytes of one header after which reading ends. The parser copies the whole header for each chunk of it.
    """
    keepalive: float = 15.0
    """Seconds that an idle connection stays open."""
    kept_open: int = 512
    """While more connections than this are open, none is kept for reuse. This leaves file descriptors for
    requests in flight, whose number the dispatcher limits.
    """


@dataclass(slots=True)  # not frozen, for speed: see schema/deliveries/deliveries.py
class OutboundRequest(HidesSecrets):
    url: EndpointUrl
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    """All headers in order, without Host and Content-Length."""
    body: bytes = field(repr=False)


class AttemptTimings(NamedTuple):
    """Milliseconds that each stage took; None when it did not happen or did not finish."""

    dns: float | None = None
    connect: float | None = None
    tls: float | None = None
    first_byte: float | None = None
    """From the connection being ready to the first byte of the response."""
    total: float = 0.0


@dataclass(slots=True)  # not frozen, for speed: see schema/deliveries/deliveries.py
class AttemptResult(HidesSecrets):
    outcome: Outcome
    status: int | None
    """Set once the status line has arrived, whatever follows it."""
    error: str | None
    """A short phrase for the tenant; None when ok. Contains no secret and no address from DNS."""
    retry_after: str | None
    """The Retry-After header as received, at most 100 characters."""
    response_body: bytes = field(repr=False)
    address: str | None
    """The address that was dialled, or that of the reused connection."""
    timings: AttemptTimings
    local_fault: bool = False
    """The sender failed, not the endpoint: the endpoint's health does not change."""
    timed_out: bool = False
    """The deadline passed before the response ended. Its status may have arrived before that."""
