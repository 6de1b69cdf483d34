"""The event catalog says what `data` holds: valid schemas, examples that fit, and nothing else that does."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from schema.connections.database import Database
from schema.event_catalog import catalog
from schema.event_log import events
from schema.ids import format_id
from schema.modes import Mode
from schema.queries import load
from schema.timestamps import iso_millis
from tests.support.event_schemas import assert_conforms

BILLING = [name for name in catalog() if not name.startswith("webhook_")]
PREFIXES = {
    "subscriptionId": "sub",
    "customerId": "cus",
    "planId": "plan",
    "previousPlanId": "plan",
    "invoiceId": "inv",
    "paymentId": "pay",
    "refundId": "pay",
    "paymentMethodId": "pm",
    "endpointId": "we",
}
AMOUNTS = {"amount", "previousAmount", "refundedAmount", "paidAmount", "discount"}
CURRENCIES = {"currency", "previousCurrency"}
INTERVALS = ("hour", "day", "week", "month", "quarter", "biannual", "year")
CLOSED = {
    **dict.fromkeys(CURRENCIES, ("NGN", "GHS", "KES", "ZAR", "USD", "GBP", "EUR")),
    "interval": INTERVALS,
    "previousInterval": INTERVALS,
    "rail": ("card", "ussd", "transfer", "virtual_account", "direct_debit"),
    "failureCode": (
        "insufficient_funds", "expired_card", "card_not_supported", "do_not_honor", "stolen_card",
        "processor_error", "timeout",
    ),
    "nextAction": ("exhaust", "request_card_update", "retry", "switch_rail", "retry_payday"),
    "change": (
        "trial_started", "incomplete_expired", "cancellation_scheduled", "cancellation_withdrawn",
        "payment_method", "limit",
    ),
    "percent": (50, 70, 90),
}  # fmt: skip
MOMENTS = {
    "currentPeriodStart",
    "currentPeriodEnd",
    "periodStart",
    "periodEnd",
    "nextAttemptAt",
    "deadline",
    "failingSince",
    "disablesAt",
}
NULLABLE = {"maxCycles", "paymentMethodId", "responseCode", "nextAction", "nextAttemptAt", "lastError"}
NULLABLE_OF = {"subscription_payment_failed": {"reason"}}
"""By type, where others of the same name always have a value."""
STATUSES = (
    "incomplete", "incomplete_expired", "trialing", "active", "past_due", "paused", "unpaid", "canceled", "expired",
)  # fmt: skip
STATUS = {
    "subscription_created": "incomplete",
    "subscription_activated": "active",
    "subscription_paused": "paused",
    "subscription_resumed": "active",
    "subscription_past_due": "past_due",
    "subscription_recovered": "active",
    "subscription_unpaid": "unpaid",
    "subscription_expired": "expired",
    "subscription_cancelled": "canceled",
}

moments = st.datetimes(timezones=st.sampled_from([UTC]))
text = st.text(max_size=10)


def examples_with(*keys: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(type, a copy of its example, key) for each of these keys in each type that has it."""
    for event_type in catalog().values():
        for key in event_type.schema["properties"]:
            if key in keys:
                yield event_type.name, dict(event_type.example), key


def refused(type_: str, data: dict[str, Any], because: str) -> None:
    with pytest.raises(AssertionError, match=because):
        assert_conforms(type_, data)


