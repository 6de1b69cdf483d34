"""An endpoint's signing secret: `whsec_` and the base64 of its random bytes."""

import base64
import secrets
from collections.abc import Callable
from typing import Final

from schema.errors import InvalidInput
from schema.strict_base64 import decode_strict

PREFIX: Final = "whsec_"
MIN_BYTES: Final = 24
MAX_BYTES: Final = 64


def generate_secret(random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> str:
    return PREFIX + base64.b64encode(random_bytes(32)).decode()


def parse_secret(text: str) -> bytes:
    """Decodes a secret into its bytes. Raises InvalidInput, whose text never contains the secret."""
    decoded = decode_strict(text.removeprefix(PREFIX)) if text.startswith(PREFIX) else None
    if decoded is None or not MIN_BYTES <= len(decoded) <= MAX_BYTES:
        raise InvalidInput(
            f"The secret is not {PREFIX} followed by the padded base64 of {MIN_BYTES} to {MAX_BYTES} bytes: "
            "copy the whole secret, or rotate the endpoint's secret to get a new one."
        )
    return decoded
