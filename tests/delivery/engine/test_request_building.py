"""Requests have the documented body and headers, are signed, and show no secret."""

import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import orjson
import pytest
import standardwebhooks
import stripe

from delivery.engine.request_building import Message, Outbound, messages
from delivery.http.attempt_contract import OutboundRequest
from delivery.message.endpoint_secret import generate_secret
from delivery.message.signing import verify_duro_signature
from schema.deliveries.deliveries import ClaimedDelivery, EndpointTarget
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


def test_the_body_has_the_documented_bytes() -> None:
    assert request(target(NEW)).body == (
        b'{"id":"evt_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6","type":"subscription_payment_success",'
        b'"createdAt":"2026-06-28T09:00:00.000Z","data":{"amount":500000,"currency":"NGN"}}'
    )


def test_custom_headers_come_before_duro_s_own() -> None:
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


def test_the_prefix_names_the_headers() -> None:
    names = [name for name, _ in request(target(NEW), prefix="Acme").headers]
    assert names[1:5] == ["User-Agent", "Acme-Signature", "Acme-Event-Id", "Acme-Event-Type"]


@pytest.mark.parametrize("held", [OLD, NEW], ids=["old", "new"])
def test_during_a_rotation_either_secret_verifies(held: str) -> None:
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


def test_a_rotated_secret_signs_the_next_request() -> None:
    """The cache of decrypted secrets is keyed by ciphertext, so no change is missed."""
    outbound = Outbound(BOX, "Duro", "x")
    for secret in (OLD, NEW):
        claim = claimed(target(secret))
        made = outbound.request(claim, Message(EVENT, b"{}"), 1_782_637_200)
        verify_duro_signature(dict(made.headers)["Duro-Signature"], b"{}", [secret], 1_782_637_200)


def test_a_secret_sealed_with_another_key_is_unavailable() -> None:
    endpoint = target(NEW)
    stranger = Outbound(SecretBox(bytes(32)), "Duro", "x")
    with pytest.raises(Unavailable, match="DURO_SECRET_KEY") as rejected:
        stranger.request(claimed(endpoint), Message(EVENT, b"{}"), 1)
    assert NEW not in str(rejected.value)


def test_headers_sealed_with_another_key_are_unavailable() -> None:
    endpoint = replace(target(NEW), sealed_headers=SecretBox(bytes(32)).seal("[]", ENDPOINT.bytes))
    with pytest.raises(Unavailable, match="DURO_SECRET_KEY"):
        request(endpoint)


def test_a_secret_of_another_endpoint_does_not_open() -> None:
    moved = replace(target(NEW), id=new_id())
    with pytest.raises(Unavailable):
        request(moved)


def test_an_endpoint_without_a_secret_gets_no_request() -> None:
    with pytest.raises(ValueError, match="unsigned"):
        request(target())


def test_an_invalid_url_is_rejected() -> None:
    with pytest.raises(InvalidInput):
        request(target(NEW, url="https://user:password@example.com/"))


def test_an_event_has_one_body_for_all_endpoints() -> None:
    claims = [claimed(target(NEW)) for _ in range(3)] + [claimed(target(NEW), new_id())]
    made = messages(claims)
    assert len(made) == 2
    assert json.loads(made[claims[3].event_id].body)["id"] != EVENT


def test_the_repr_of_a_request_shows_no_secret() -> None:
    made = request(target(NEW, headers=[["Authorization", "Bearer hidden"]]))
    assert "hidden" not in repr(made)
    assert dict(made.headers)["Duro-Signature"] not in repr(made)
