"""From a claimed delivery to exactly the bytes and headers of contract.md."""

import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import orjson
import pytest
import standardwebhooks
import stripe

from delivery.endpoint_secret import generate_secret
from delivery.outbound import Message, Outbound, messages
from delivery.sending import OutboundRequest
from delivery.signing import verify_duro_signature
from schema.deliveries import ClaimedDelivery, EndpointTarget
from schema.errors import InvalidInput, Unavailable
from schema.ids import new_id, parse_id
from schema.secret_box import SecretBox

KEY = bytes(range(32))
BOX = SecretBox(KEY)
EVENT = "evt_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6"
CREATED_AT = datetime(2026, 6, 28, 9, 0, tzinfo=UTC)
ENDPOINT = new_id()
OLD, NEW = generate_secret(), generate_secret()


def target(*secrets: str, url: str = "https://example.com/hooks", headers: object = None) -> EndpointTarget:
    return EndpointTarget(
        ENDPOINT,
        new_id(),
        url,
        (),
        None if headers is None else BOX.seal(orjson.dumps(headers).decode(), ENDPOINT.bytes),
        True,
        tuple(BOX.seal(secret, ENDPOINT.bytes) for secret in secrets),
    )


def claimed(endpoint: EndpointTarget, event_id: UUID | None = None) -> ClaimedDelivery:
    return ClaimedDelivery(
        new_id(),
        endpoint.tenant_id,
        endpoint.id,
        event_id or parse_id("evt", EVENT),
        "subscription_payment_success",
        CREATED_AT,
        0,
        False,
        '{"amount": 500000, "currency": "NGN"}',
        1,
        endpoint,
    )


def request(
    endpoint: EndpointTarget, timestamp: int = 1_782_637_200, prefix: str = "Duro"
) -> OutboundRequest:
    claim = claimed(endpoint)
    outbound = Outbound(BOX, prefix, f"{prefix}-Webhooks/0.1.0")
    return outbound.request(claim, messages([claim])[claim.event_id], timestamp)


def test_the_body_is_the_contract_s_to_the_byte() -> None:
    assert request(target(NEW)).body == (
        b'{"id":"evt_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6","type":"subscription_payment_success",'
        b'"createdAt":"2026-06-28T09:00:00.000Z","data":{"amount":500000,"currency":"NGN"}}'
    )


def test_headers_are_complete_and_in_order_with_the_merchants_before_ours() -> None:
    headers = request(target(NEW, headers=[["Authorization", "Bearer x"], ["X-Shop", "7"]])).headers
    assert [name for name, _ in headers] == [
        "Authorization",
        "X-Shop",
        "Content-Type",
        "User-Agent",
        "Duro-Signature",
        "Duro-Event-Id",
        "Duro-Event-Type",
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
    ]
    values = dict(headers)
    assert values["Content-Type"] == "application/json"
    assert values["User-Agent"] == "Duro-Webhooks/0.1.0"
    assert values["Duro-Event-Id"] == values["webhook-id"] == EVENT
    assert values["Duro-Event-Type"] == "subscription_payment_success"
    assert values["webhook-timestamp"] == "1782637200"
    assert values["Authorization"] == "Bearer x"


def test_another_product_s_prefix_is_in_its_headers_and_user_agent() -> None:
    names = [name for name, _ in request(target(NEW), prefix="Acme").headers]
    assert names[1:5] == ["User-Agent", "Acme-Signature", "Acme-Event-Id", "Acme-Event-Type"]


@pytest.mark.parametrize("held", [OLD, NEW], ids=["old", "new"])
def test_during_a_rotation_either_secret_verifies_with_code_that_is_not_ours(held: str) -> None:
    made = request(target(NEW, OLD), timestamp=int(time.time()))
    headers = dict(made.headers)
    assert headers["Duro-Signature"].count("v1=") == 2
    assert len(headers["webhook-signature"].split(" ")) == 2

    verified = standardwebhooks.Webhook(held).verify(made.body, headers)
    assert verified["id"] == EVENT
    stripe.WebhookSignature.verify_header(made.body.decode(), headers["Duro-Signature"], held, tolerance=300)


def test_after_the_grace_period_only_the_new_secret_verifies() -> None:
    made = request(target(NEW), timestamp=int(time.time()))
    headers = dict(made.headers)
    standardwebhooks.Webhook(NEW).verify(made.body, headers)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(OLD).verify(made.body, headers)


def test_a_rotated_secret_counts_from_the_next_request_on() -> None:
    """What was opened is remembered by what was sealed, so a change cannot be missed."""
    outbound = Outbound(BOX, "Duro", "x")
    for secret in (OLD, NEW):
        claim = claimed(target(secret))
        made = outbound.request(claim, Message(EVENT, b"{}"), 1_782_637_200)
        verify_duro_signature(dict(made.headers)["Duro-Signature"], b"{}", [secret], 1_782_637_200)


def test_a_secret_sealed_with_another_key_is_unavailable_and_is_not_shown() -> None:
    endpoint = target(NEW)
    stranger = Outbound(SecretBox(bytes(32)), "Duro", "x")
    with pytest.raises(Unavailable, match="DURO_SECRET_KEY") as refused:
        stranger.request(claimed(endpoint), Message(EVENT, b"{}"), 1)
    assert NEW not in str(refused.value)


def test_headers_sealed_with_another_key_are_unavailable() -> None:
    endpoint = replace(target(NEW), sealed_headers=SecretBox(bytes(32)).seal("[]", ENDPOINT.bytes))
    with pytest.raises(Unavailable, match="DURO_SECRET_KEY"):
        request(endpoint)


def test_a_secret_moved_from_another_endpoint_does_not_open() -> None:
    moved = replace(target(NEW), id=new_id())
    with pytest.raises(Unavailable):
        request(moved)


def test_an_endpoint_without_a_secret_gets_nothing_unsigned() -> None:
    with pytest.raises(ValueError, match="unsigned"):
        request(target())


def test_a_url_that_is_no_longer_taken_is_refused() -> None:
    with pytest.raises(InvalidInput):
        request(target(NEW, url="https://user:password@example.com/"))


def test_one_event_to_many_endpoints_has_one_body() -> None:
    claims = [claimed(target(NEW)) for _ in range(3)] + [claimed(target(NEW), new_id())]
    made = messages(claims)
    assert len(made) == 2
    assert json.loads(made[claims[3].event_id].body)["id"] != EVENT


def test_nothing_secret_is_in_the_request_s_repr() -> None:
    made = request(target(NEW, headers=[["Authorization", "Bearer hush"]]))
    assert "hush" not in repr(made)
    assert dict(made.headers)["Duro-Signature"] not in repr(made)
