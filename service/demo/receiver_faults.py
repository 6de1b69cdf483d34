"""Decides how the receiver fails.

It depends only on event id, path and attempt, so a run can be explained later.
"""

from enum import StrEnum
from hashlib import sha256
from typing import Final


class Fault(StrEnum):
    SERVER_ERROR = "server_error"
    CLOSED = "closed"
    RATE_LIMITED = "rate_limited"
    SLOW = "slow"


_FAULTY_OF_256: Final = 20  # about 8 %
_FAULTS: Final = (  # slow responses are rare, because each holds a connection for seconds
    Fault.SERVER_ERROR,
    Fault.SERVER_ERROR,
    Fault.SERVER_ERROR,
    Fault.CLOSED,
    Fault.CLOSED,
    Fault.RATE_LIMITED,
    Fault.RATE_LIMITED,
    Fault.SLOW,
)


def fault_for(event_id: str, path: str, attempt: int) -> Fault | None:
    """Returns the fault of this attempt, counted from 1. From the third attempt there is none."""
    digest = sha256(f"{event_id} {path}".encode()).digest()
    failing_attempts = 1 + digest[1] % 2
    if digest[0] >= _FAULTY_OF_256 or attempt > failing_attempts:
        return None
    return _FAULTS[digest[2] % len(_FAULTS)]
