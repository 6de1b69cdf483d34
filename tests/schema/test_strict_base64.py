import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.strict_base64 import decode_strict


@given(st.binary())
def test_what_was_encoded_decodes(raw: bytes) -> None:
    assert decode_strict(base64.b64encode(raw).decode()) == raw


@given(st.text("AQZaz09+/=-_ \né", max_size=12))
def test_a_value_has_one_spelling(text: str) -> None:
    decoded = decode_strict(text)
    assert decoded is None or base64.b64encode(decoded).decode() == text


@pytest.mark.parametrize(
    "text", ["AB==", "AA", "AA=", "AA===", "AA==\n", "A A=", "=AA=", "_-A=", "é", "\ud800"]
)
def test_other_spellings_are_none(text: str) -> None:
    assert decode_strict(text) is None
