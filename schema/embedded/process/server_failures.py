"""From what PostgreSQL wrote to one sentence for the operator. Pure."""

from pathlib import Path
from typing import Final

_ADVICE: Final = (
    ("No space left on device", "the disk is full; free some space and try again"),
    ("Disk quota exceeded", "the disk quota is used up; free some space and try again"),
    ("Cannot allocate memory", "the machine has too little free memory; free some and try again"),
)
_PORT_TAKEN: Final = ("could not bind", "could not create any TCP/IP sockets")
_LAST_LINES: Final = 3


def port_was_taken(output: str) -> bool:
    return any(sign in output for sign in _PORT_TAKEN)


def failure_sentence(doing: str, output: str, log: Path | None = None) -> str:
    """`doing`: what failed, as in "could not be started"; `output`: what was written meanwhile."""
    for sign, advice in _ADVICE:
        if sign in output:
            return f"The embedded PostgreSQL {doing} because {advice}."
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    said = " / ".join(lines[-_LAST_LINES:]).rstrip(".") or "it wrote nothing"
    advice = "set that right and try again" if log is None else f"see {log}, set it right and try again"
    return f"The embedded PostgreSQL {doing} ({said}); {advice}."
