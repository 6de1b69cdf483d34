"""Turns a response into an outcome: the status line alone decides.

A receiver that has written a complete status line has decided. Nothing after that line changes the result:
2xx is a success, any other status is a failure. If the rest is malformed, the body is cut there and the
connection is closed: its remaining bytes could be read as the next response.

    response                                                            result of the attempt connection
    ----------------------------------------------------------------------------------------------------------
    a valid HTTP/1.1 response, any number of headers, gzip or not       its status            kept
    no reason phrase; bare LF; chunk extensions; trailers               its status            kept
    HTTP/1.0; `Connection: close`; a body that ends with its connection its status            closed
    Content-Length twice (equal or not), listed, empty, negative, huge  its status            closed
    Content-Length beside Transfer-Encoding; `identity`; bad chunks     its status            closed
    NUL or control characters in a header, no colon, folded headers     its status            closed
    a header over 32 KiB, headers over 256 KiB                          its status            closed
    204 or 304 with a body; bytes after the body                        its status            closed
    a body over 64 KiB                                                  its status            closed
    cut off, reset, or TLS ended without close_notify, after the line   its status            closed
    no more bytes until the deadline, after the line                    its status            closed
    101                                                                 protocol, 101         closed
    nothing, part of a status line, only interim responses (1xx)        protocol or timeout   closed
    more than 100 interim responses, or 256 KiB of them                 protocol              closed
    HTTP/0.9 (a bare body), `ICY 200 OK`, `HTTP/2 200`, HTML, SSH, TLS  protocol              closed
    a status of fewer or more than three digits                         protocol              closed

llhttp parses valid responses. When it fails, `arrived_status` reads the bytes themselves: the parser's own
`status_code` may still be the previous response's.
"""

import re
from typing import Final

from delivery.http.attempt_contract import Outcome

SWITCHING_PROTOCOLS: Final = 101
MAX_INTERIM: Final = 100
"""Interim responses before a final one. To skip 10,000 takes 9 ms, and a receiver may send them on 100 connections."""
_STATUS_LINE: Final = re.compile(rb"[\r\n]*HTTP/(?:1\.[01]|2\.0|0\.9) ([0-9]{3})(?: [^\r\n]*+)?+\r?\n")
_HEADERS: Final = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[^\r\n\0]*+\r?\n)*+\r?\n")


def arrived_status(head: bytes) -> int | None:
    """Returns the final status from the first bytes of a response, once its line is complete.

    Interim responses (1xx) are skipped; 101 is final.
    """
    start = 0
    for _ in range(MAX_INTERIM + 1):
        line = _STATUS_LINE.match(head, start)
        if line is None:
            return None
        status = int(line[1])
        if not 100 <= status <= 199 or status == SWITCHING_PROTOCOLS:
            return status
        headers = _HEADERS.match(head, line.end())
        if headers is None:
            return None
        start = headers.end()
    return None


def classify(status: int | None) -> tuple[Outcome, str | None]:
    """Returns the outcome and a phrase for the tenant."""
    if status is not None and 200 <= status <= 299:
        return Outcome.OK, None
    if status is None or status < 200:
        return Outcome.PROTOCOL, f"unexpected status {status}"
    return Outcome.HTTP_STATUS, f"HTTP status {status}"
