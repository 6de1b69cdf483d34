"""Base64 with exactly one spelling per value, for keys and secrets that people paste."""

import base64
import binascii


def decode_strict(text: str) -> bytes | None:
    """Decodes the standard alphabet with padding. Returns None unless encoding the result gives `text` back.

    The library alone accepts non-zero spare bits.
    """
    try:
        decoded = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        return None
    return decoded if base64.b64encode(decoded) == text.encode("ascii") else None
