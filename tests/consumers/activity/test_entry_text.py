"""The sentence of an activity entry, from any data."""

import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.activity.activity_consumer import new_entry
from consumers.activity.entry_text import LONGEST_SUMMARY
from schema.event_catalog import catalog
from schema.event_log.log import LoggedEvent
from schema.ids import SUBSCRIPTION, format_id, new_id, parse_id

AT = datetime(2026, 7, 1, 9, tzinfo=UTC)
ID = "01HKBZ4PQ9Z3K7T8V9X2Y1B5C6"

OF_EXAMPLES = {
    "subscription_created": f"Subscription created to plan_{ID} at ₦5,000.00 a month",
    "subscription_activated": "Subscription activated at ₦5,000.00 a month; paid until 28 Jul 2026, 09:00 UTC",
    "subscription_updated": "Subscription will be cancelled on 28 Jul 2026, 09:00 UTC",
    "subscription_plan_changed": f"Subscription moved from plan_{ID} (₦5,000.00 a month) "
    "to plan_01HKC0M2E4Y7N5R8S3W6A1D9FG (₦15,000.00 a month)",
    "subscription_paused": "Subscription paused",
    "subscription_resumed": "Subscription resumed; its period ends on 28 Jul 2026, 09:00 UTC",
    "subscription_past_due": "Subscription past due: its renewal failed (insufficient funds), and recovery has begun",
    "subscription_recovered": "Subscription recovered; paid until 28 Jul 2026, 09:00 UTC",
    "subscription_unpaid": "Subscription unpaid: no further charge is attempted: 4 charges failed within 14 days",
    "subscription_expired": "Subscription expired after 12 periods",
    "subscription_cancelled": "Subscription cancelled on request",
    "subscription_payment_success": "Payment of ₦5,000.00 by card succeeded",
    "subscription_payment_failed": "Payment of ₦5,000.00 by card failed: insufficient funds; "
    "will be retried on payday, 30 Jun 2026, 09:00 UTC",
    "subscription_payment_recovered": "Payment of ₦5,000.00 by card recovered at attempt 2, after insufficient funds",
    "subscription_payment_refunded": "Refund of ₦2,000.00 for a payment of ₦5,000.00; "
    "₦3,500.00 refunded in total",
    "subscription_payment_action_required": "Customer must update the card for a payment of ₦5,000.00 "
    "until 5 Jul 2026, 09:00 UTC: expired card",
    "invoice_created": "Invoice of ₦5,000.00 created for 28 Jun 2026 to 28 Jul 2026",
    "webhook_endpoint_failing": f"Webhook endpoint we_{ID} has failed for 3 days (214 attempts, last: HTTP status 503); "
    "it will be disabled on 3 Jul 2026, 09:00 UTC unless an attempt succeeds",
    "webhook_endpoint_disabled": f"Webhook endpoint we_{ID} disabled: it has failed for 3 days "
    "(214 attempts, last: HTTP status 503)",
    "webhook_endpoint_enabled": f"Webhook endpoint we_{ID} enabled",
    "webhook_test": f"Test event for webhook endpoint we_{ID}: A test event",
}
FAILED = catalog()["subscription_payment_failed"].example
NEXT = "2026-06-28T09:00:00.000Z"


def event(type_: str, data: str | Mapping[str, Any], at: datetime = AT) -> LoggedEvent:
    text = data if isinstance(data, str) else orjson.dumps(data).decode()
    return LoggedEvent(1, new_id(), new_id(), type_, at, text)


def summary(type_: str, data: str | Mapping[str, Any], at: datetime = AT) -> str:
    return new_entry(event(type_, data, at)).summary


def test_each_catalog_type_has_a_sentence() -> None:
    assert {name: summary(name, found.example) for name, found in catalog().items()} == OF_EXAMPLES


@pytest.mark.parametrize(
    ("type_", "says"),
    list(OF_EXAMPLES.items()),
)
def test_missing_data_is_left_out(type_: str, says: str) -> None:
    bare = summary(type_, {})
    assert bare.split()[0] == says.split(maxsplit=1)[0]
    assert "None" not in bare
    assert not bare.endswith((" ", ":", ";", ","))


@pytest.mark.parametrize(
    ("changes", "ends"),
    [
        ({"nextAction": "retry", "nextAttemptAt": NEXT}, "; will be retried on 28 Jun 2026, 09:00 UTC"),
        (
            {"nextAction": "switch_rail", "nextAttemptAt": NEXT},
            "; will be retried by another payment method on 28 Jun 2026, 09:00 UTC",
        ),
        (
            {"nextAction": "request_card_update", "nextAttemptAt": NEXT},
            "; the customer is asked for another card until 28 Jun 2026, 09:00 UTC",
        ),
        ({"nextAction": "exhaust", "nextAttemptAt": None}, "; no further retry"),
        ({"nextAction": None, "nextAttemptAt": None}, ": insufficient funds"),
        ({"nextAction": "retry", "nextAttemptAt": "2026-06-28T10:00:00+01:00"}, "on 28 Jun 2026, 09:00 UTC"),
    ],
)
def test_a_failed_payment_says_what_happens_next(changes: dict[str, Any], ends: str) -> None:
    assert summary("subscription_payment_failed", {**FAILED, **changes}).endswith(ends)


