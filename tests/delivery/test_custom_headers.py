import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.custom_headers import validate_custom_headers
from schema.errors import InvalidInput


def test_good_headers_keep_their_order_case_and_values() -> None:
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
def test_reserved_names_are_refused_in_any_case(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"'{name}' is reserved"):
        validate_custom_headers({name: "x"})


def test_the_configured_prefix_is_reserved_beside_our_own() -> None:
    for name in ("Acme-Signature", "acme-x", "Duro-Signature", "Duro_Signature", "acme_x", "Webhook_Id"):
        with pytest.raises(InvalidInput, match="is reserved"):
            validate_custom_headers({name: "x"}, header_prefix="Acme-")
    assert validate_custom_headers({"Acme-Signature": "x"})


@pytest.mark.parametrize("name", ["", "X Y", "X:", "X\r\nY", "X\n", "ü", "X\x00", ":path", "X(", "\ud800"])
def test_a_name_that_is_not_a_token_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        validate_custom_headers({name: "x"})
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "value", ["a\r\nHost: b", "a\n", "a\rb", "\x00", "a\tb", "\x7f", "ü", "\u2028", " a", "a ", "\ud800"]
)
def test_a_value_that_could_leave_its_line_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(InvalidInput, match="X-Token") as refused:
        validate_custom_headers({"X-Token": f"secret{value}secret" if value.strip(" ") == value else value})
    assert "secret" not in str(refused.value)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "headers",
    [
        {f"X-{n}": "x" for n in range(21)},
        {"X" * 101: "x"},
        {"X": "x" * 1025},
        {f"X-{n}": "x" * 1000 for n in range(5)},
        {"X-A": "1", "x-a": "2"},
        {"X-A": 1},
        {"X-A": None},
        {1: "x"},
    ],
)
def test_too_many_too_long_twice_or_not_text_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        validate_custom_headers(headers)


def test_the_limits_themselves_are_allowed() -> None:
    validate_custom_headers({f"X-{n}": "x" for n in range(20)})
    validate_custom_headers({"X" * 100: "x" * 1024})


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=12), max_size=4))
def test_what_is_accepted_makes_exactly_as_many_lines_as_headers(headers: dict[str, str]) -> None:
    try:
        accepted = validate_custom_headers(headers)
    except InvalidInput:
        return
    raw = "".join(f"{name}: {value}\r\n" for name, value in accepted).encode("ascii")
    lines = raw.splitlines()
    assert len(lines) == len(headers)
    assert {line.partition(b": ")[0].decode() for line in lines} == set(headers)
