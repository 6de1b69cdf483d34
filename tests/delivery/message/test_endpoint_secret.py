"""Signing secrets: 24 to 64 bytes as canonical base64, never shown in errors."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.message.endpoint_secret import generate_secret, parse_secret
from schema.errors import InvalidInput


def test_a_generated_secret_encodes_32_random_bytes() -> None:
    assert generate_secret(lambda count: bytes(range(count))) == (
        "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
    )


def test_generated_secrets_parse_and_differ() -> None:
    assert len({parse_secret(generate_secret()) for _ in range(100)}) == 100


@given(st.binary(min_size=24, max_size=64))
def test_24_to_64_bytes_are_accepted(raw: bytes) -> None:
    assert parse_secret("whsec_" + base64.b64encode(raw).decode()) == raw


CANONICAL = base64.b64encode(b"\xfb\xff" * 16).decode()


@pytest.mark.parametrize("text", [
    "",
    "whsec_",
    CANONICAL,
    "WHSEC_" + CANONICAL,
    "whsec_" + base64.b64encode(b"x" * 23).decode(),
    "whsec_" + base64.b64encode(b"x" * 65).decode(),
    "whsec_" + CANONICAL.rstrip("="),
    "whsec_" + CANONICAL + "=",
    "whsec_" + CANONICAL + "\n",
    "whsec_ " + CANONICAL,
    "whsec_" + CANONICAL[:-2] + chr(ord(CANONICAL[-2]) + 1) + "=",
    "whsec_" + CANONICAL.replace("+", "-").replace("/", "_"),
    "whsec_" + "é" * 40,
], ids=[
    "empty", "prefix alone", "no prefix", "prefix in capitals", "23 bytes", "65 bytes", "no padding",
    "too much padding", "line break", "space", "spare bits set", "URL-safe alphabet", "not ASCII",
])  # fmt: skip
def test_an_invalid_secret_is_rejected_and_not_shown(text: str) -> None:
    with pytest.raises(InvalidInput) as rejected:
        parse_secret(text)
    secret_part = text.removeprefix("whsec_").strip()
    assert not secret_part or secret_part not in str(rejected.value)
    assert rejected.value.__context__ is None, (
        "a chained decoder error would carry the text into the traceback"
    )
