"""The body keeps `data` as PostgreSQL spells it, without insignificant spaces."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from delivery.message.envelope import compact, envelope
from schema.ids import EVENT, format_id

ID = UUID("018cd7f2-5ae9-f8e6-7d23-69e8fa132a86")
CREATED_AT = datetime(2026, 6, 28, 9, tzinfo=UTC)

# Numbers that orjson reads as another value (a float) or spells differently, and others that it returns unchanged.
numbers = st.one_of(
    st.integers(-(10**40), 10**40).map(Decimal),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.sampled_from(["1.10", "1e-7", "1E+5", "-0", "0.000", "12345678901234567890123", "1e400"]).map(Decimal),
)
strings = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")) | st.text(
    '", :\\{}[]/\n1.e'
)
values = st.recursive(
    st.none() | st.booleans() | numbers | strings,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(strings, inner, max_size=5),
    max_leaves=25,
)


def written(value: Any, comma: str, colon: str) -> str:
    """JSON as PostgreSQL spells it (raw UTF-8, least escapes, exact numbers), with these separators."""
    match value:
        case Decimal():
            return str(value)
        case list():
            return "[" + comma.join(written(item, comma, colon) for item in value) + "]"
        case dict():
            items = (
                written(key, comma, colon) + colon + written(item, comma, colon)
                for key, item in value.items()
            )
            return "{" + comma.join(items) + "}"
        case _:
            return json.dumps(value, ensure_ascii=False)


def jsonb_text(value: Any) -> str:
    return written(value, ", ", ": ")


def body_with(data_json: str) -> bytes:
    return envelope(format_id(EVENT, ID), "invoice_created", CREATED_AT, data_json)


def test_the_body_has_the_documented_form() -> None:
    moment = datetime(2026, 6, 28, 9, 0, 0, 999, tzinfo=UTC)
    assert (
        envelope(
            format_id(EVENT, ID),
            "subscription_payment_success",
            moment,
            '{"amount": 500000, "currency": "NGN"}',
        )
        == (
            f'{{"id":"{format_id("evt", ID)}","type":"subscription_payment_success",'
            '"createdAt":"2026-06-28T09:00:00.000Z","data":{"amount":500000,"currency":"NGN"}}'
        ).encode()
    )


@given(values)
@example({"a": Decimal("1.10"), "b": [Decimal(12345678901234567890123), "x, y: z"]})
@example({", ": '": ", \\" , '})
@example('\x7f\u2028é😀\t"\\')
def test_json_keeps_its_spelling_and_loses_its_spaces(value: Any) -> None:
    """Equal to the output of a compact writer, byte for byte."""
    body = body_with(jsonb_text(value))
    prefix, data = body.split(b'"data":', 1)
    assert data == written(value, ",", ":").encode() + b"}"
    assert prefix == body_with("0").split(b'"data":')[0]


@given(values)
def test_the_body_parses_back_to_the_same_value(value: Any) -> None:
    parsed = json.loads(body_with(jsonb_text(value)), parse_int=Decimal, parse_float=Decimal)
    assert list(parsed) == ["id", "type", "createdAt", "data"]
    assert parsed["data"] == value


@pytest.mark.parametrize(
    "number", ["1.10", "-0", "1E-7", "1e5", "12345678901234567890123", "0.1000000000000000055"]
)
def test_a_number_keeps_its_spelling(number: str) -> None:
    assert orjson.dumps(orjson.loads(number)) != number.encode(), (
        "orjson keeps this spelling: the case proves nothing"
    )
    assert compact(f'{{"amount": {number}, "note": "a, b"}}'.encode()) == (
        f'{{"amount":{number},"note":"a, b"}}'.encode()
    )


@pytest.mark.parametrize("depth", [200, 254, 255, 1024, 5000])
def test_data_may_be_nested_deeper_than_orjson_supports(depth: int) -> None:
    assert compact(b'{"a": ' * depth + b"1" + b"}" * depth) == b'{"a":' * depth + b"1" + b"}" * depth


@pytest.mark.parametrize("scalar", ["null", "true", "1.10", '"a, b: c"', "[]", "{}"])
def test_data_may_be_any_json(scalar: str) -> None:
    assert compact(scalar.encode()) == scalar.encode()


def test_the_type_is_quoted_as_json() -> None:
    """A type from a producer cannot break out of its string."""
    assert json.loads(envelope(format_id(EVENT, ID), '","data":{}', CREATED_AT, "1"))["type"] == '","data":{}'
