"""How the receiver misbehaves: decided by the event's id alone, so a run can be explained afterwards."""

from enum import StrEnum
from hashlib import sha256
from typing import Final


class Fault(StrEnum):
    SERVER_ERROR = "server_error"
    CLOSED = "closed"
    RATE_LIMITED = "rate_limited"
    SLOW = "slow"


_TROUBLED: Final = 20  # of 256 deliveries: about 8 %
_FAULTS: Final = (  # slow ones are rare: each holds a connection for seconds
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
    """What goes wrong at this attempt, counted from 1; from the third on nothing does."""
    digest = sha256(f"{event_id} {path}".encode()).digest()
    troubled_attempts = 1 + digest[1] % 2
    if digest[0] >= _TROUBLED or attempt > troubled_attempts:
        return None
    return _FAULTS[digest[2] % len(_FAULTS)]
