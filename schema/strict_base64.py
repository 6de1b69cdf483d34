"""Base64 with one spelling for each value, for keys and secrets that people paste."""

import base64
import binascii


def decode_strict(text: str) -> bytes | None:
    """None unless `text` is what encoding the result gives back.

    Standard alphabet and padding; the library alone would let non-zero spare bits pass.
    """
    try:
        decoded = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        return None
    return decoded if base64.b64encode(decoded) == text.encode("ascii") else None
