"""The bytes that both sides send: event data of a given size, and a webhook as duro would post it."""

import secrets
import time
from base64 import b64encode
from importlib.metadata import version
from typing import Final

import orjson

from schema.ids import EVENT, format_id, new_id

EVENT_TYPE: Final = "subscription_payment_success"
SMALL: Final = 800
LARGE: Final = 8000
_LINE_ITEM: Final = {
    "planCode": "PLN_gym_monthly",
    "description": "Gym, monthly",
    "quantity": 1,
    "amount": 1500000,
}


def data_for(body_bytes: int) -> str:
    """Returns a charge as JSON, padded so that the webhook's body has `body_bytes` bytes."""
    charge = {
        "subscriptionCode": "SUB_vsyqdmlzble3uii",
        "customer": {"email": "ada@example.com", "name": "Ada Obi", "phone": "+2348012345678"},
        "amount": 4500000,
        "currency": "NGN",
        "paidAt": "2026-06-28T09:00:00.000Z",
        "items": [_LINE_ITEM] * (body_bytes // 400),
        "note": "",
    }
    filler = "Thank you. " * (body_bytes // 11 + 1)
    return orjson.dumps({**charge, "note": filler[: body_bytes - len(_body(orjson.dumps(charge)))]}).decode()


def webhook(body_bytes: int) -> tuple[bytes, dict[str, str]]:
    """Returns body and headers of the same sizes as duro's.

    The receiver does not verify, so signatures are random.
    """
    event_id, timestamp = format_id(EVENT, new_id()), int(time.time())
    return _body(data_for(body_bytes).encode()), {
        "Content-Type": "application/json",
        "User-Agent": f"Duro-Webhooks/{version('duro-webhooks')}",
        "Duro-Signature": f"t={timestamp},v1={secrets.token_hex(32)}",
        "Duro-Event-Id": event_id,
        "Duro-Event-Type": EVENT_TYPE,
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{b64encode(secrets.token_bytes(32)).decode()}",
    }


def _body(data: bytes) -> bytes:
    event_id = format_id(EVENT, new_id()).encode()
    return b'{"id":"%b","type":"%b","createdAt":"2026-06-28T09:00:00.000Z","data":%b}' % (
        event_id,
        EVENT_TYPE.encode(),
        data,
    )
