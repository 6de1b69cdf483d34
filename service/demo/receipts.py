"""What the receiver tells the demo of each request, one line of JSON each, and how content is compared."""

import json
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Final

import orjson

OK: Final = "ok"
"""The answer that counts as delivered; any other is a Fault's name, or REFUSED."""
REFUSED: Final = "refused"


@dataclass(frozen=True, slots=True)
class Receipt:
    path: str
    at: float
    """When the request's head had arrived, on the clock that all processes of a machine share (time.monotonic)."""
    answer: str
    event_id: str = ""
    event_type: str = ""
    attempt: int = 0
    """Counted by the receiver, from 1."""
    body_digest: str = ""
    data_digest: str = ""
    why: str = ""
    """Why it was refused; empty when both signatures and the form were right."""

    def line(self) -> bytes:
        return orjson.dumps(asdict(self), option=orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def read(cls, line: bytes) -> "Receipt":
        return cls(**orjson.loads(line))


def data_digest(data: Any) -> str:
    """The same for equal JSON values, however they are spelled."""
    return sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
