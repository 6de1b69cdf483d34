"""Turns PostgreSQL's output into a message for the operator. Pure."""

from pathlib import Path
from typing import Final

_ADVICE: Final = (
    ("No space left on device", "the disk is full. Free some space and try again"),
    ("Disk quota exceeded", "the disk quota is exceeded. Free some space and try again"),
    ("Cannot allocate memory", "the machine is out of memory. Free some memory and try again"),
)
_PORT_IN_USE: Final = ("could not bind", "could not create any TCP/IP sockets")
_LAST_LINES: Final = 3


def port_in_use(output: str) -> bool:
    return any(sign in output for sign in _PORT_IN_USE)


def failure_message(failure: str, output: str, log: Path | None = None) -> str:
    """`failure` completes the sentence, as in "could not be started". `output` is what PostgreSQL wrote."""
    for sign, advice in _ADVICE:
        if sign in output:
            return f"The embedded PostgreSQL {failure} because {advice}."
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last_lines = " / ".join(lines[-_LAST_LINES:]).rstrip(".") or "no output"
    advice = "Fix the cause and try again" if log is None else f"See {log}, fix the cause and try again"
    return f"The embedded PostgreSQL {failure} ({last_lines}). {advice}."
