"""Custom headers are valid for the wire, cannot replace duro's own, and have limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.message.custom_headers import validate_custom_headers
from schema.errors import InvalidInput


def test_valid_headers_keep_their_order_case_and_values() -> None:
    headers = {"X-Token": "a b!~", "Authorization": "Bearer x", "Accept": "*/*", "X-Empty": ""}
    assert validate_custom_headers(headers) == tuple(headers.items())
    assert validate_custom_headers({}) == ()


@pytest.mark.parametrize(
    "name",
    [
        *(
            "Host",
            "HOST",
            "Content-Length",
            "Content-Type",
            "Content-Encoding",
            "Transfer-Encoding",
            "Connection",
        ),
        *("TE", "Trailer", "Upgrade", "Expect", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection"),
        *("User-Agent", "Accept-Encoding", "Cookie", "Cookie2", "HTTP2-Settings"),
        *("webhook-id", "Webhook-Signature", "Webhook-", "Duro-Signature", "DURO-EVENT-ID"),
    ],
)
def test_reserved_names_are_rejected_in_any_case(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"'{name}' is reserved"):
        validate_custom_headers({name: "x"})


def test_the_configured_prefix_is_reserved_as_well() -> None:
    for name in ("Acme-Signature", "acme-x", "Duro-Signature", "Duro_Signature", "acme_x", "Webhook_Id"):
        with pytest.raises(InvalidInput, match="is reserved"):
            validate_custom_headers({name: "x"}, header_prefix="Acme-")
    assert validate_custom_headers({"Acme-Signature": "x"})


@pytest.mark.parametrize("name", ["", "X Y", "X:", "X\r\nY", "X\n", "ü", "X\x00", ":path", "X(", "\ud800"])
def test_an_invalid_name_is_rejected(name: str) -> None:
    with pytest.raises(InvalidInput) as rejected:
        validate_custom_headers({name: "x"})
    assert str(rejected.value).isprintable()


@pytest.mark.parametrize(
    "value", ["a\r\nHost: b", "a\n", "a\rb", "\x00", "a\tb", "\x7f", "ü", "\u2028", " a", "a ", "\ud800"]
)
def test_an_unsafe_value_is_rejected_and_not_shown(value: str) -> None:
    with pytest.raises(InvalidInput, match="X-Token") as rejected:
        validate_custom_headers({"X-Token": f"secret{value}secret" if value.strip(" ") == value else value})
    assert "secret" not in str(rejected.value)
    assert str(rejected.value).isprintable()


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"X-A": "1", "x-a": "2"}, "'x-a' is given twice"),
        ({"X-A": 1}, "'X-A' has a value that is not text"),
        ({"X-A": None}, "'X-A' has a value that is not text"),
        ({1: "x"}, "1 has an invalid name"),
    ],
)
def test_duplicates_and_other_types_are_rejected(headers: dict[str, str], error: str) -> None:
    with pytest.raises(InvalidInput, match=error):
        validate_custom_headers(headers)


def headers_of(total: int) -> dict[str, str]:
    """Five headers with that many bytes in total, line ends included."""
    headers = {f"X-{n}": "x" * 800 for n in range(4)}
    left = total - sum(len(f"{name}: {value}\r\n") for name, value in headers.items())
    return headers | {"X-4": "x" * (left - len("X-4: \r\n"))}


@pytest.mark.parametrize(
    ("largest", "too_large", "error"),
    [
        (
            {f"X-{n}": "x" for n in range(20)},
            {f"X-{n}": "x" for n in range(21)},
            "Too many custom headers: 21, at most 20 are allowed",
        ),
        ({"X" * 100: "x"}, {"X" * 101: "x"}, "longer than 100 characters"),
        ({"X": "x" * 1024}, {"X": "x" * 1025}, "longer than 1024 characters"),
        (headers_of(4096), headers_of(4097), "have 4097 bytes in total; at most 4096 are allowed"),
    ],
    ids=["headers", "name", "value", "total"],
)
def test_each_limit_is_exact(largest: dict[str, str], too_large: dict[str, str], error: str) -> None:
    assert validate_custom_headers(largest) == tuple(largest.items())
    with pytest.raises(InvalidInput, match=error):
        validate_custom_headers(too_large)


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=12), max_size=4))
def test_accepted_headers_make_one_line_each(headers: dict[str, str]) -> None:
    try:
        accepted = validate_custom_headers(headers)
    except InvalidInput:
        return
    raw = "".join(f"{name}: {value}\r\n" for name, value in accepted).encode("ascii")
    lines = raw.splitlines()
    assert len(lines) == len(headers)
    assert {line.partition(b": ")[0].decode() for line in lines} == set(headers)
