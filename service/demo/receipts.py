"""What the receiver reports about each request, as one line of JSON, and how content is compared."""

import json
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Final

import orjson

OK: Final = "ok"
"""The answer that counts as delivered; any other is a Fault's name, or REJECTED."""
REJECTED: Final = "rejected"


@dataclass(frozen=True, slots=True)
class Receipt:
    path: str
    at: float
    """When the request's head had arrived (time.monotonic, which all processes of a machine share)."""
    answer: str
    event_id: str = ""
    event_type: str = ""
    attempt: int = 0
    """Counted by the receiver, from 1."""
    body_digest: str = ""
    data_digest: str = ""
    reason: str = ""
    """Why it was rejected. Empty if both signatures and the form were valid."""

    def line(self) -> bytes:
        return orjson.dumps(asdict(self), option=orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def read(cls, line: bytes) -> "Receipt":
        return cls(**orjson.loads(line))


def data_digest(data: Any) -> str:
    """Returns a digest that is equal for equal JSON values, whatever their formatting."""
    return sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