def test_a_short_period_shows_minutes() -> None:
    hour = {"periodStart": "2026-06-28T22:30:00.000Z", "periodEnd": "2026-06-28T23:30:00.000Z"}
    said = summary("invoice_created", catalog()["invoice_created"].example | hour)
    assert said.endswith(" for 28 Jun 2026, 22:30 to 28 Jun 2026, 23:30 UTC")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"change": "trial_started"}, "Trial started; it ends on 28 Jul 2026, 09:00 UTC"),
        ({"change": "incomplete_expired"}, "Subscription expired: its first payment was not made"),
        ({"change": "cancellation_withdrawn"}, "Subscription continues: its cancellation was withdrawn"),
        ({"change": "payment_method"}, f"Subscription's payment method changed to pm_{ID}"),
        ({"change": "limit", "maxCycles": 1}, "Subscription now ends after 1 period"),
        ({"change": "limit", "maxCycles": None}, "Subscription now ends only when it is cancelled"),
        ({"change": "moved_house"}, "Subscription updated: moved house"),
        ({"change": ["limit"]}, "Subscription updated"),
    ],
)
def test_an_update_says_what_changed(changes: dict[str, Any], says: str) -> None:
    assert summary("subscription_updated", catalog()["subscription_updated"].example | changes) == says


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("gone", "disabled: its receiver answered 410 Gone"),
        ("Customer asked us to.", "disabled: Customer asked us to"),
        (None, "disabled"),
    ],
)
def test_an_endpoint_is_disabled_for_a_reason(reason: str | None, says: str) -> None:
    text = {"endpointId": f"we_{ID}", "reason": reason}
    assert summary("webhook_endpoint_disabled", text) == f"Webhook endpoint we_{ID} {says}"


def test_an_unknown_type_says_so_and_still_links() -> None:
    found = new_entry(
        event("loan_approved", {"amount": 700, "customerId": f"cus_{ID}", "invoiceId": "INV-7"})
    )
    assert found.summary == "loan_approved of ₦7.00 (event type unknown to this version)"
    assert orjson.loads(found.links) == {"customer": f"cus_{ID}", "invoice": "INV-7"}
    assert (found.subject_kind, found.customer_id) == ("cus", parse_id("cus", f"cus_{ID}"))
    assert found.invoice_id is None, "it is not of our form: it cannot be looked for"


def test_an_entry_links_to_the_rows_it_names() -> None:
    refund = new_entry(
        event("subscription_payment_refunded", catalog()["subscription_payment_refunded"].example)
    )
    assert orjson.loads(refund.links) == {
        "subscription": f"sub_{ID}",
        "invoice": f"inv_{ID}",
        "payment": f"pay_{ID}",
        "refund": "pay_01HKC0M2E4Y7N5R8S3W6A1D9FG",
        "customer": f"cus_{ID}",
        "plan": f"plan_{ID}",
    }
    assert (refund.subject_kind, refund.amount, refund.currency) == ("pay", 200_000, "NGN")
    moved = new_entry(event("subscription_plan_changed", catalog()["subscription_plan_changed"].example))
    assert orjson.loads(moved.links)["previousPlan"] == f"plan_{ID}"
    assert moved.subject_kind == "sub"


@pytest.mark.parametrize("id_", [f"inv_{ID}", f"SUB_{ID}", "sub_", "sub_1", f"xsub_{ID}", 5, None, ["sub"]])
def test_only_an_id_of_its_kind_makes_a_subject(id_: object) -> None:
    assert new_entry(event("subscription_paused", {"subscriptionId": id_})).subject_id is None