def everything_in(schema: Any) -> Iterator[str]:
    """Every key of every object, however deep."""
    if isinstance(schema, dict):
        yield from schema
        for value in schema.values():
            yield from everything_in(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from everything_in(value)


# The catalog and the database


@pytest.mark.parametrize("mode", Mode)
async def test_names_and_descriptions_are_the_database_s(database: Database, mode: Mode) -> None:
    rows = await database.data(mode).fetch(load("events")["types"])
    assert {row["name"]: row["description"] for row in rows} == {
        name: event_type.description for name, event_type in catalog().items()
    }


@pytest.mark.parametrize("mode", Mode)
async def test_each_example_goes_through_the_log_unharmed(
    database: Database, tenant: UUID, mode: Mode
) -> None:
    pool = database.data(mode)
    for name, event_type in catalog().items():
        event = await events.record(pool, tenant, name, event_type.example)
        recorded = orjson.loads((await events.show(pool, tenant, event)).data)
        assert recorded == event_type.example
        assert_conforms(name, recorded)


# Schemas


@pytest.mark.parametrize("name", catalog())
def test_each_schema_is_valid_and_whole(name: str) -> None:
    event_type = catalog()[name]
    Draft202012Validator.check_schema(event_type.schema)
    assert event_type.schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    assert not {"$ref", "$dynamicRef"} & set(everything_in(event_type.schema))
    assert (event_type.name, event_type.schema["title"]) == (name, name)
    assert event_type.schema["description"] == event_type.description
    assert (event_type.schema["type"], event_type.schema["additionalProperties"]) == ("object", False)
    assert orjson.loads(orjson.dumps(event_type.schema)) == event_type.schema


def test_each_property_has_a_description() -> None:
    for name, event_type in catalog().items():
        for key, property_ in event_type.schema["properties"].items():
            assert re.fullmatch(r"\S.{5,}\.", property_["description"]), (name, key)


def test_field_kinds_follow_from_their_names() -> None:
    """So that the tests below leave none out."""
    for name, event_type in catalog().items():
        for key, property_ in event_type.schema["properties"].items():
            pattern = property_.get("pattern", "")
            assert pattern.startswith(f"^{PREFIXES.get(key)}_[0-7]") == key.endswith("Id"), (name, key)
            assert ("minor units" in property_["description"]) == (key in AMOUNTS), (name, key)
            assert ("enum" in property_) <= (key in {*CLOSED, "status", "reason"}), (name, key)
            assert (property_.get("format") == "date-time") == (key in MOMENTS), (name, key)


@pytest.mark.parametrize("name", BILLING)
def test_billing_always_tells_who_and_how_much(name: str) -> None:
    assert set(catalog()[name].schema["required"]) >= {
        "subscriptionId", "customerId", "planId", "amount", "currency",
    }  # fmt: skip
    assert "invoiceId" in catalog()[name].schema["required"] or "status" in catalog()[name].schema["required"]


# What fits


@pytest.mark.parametrize("name", catalog())
def test_each_example_fits(name: str) -> None:
    assert_conforms(name, catalog()[name].example)


@given(st.sampled_from([*PREFIXES.values(), "evt", "ten", ""]), st.uuids())
def test_only_ids_of_the_kind_fit(prefix: str, id_: UUID) -> None:
    whole = format_id(prefix, id_)
    for type_, data, key in examples_with(*PREFIXES):
        data[key] = whole
        if prefix == PREFIXES[key]:
            assert_conforms(type_, data)
        else:
            refused(type_, data, rf"\$\.{key}: ")


@pytest.mark.parametrize("mangled", ["{}0", " {}", "{} ", "x{}"])
def test_an_id_with_more_to_it_is_refused(mangled: str) -> None:
    for type_, data, key in examples_with(*PREFIXES):
        refused(type_, {**data, key: mangled.format(data[key] or "pm_")}, rf"\$\.{key}: ")
        refused(type_, {**data, key: (data[key] or "pm_")[:-1]}, rf"\$\.{key}: ")


@given(st.integers(min_value=0))
def test_whole_amounts_fit(amount: int) -> None:
    for type_, data, key in examples_with(*AMOUNTS):
        assert_conforms(type_, {**data, key: amount})


@given(st.integers(max_value=-1) | st.floats() | st.booleans() | st.integers().map(str))
def test_negative_fractional_and_non_numeric_amounts_are_refused(amount: object) -> None:
    for type_, data, key in examples_with(*AMOUNTS):
        refused(type_, {**data, key: amount}, rf"\$\.{key}: ")


@pytest.mark.parametrize("amount", [-1, 0.5, 499_999.99, "500000"])
def test_other_validators_refuse_the_same_amounts(amount: object) -> None:
    """Ours is stricter than the standard in that 500000.0 is no integer."""
    for type_, data, key in examples_with(*AMOUNTS):
        assert not Draft202012Validator(catalog()[type_].schema).is_valid({**data, key: amount})


@given(moments)
def test_times_fit_in_one_format_only(moment: datetime) -> None:
    ours = iso_millis(moment)
    others = (
        moment.isoformat(),
        ours[:-1],
        ours.replace("T", " "),
        ours.replace(".", ","),
        f"{ours[:-1]}000Z",
        "",
        0,
    )
    for type_, data, key in examples_with(*MOMENTS):
        assert_conforms(type_, {**data, key: ours})
        for other in others:
            refused(type_, {**data, key: other}, rf"\$\.{key}: ")


@given(st.uuids(), moments)
def test_a_renewal_key_names_subscription_and_period(id_: UUID, start: datetime) -> None:
    data = dict(catalog()["invoice_created"].example)
    for subscription, moment, fits in (
        (format_id("sub", id_), iso_millis(start), True),
        (format_id("cus", id_), iso_millis(start), False),
        (format_id("sub", id_), start.isoformat(), False),
    ):
        data["idempotencyKey"] = f"renewal_{subscription}_{moment}"
        if fits:
            assert_conforms("invoice_created", data)
        else:
            refused("invoice_created", data, r"\$\.idempotencyKey: ")


# What does not


@pytest.mark.parametrize("name", catalog())
def test_a_missing_key_is_refused(name: str) -> None:
    event_type = catalog()[name]
    required = set(event_type.schema["required"])
    assert required == set(event_type.example) - set(event_type.schema.get("dependentRequired", ()))
    for missing in event_type.example:
        data = {key: value for key, value in event_type.example.items() if key != missing}
        refused(name, data, f"'{missing}' is a (required property|dependency)")


@given(text)
def test_an_unknown_key_is_refused(key: str) -> None:
    for name, event_type in catalog().items():
        if key not in event_type.example:
            refused(name, {**event_type.example, key: 1}, "Additional properties are not allowed")


@pytest.mark.parametrize("key", sorted(CLOSED))
def test_a_closed_set_has_these_words(key: str) -> None:
    """Whoever receives them may have a case for each."""
    ends = (None,) if key in NULLABLE else ()
    for type_, data, _ in examples_with(key):
        assert tuple(catalog()[type_].schema["properties"][key]["enum"]) == (*CLOSED[key], *ends)
        for word in CLOSED[key]:
            assert_conforms(type_, {**data, key: word})


@given(text | st.integers() | st.sampled_from(["ngn", "NGN ", "JPY", "XXX"]))
def test_values_outside_a_closed_set_are_refused(word: str | int) -> None:
    for type_, data, key in examples_with(*CLOSED, "status"):
        if word not in CLOSED.get(key, STATUSES):
            refused(type_, {**data, key: word}, rf"\$\.{key}: ")


def test_a_cancellation_reason_is_one_of_four() -> None:
    """Other types' reasons are for people, in words."""
    data = dict(catalog()["subscription_cancelled"].example)
    for reason in ("requested", "period_end", "fraud", "other"):
        assert_conforms("subscription_cancelled", {**data, "reason": reason})
    refused("subscription_cancelled", {**data, "reason": "moved away"}, r"\$\.reason: ")


def test_only_optional_fields_may_be_null() -> None:
    for name, event_type in catalog().items():
        for key in event_type.schema["properties"]:
            data = {**event_type.example, key: None}
            if key in NULLABLE | NULLABLE_OF.get(name, set()):
                assert_conforms(name, data)
            else:
                refused(name, data, rf"\$\.{key}: ")


@pytest.mark.parametrize("name", [name for name, _, _ in examples_with("status")])
def test_the_status_follows_from_the_event(name: str) -> None:
    for status in STATUSES:
        data = {**catalog()[name].example, "status": status}
        if STATUS.get(name, status) == status:
            assert_conforms(name, data)
        else:
            refused(name, data, r"\$\.status: ")


def test_an_unknown_type_conforms_to_no_schema() -> None:
    with pytest.raises(AssertionError, match="'invoice_exploded' is not in the catalog"):
        assert_conforms("invoice_exploded", {})
