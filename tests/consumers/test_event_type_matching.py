from dataclasses import dataclass
from json import dumps
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.event_type_matching import matches, targets_of, validate_patterns
from schema.errors import InvalidInput
from schema.ids import ENDPOINT, format_id, new_id

CATALOG = (
    "subscription_created",
    "subscription_cancelled",
    "subscription_payment_success",
    "subscription_payment_failed",
    "invoice_created",
    "webhook_test",
)

event_types = st.sampled_from(CATALOG)
wildcards = event_types.flatmap(lambda name: st.integers(0, len(name)).map(lambda end: name[:end] + "*"))


@pytest.mark.parametrize(("patterns", "event_type", "expected"), [
    ([], "invoice_created", True),
    (["*"], "invoice_created", True),
    (["invoice_created"], "invoice_created", True),
    (["invoice_created"], "invoice_created_late", False),
    (["invoice_created"], "invoice", False),
    (["subscription_*"], "subscription_payment_failed", True),
    (["subscription_*"], "subscription_", True),
    (["subscription_*"], "subscription", False),
    (["subscription_*"], "invoice_created", False),
    (["subscription_payment_*"], "subscription_created", False),
    (["invoice_created", "subscription_*"], "subscription_created", True),
    (["invoice_*", "webhook_test"], "subscription_created", False),
    (["Invoice_created"], "invoice_created", False),
    (["invoice?created", "invoice.created", "[i]nvoice_created"], "invoice_created", False),
])  # fmt: skip
def test_a_pattern_matches_exactly_or_by_prefix(patterns: list[str], event_type: str, expected: bool) -> None:
    assert matches(patterns, event_type) is expected


@given(st.lists(event_types | wildcards))
def test_valid_patterns_are_kept_once_in_their_order(patterns: list[str]) -> None:
    kept = validate_patterns(patterns, CATALOG)
    assert set(kept) == set(patterns)
    assert list(kept) == sorted(kept, key=patterns.index)


@given(st.lists(event_types | wildcards, min_size=1), event_types)
def test_several_patterns_match_if_any_of_them_does(patterns: list[str], event_type: str) -> None:
    assert matches(patterns, event_type) == any(matches([pattern], event_type) for pattern in patterns)


def test_no_patterns_are_valid_and_mean_all() -> None:
    assert validate_patterns([], CATALOG) == ()


@pytest.mark.parametrize(("pattern", "sentence"), [
    ("subscription_canceled", "'subscription_canceled' is not an event type; did you mean subscription_cancelled"),
    ("subscriptions_*", r"'subscriptions_\*' matches no event type; did you mean subscription_\*"),
    ("subscription_payments_*", r"did you mean subscription_payment_\*"),
    ("refund", "'refund' is not an event type; the known ones are invoice_created, .*webhook_test"),
    ("refund_*", r"'refund_\*' matches no event type; the known ones are invoice_\*, .*webhook_\*"),
    ("*_created", r"'\*_created' matches no event type"),
    ("invoice_**", "matches no event type"),
    ("", "'' is not an event type"),
    (" invoice_created", "did you mean invoice_created"),
])  # fmt: skip
def test_an_unknown_pattern_is_refused_with_close_names(pattern: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        validate_patterns(["invoice_created", pattern], CATALOG)


@dataclass(frozen=True)
class Endpoint:
    id: UUID
    event_types: tuple[str, ...]


def endpoint(*patterns: str) -> Endpoint:
    return Endpoint(new_id(), patterns)


def test_an_event_goes_to_endpoints_subscribed_to_its_type() -> None:
    all_, invoices, others = endpoint(), endpoint("invoice_*"), endpoint("subscription_*")
    assert targets_of("invoice_created", "not looked at", [all_, invoices, others]) == [all_, invoices]


@pytest.mark.parametrize("patterns", [(), ("*",), ("webhook_test",), ("invoice_created",)])
def test_a_test_event_goes_only_to_the_endpoint_it_names(patterns: tuple[str, ...]) -> None:
    named, other = endpoint(*patterns), endpoint(*patterns)
    data = f'{{"n": 1, "endpointId": "{format_id(ENDPOINT, named.id)}"}}'
    assert targets_of("webhook_test", data, [other, named]) == [named]
    assert targets_of("webhook_test", data, [other]) == []


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
no_endpoint = scalars | st.uuids().map(lambda id_: format_id(ENDPOINT, id_)) | st.lists(scalars, max_size=2)


@given(
    no_endpoint.map(lambda value: dumps({"endpointId": value}))
    | no_endpoint.map(dumps)
    | st.sampled_from(["", "{", "{}", '{"endpointId": 1e999}', '{"endpointId":' * 2000])
)
def test_a_test_event_that_names_no_endpoint_goes_nowhere(data: str) -> None:
    assert targets_of("webhook_test", data, [endpoint(), endpoint("webhook_test")]) == []
