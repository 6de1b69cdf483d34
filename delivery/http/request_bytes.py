"""A request as it goes over the wire, and the last look at it before it goes."""

from typing import Final

from delivery.http.attempt_contract import OutboundRequest, Outcome
from delivery.http.attempt_failed import AttemptFailed

OWN_LINES: Final = 4
"""The request line, Host, Content-Length and the empty one."""


def request_head(request: OutboundRequest) -> bytes:
    """Raises AttemptFailed when a part of it would break out of its line.

    Targets, names and values are validated where they are saved, and cannot. This is what keeps a mistake
    there from becoming a second request.
    """
    url = request.url
    lines = [f"POST {url.target} HTTP/1.1", f"Host: {url.host_header}"]
    lines += [f"{name}: {value}" for name, value in request.headers]
    lines.append(f"Content-Length: {len(request.body)}\r\n\r\n")
    head = "\r\n".join(lines)
    ends = len(request.headers) + OWN_LINES
    if head.count("\n") != ends or head.count("\r") != ends or "\0" in head:
        raise AttemptFailed(Outcome.PROTOCOL, "cannot build the request")
    return head.encode()
