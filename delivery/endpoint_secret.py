"""An endpoint's signing secret: `whsec_` and the base64 of its random bytes."""

import base64
import secrets
from collections.abc import Callable
from typing import Final

from schema.errors import InvalidInput
from schema.strict_base64 import decode_strict

PREFIX: Final = "whsec_"
LEAST_BYTES: Final = 24
MOST_BYTES: Final = 64


def generate_secret(random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> str:
    return PREFIX + base64.b64encode(random_bytes(32)).decode()


def parse_secret(text: str) -> bytes:
    """The bytes a secret stands for. Raises InvalidInput, which never repeats the secret."""
    decoded = decode_strict(text.removeprefix(PREFIX)) if text.startswith(PREFIX) else None
    if decoded is None or not LEAST_BYTES <= len(decoded) <= MOST_BYTES:
        raise InvalidInput(
            f"The secret is not {PREFIX} followed by the padded base64 of {LEAST_BYTES} to {MOST_BYTES} bytes; "
            "copy it whole, or rotate the endpoint's secret for a fresh one."
        )
    return decoded
