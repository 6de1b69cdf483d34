"""Builds the exact request of an attempt from a claimed delivery."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

import orjson

from delivery.egress.endpoint_url import EndpointUrl, parse_endpoint_url
from delivery.http.attempt_contract import OutboundRequest
from delivery.message.envelope import envelope
from delivery.message.signing import SigningKey, signed_headers
from schema.deliveries.deliveries import ClaimedDelivery
from schema.ids import EVENT, format_id
from schema.secret_box import SecretBox


class Message(NamedTuple):
    """An event as it is sent to every endpoint."""

    event_id: str
    """As `evt_…`."""
    body: bytes


class _Route(NamedTuple):
    """What all requests to an endpoint share."""

    url: EndpointUrl
    headers: tuple[tuple[str, str], ...]
    keys: tuple[SigningKey, ...]


class Outbound:
    """Decrypts an endpoint's secrets and headers once per ciphertext; a rotated secret is a new ciphertext."""

    def __init__(self, box: SecretBox, header_prefix: str, user_agent: str) -> None:
        self._box = box
        self._prefix = header_prefix
        self._fixed = (("Content-Type", "application/json"), ("User-Agent", user_agent))
        self._route = lru_cache(4096)(self._find_route)

    def request(self, claim: ClaimedDelivery, message: Message, timestamp: int) -> OutboundRequest:
        """Builds one signed request. Raises Unavailable if a secret was sealed with another key, and InvalidInput if the
        URL is no longer accepted."""
        endpoint = claim.endpoint
        assert endpoint is not None
        route = self._route(endpoint.id, endpoint.url, endpoint.sealed_headers, endpoint.sealed_secrets)
        signed = signed_headers(
            route.keys,
            event_id=message.event_id,
            event_type=claim.event_type,
            timestamp=timestamp,
            body=message.body,
            prefix=self._prefix,
        )
        return OutboundRequest(route.url, route.headers + signed, message.body)

    def _find_route(
        self, endpoint_id: UUID, url: str, sealed_headers: bytes | None, sealed_secrets: tuple[bytes, ...]
    ) -> _Route:
        custom: tuple[tuple[str, str], ...] = ()
        if sealed_headers is not None:
            opened = orjson.loads(self._box.open(sealed_headers, endpoint_id.bytes))
            custom = tuple((name, value) for name, value in opened)
        keys = tuple(
            SigningKey.from_secret(self._box.open(secret, endpoint_id.bytes)) for secret in sealed_secrets
        )
        return _Route(parse_endpoint_url(url), (*custom, *self._fixed), keys)


def messages(claims: Sequence[ClaimedDelivery]) -> dict[UUID, Message]:
    """Builds one message per event, for all its endpoints."""
    made: dict[UUID, Message] = {}
    for claim in claims:
        if claim.event_id not in made:
            event_id = format_id(EVENT, claim.event_id)
            body = envelope(event_id, claim.event_type, claim.created_at, claim.data)
            made[claim.event_id] = Message(event_id, body)
    return made