@pytest.mark.parametrize(
    ("amount", "currency", "column", "shown"),
    [
        ("500000", '"NGN"', 500_000, " of ₦5,000.00"),
        ("-1", '"KES"', -1, " of -KSh0.01"),
        ("500000", "null", 500_000, " of ₦5,000.00"),
        ("5", '"XOF"', 5, " of 5 minor units of XOF"),
        ("5", '"naira"', 5, " of 5 (unknown currency)"),
        ("9223372036854775807", '"USD"', 2**63 - 1, " of $92,233,720,368,547,758.07"),
        ("9223372036854775808", '"USD"', None, ""),
        ("1" + "0" * 10_000, '"USD"', None, ""),
        ("500000.0", '"NGN"', None, ""),
        ("5e5", '"NGN"', None, ""),
        ("true", '"NGN"', None, ""),
        ('"500000"', '"NGN"', None, ""),
        ("[5]", '{"NGN": 1}', None, ""),
    ],
)
def test_only_a_whole_number_is_money(amount: str, currency: str, column: int | None, shown: str) -> None:
    made = new_entry(event("invoice_created", f'{{"amount": {amount}, "currency": {currency}}}'))
    assert made.summary == f"Invoice{shown} created"
    assert made.amount == column
    assert (made.currency is None) == (column is None)


def test_a_lower_case_id_is_the_same_id() -> None:
    written, said = (
        new_entry(event("subscription_paused", {"subscriptionId": f"sub_{spelled}"})).subscription_id
        for spelled in (ID.lower(), ID)
    )
    assert written == said is not None


def test_a_huge_number_does_not_hide_the_other_data() -> None:
    assert (
        summary("invoice_created", '{"amount": 500, "n": 1' + "0" * 5000 + "}") == "Invoice of ₦5.00 created"
    )


def test_too_deeply_nested_data_is_read_as_empty() -> None:
    assert (
        summary("invoice_created", '{"amount": 500, "n": ' + "[" * 20_000 + "]" * 20_000 + "}")
        == "Invoice created"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "�[31mred�[0m"),
        ("one\r\ntwo\tthree", "one two three"),
        ("user\u202egnp.exe", "user�gnp.exe"),
        ("a\u2066b\u2069c", "a�b�c"),
        ("₦ à ẹ̀kọ́ 日本", "₦ à ẹ̀kọ́ 日本"),
        ("GET https://ada:pw@shop.example/h?token=s3cret#x failed", "GET https://shop.example/… failed"),
        ("https://shop.example?token=s3cret", "https://shop.example/…"),
        ("https://a@b:s3cret@shop.example:8443", "https://shop.example:8443/…"),
    ],
)
def test_untrusted_text_is_shown_safely(text: str, shown: str) -> None:
    assert summary("webhook_test", {"message": text}) == f"Test event: {shown}"


@pytest.mark.parametrize("padding", range(440, 520, 3))
def test_a_truncated_url_does_not_show_its_password(padding: int) -> None:
    """User info would look like the host when the @ is cut off."""
    text = " " * padding + "https://ada:s3cret@shop.example/"
    assert "s3cret" not in summary("webhook_test", {"message": text + "x" * 1000})


SHOWN = st.text(max_size=300) | st.text(alphabet="\x1b\x07\u202e\u2066\u200b\ufeff\n ://@?a_", max_size=600)
HOSTILE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | SHOWN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = sorted({key for found in catalog().values() for key in found.schema["properties"]})
PLAUSIBLE = (
    HOSTILE
    | st.sampled_from([value for found in catalog().values() for value in found.example.values()])
    | st.integers(-(2**70), 2**70)
    | st.datetimes().map(lambda moment: f"{moment.isoformat()}Z")
)
DATA = st.dictionaries(st.sampled_from(KEYS), PLAUSIBLE, max_size=14)


@given(st.sampled_from(sorted(catalog())) | st.text(max_size=80), DATA)
def test_any_object_yields_one_bounded_printable_line(type_: str, data: dict[str, Any]) -> None:
    try:
        text = orjson.dumps(data).decode()
    except TypeError:  # a lone surrogate, or an integer of more than 64 bits: Postgres's own to print
        import json

        text = json.dumps(data).encode("utf-8", "replace").decode()
    made = new_entry(event(type_, text))
    assert 1 <= len(made.summary) <= LONGEST_SUMMARY
    assert made.summary.isprintable()
    assert not {unicodedata.bidirectional(character) for character in made.summary} & {
        "RLO",
        "LRO",
        "RLE",
        "LRE",
        "RLI",
        "LRI",
    }
    assert made.amount is None or -(2**63) <= made.amount < 2**63
    assert len(made.links) <= 1000


@given(st.binary(min_size=16, max_size=16))
def test_every_subscription_is_found_by_its_public_id(raw: bytes) -> None:
    from uuid import UUID

    id_ = UUID(bytes=raw)
    made = new_entry(event("subscription_paused", {"subscriptionId": format_id(SUBSCRIPTION, id_)}))
    assert made.subject_id == made.subscription_id == id_


def test_256_kib_of_data_yields_one_line() -> None:
    made = new_entry(event("subscription_unpaid", {"reason": "x" * 250_000, "failureCode": "y" * 1000}))
    assert len(made.summary) < 200
    assert made.summary.endswith("x…")
