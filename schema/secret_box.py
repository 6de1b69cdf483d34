"""Secrets at rest, sealed with the one key from DURO_SECRET_KEY.

    sealed = version (1 byte) | nonce (12 random bytes) | AES-256-GCM ciphertext and tag

The context is authenticated with it, so a sealed secret moved to another row does not open there.
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
            raise ValueError(f"the key is {KEY_BYTES} bytes, see parse_secret_key")
        self._cipher = AESGCM(key)

    def __repr__(self) -> str:
        return "SecretBox()"

    def seal(self, plaintext: str, context: bytes) -> bytes:
        """`context` names where the secret belongs, such as its endpoint's id; `open` needs the same."""
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher.encrypt(nonce, plaintext.encode(), context)

    def open(self, sealed: bytes, context: bytes) -> str:
        """Raises Unavailable when the key or the context is another one, or a byte was changed."""
        if sealed[:1] != _VERSION:
            raise Unavailable(
                "A stored secret has a format this version does not know; run the version that wrote it, or a later one."
            )
        nonce, ciphertext = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, ciphertext, context).decode()
        except (InvalidTag, ValueError):  # ValueError: cut so short that no nonce is left
            raise Unavailable(
                "A stored secret cannot be decrypted with this DURO_SECRET_KEY; "
                "set the key it was stored with, or rotate the secret."
            ) from None


def parse_secret_key(text: str) -> bytes:
    """32 bytes as base64, standard or URL-safe, padded or not, or as 64 hex digits. Raises InvalidInput."""
    text = text.strip()
    if _HEX_KEY.fullmatch(text):
        return bytes.fromhex(text)
    unpadded = text.translate(_URLSAFE_TO_STANDARD).removesuffix("=")
    key = decode_strict(unpadded + "=")
    if key is None or len(key) != KEY_BYTES:
        raise InvalidInput(
            "DURO_SECRET_KEY is not 32 bytes in base64 or 64 hex digits; make one with `openssl rand -base64 32`."
        )
    return key


def derive_role_password(key: bytes, role: str) -> str:
    """The same for the same key and role, so a login role's password need not be stored anywhere."""
    info = b"duro role password:" + role.encode()
    derived = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(key)
    return base64.urlsafe_b64encode(derived).rstrip(b"=").decode()


def derive_code_key(key: bytes) -> bytes:
    """What one-time codes are hashed with: of a plain digest, a million guesses would find the six digits."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"duro one-time code").derive(key)


def key_check(key: bytes) -> str:
    """Tells whether two keys are the same, and nothing else about them."""
    return HKDF(algorithm=SHA256(), length=16, salt=None, info=b"duro key check").derive(key).hex()
