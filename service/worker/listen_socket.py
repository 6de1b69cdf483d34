"""Binds the port before anything else is done, so that a port in use is reported in one sentence.

A socket bound here can be handed to a child process and to its replacement: the port stays taken in between.
"""

import errno
import socket

from schema.errors import Unavailable


def listener(host: str, port: int) -> socket.socket:
    """Returns a socket bound to the first address of the host. Raises Unavailable."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise cannot_listen(host, port, error) from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise cannot_listen(host, port, error) from None
    return sock


def cannot_listen(host: str, port: int, error: OSError) -> Unavailable:
    if error.errno == errno.EADDRINUSE:
        reason = (
            "is in use. Stop the program that uses it, or choose another with --port (0 for any free port)"
        )
    else:
        reason = f"cannot be used ({error.strerror}). Choose another with --port or DURO_HOST"
    return Unavailable(f"Port {port} on {host} {reason}.")


def url_at(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
