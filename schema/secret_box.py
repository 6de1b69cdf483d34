"""Seals secrets at rest with the key from DURO_SECRET_KEY.

    sealed = version (1 byte) | nonce (12 random bytes) | AES-256-GCM ciphertext and tag

The context is authenticated, so a sealed secret that is moved to another row cannot be opened there.
"""

import base64
import os
import re
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from schema.errors import InvalidInput, Unavailable
from schema.strict_base64 import decode_strict

KEY_BYTES: Final = 32

_VERSION: Final = b"\x01"
_NONCE_BYTES: Final = 12
_HEX_KEY: Final = re.compile(r"[0-9A-Fa-f]{64}")
_URLSAFE_TO_STANDARD: Final = str.maketrans("-_", "+/")


class SecretBox:
    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"the key must have {KEY_BYTES} bytes, see parse_secret_key")
        self._cipher = AESGCM(key)

    def __repr__(self) -> str:
        return "SecretBox()"

    def seal(self, plaintext: str, context: bytes) -> bytes:
        """Seals a secret. `context` names its owner, such as an endpoint's id; `open` needs the same context."""
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher.encrypt(nonce, plaintext.encode(), context)

    def open(self, sealed: bytes, context: bytes) -> str:
        """Raises Unavailable for another key or context, and when a byte was changed."""
        if sealed[:1] != _VERSION:
            raise Unavailable(
                "A stored secret has a format unknown to this version; run the version that wrote it, or a later one."
            )
        nonce, ciphertext = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, ciphertext, context).decode()
        except (InvalidTag, ValueError):  # ValueError: too short for a nonce
            raise Unavailable(
                "A stored secret cannot be decrypted with this DURO_SECRET_KEY; "
                "set the key it was stored with, or rotate the secret."
            ) from None


def parse_secret_key(text: str) -> bytes:
    """Reads 32 bytes from base64 (standard or URL-safe, padded or not) or 64 hex digits. Raises InvalidInput."""
    text = text.strip()
    if _HEX_KEY.fullmatch(text):
        return bytes.fromhex(text)
    unpadded = text.translate(_URLSAFE_TO_STANDARD).removesuffix("=")
    key = decode_strict(unpadded + "=")
    if key is None or len(key) != KEY_BYTES:
        raise InvalidInput(
            "it is not 32 bytes in base64 or 64 hex digits; make one with `openssl rand -base64 32`."
        )
    return key


def derive_role_password(key: bytes, role: str) -> str:
    """Derives a login role's password from key and role, so that it is stored nowhere."""
    info = b"duro role password:" + role.encode()
    derived = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(key)
    return base64.urlsafe_b64encode(derived).rstrip(b"=").decode()


def derive_code_key(key: bytes) -> bytes:
    """Derives the key for hashing one-time codes: a plain digest of six digits is found by a million guesses."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"duro one-time code").derive(key)


def key_check(key: bytes) -> str:
    """Returns a value that shows whether two keys are equal and reveals nothing else about them."""
    return HKDF(algorithm=SHA256(), length=16, salt=None, info=b"duro key check").derive(key).hex()
