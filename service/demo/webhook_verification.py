"""Verifies webhooks as a careful merchant would. It uses the documented contract and the `standardwebhooks` package and
imports none of duro's signing code, so the two cannot share a mistake.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from standardwebhooks import Webhook, WebhookVerificationError

from schema.secret_repr import HidesSecrets

TOLERANCE_S: Final = 300
_KEYS: Final = ["id", "type", "createdAt", "data"]


class InvalidWebhook(Exception):
    """The request is not a genuine, well-formed webhook for this endpoint."""


@dataclass(frozen=True, slots=True)
class Expectation(HidesSecrets):
    """What the endpoint's owner knows about its webhooks."""

    secret: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


def verify(headers: Mapping[str, str], body: bytes, expected: Expectation, now: float) -> dict[str, Any]:
    """Returns the body's content. `headers` is case-insensitive. Raises InvalidWebhook."""
    _check_standard_signature(headers, body, expected.secret)
    check_duro_signature(headers.get("Duro-Signature", ""), body, expected.secret, now)
    content = _read(body)
    _check_headers(headers, content, expected.headers)
    return content


def _check_standard_signature(headers: Mapping[str, str], body: bytes, secret: str) -> None:
    try:
        Webhook(secret).verify(body, dict(headers), json_parse=False)
    except (WebhookVerificationError, ValueError) as error:
        raise InvalidWebhook(f"webhook-signature: {error}") from None


def check_duro_signature(header: str, body: bytes, secret: str, now: float) -> None:
    """`t=<unix seconds>,v1=<hex HMAC-SHA256 of "{t}.{body}">`.

    The key is the secret's text. One matching v1 is enough.
    """
    fields = [part.partition("=") for part in header.split(",")]
    stamps = [value for name, _, value in fields if name == "t"]
    if len(stamps) != 1 or not (stamps[0].isascii() and stamps[0].isdigit()):
        raise InvalidWebhook("Duro-Signature: no single t=<unix seconds>")
    want = hmac.new(secret.encode(), stamps[0].encode() + b"." + body, hashlib.sha256).hexdigest()
    given = [value for name, _, value in fields if name == "v1"]
    if not any(hmac.compare_digest(want.encode(), value.encode(errors="surrogateescape")) for value in given):
        raise InvalidWebhook("Duro-Signature: no v1 matches")
    if abs(now - int(stamps[0])) > TOLERANCE_S:
        raise InvalidWebhook("Duro-Signature: the timestamp is outside the tolerance")


def _read(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
        compact = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    except ValueError:
        raise InvalidWebhook("the body is not JSON") from None
    if not isinstance(content, dict) or list(content) != _KEYS:
        raise InvalidWebhook(f"the body's keys are not {', '.join(_KEYS)}")
    if not (isinstance(content["id"], str) and isinstance(content["type"], str)):
        raise InvalidWebhook("the body's id or type is not text")
    if compact != body:
        raise InvalidWebhook("the body is not compact JSON")
    return content


def _check_headers(headers: Mapping[str, str], content: Mapping[str, Any], custom: Mapping[str, str]) -> None:
    wanted = {
        "Content-Type": "application/json",
        "Duro-Event-Id": content["id"],
        "Duro-Event-Type": content["type"],
        "webhook-id": content["id"],
        **custom,
    }
    for name, value in wanted.items():
        if headers.get(name) != value:
            raise InvalidWebhook(f"the header {name} is missing or has another value")
