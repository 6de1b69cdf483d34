"""Builds the bytes of a request head, with a last check against injected lines."""

from typing import Final

from delivery.http.attempt_contract import OutboundRequest, Outcome
from delivery.http.attempt_failed import AttemptFailed

OWN_LINES: Final = 4
"""The request line, Host, Content-Length and the empty line."""


def request_head(request: OutboundRequest) -> bytes:
    """Raises AttemptFailed when a target, name or value contains a line break or NUL.

    They are validated when they are saved. This check prevents a bug there from injecting a second request.
    """
    url = request.url
    lines = [f"POST {url.target} HTTP/1.1", f"Host: {url.host_header}"]
    lines += [f"{name}: {value}" for name, value in request.headers]
    lines.append(f"Content-Length: {len(request.body)}\r\n\r\n")
    head = "\r\n".join(lines)
    lines_expected = len(request.headers) + OWN_LINES
    if head.count("\n") != lines_expected or head.count("\r") != lines_expected or "\0" in head:
        raise AttemptFailed(Outcome.PROTOCOL, "cannot build the request")
    return head.encode()
