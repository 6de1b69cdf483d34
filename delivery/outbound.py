"""From a claimed delivery to the exact bytes of one attempt."""

from collections.abc import Sequence
from functools import lru_cache
from uuid import UUID

import orjson

from delivery.endpoint_url import parse_endpoint_url
from delivery.envelope import envelope
from delivery.sending import OutboundRequest
from delivery.signing import SigningKey, signed_headers
from schema.deliveries import ClaimedDelivery
from schema.ids import EVENT, format_id
from schema.secret_box import SecretBox


class Outbound:
    """Opens what the endpoint has sealed, once per sealed text; a rotated secret is another text."""

    def __init__(self, box: SecretBox, header_prefix: str, user_agent: str) -> None:
        self._box = box
        self._prefix = header_prefix
        self._fixed = (("Content-Type", "application/json"), ("User-Agent", user_agent))
        self._keys = lru_cache(4096)(self._open_keys)
        self._custom = lru_cache(4096)(self._open_headers)
        self._url = lru_cache(4096)(parse_endpoint_url)

    def request(self, claim: ClaimedDelivery, body: bytes, timestamp: int) -> OutboundRequest:
        """Raises Unavailable when a secret was sealed with another key, InvalidInput when the URL is no longer taken."""
        endpoint = claim.endpoint
        assert endpoint is not None
        custom = self._custom(endpoint.id, endpoint.sealed_headers) if endpoint.sealed_headers else ()
        signed = signed_headers(
            self._keys(endpoint.id, endpoint.sealed_secrets),
            event_id=format_id(EVENT, claim.event_id),
            event_type=claim.event_type,
            timestamp=timestamp,
            body=body,
            prefix=self._prefix,
        )
        return OutboundRequest(self._url(endpoint.url), (*custom, *self._fixed, *signed), body)

    def _open_keys(self, endpoint_id: UUID, sealed: tuple[bytes, ...]) -> tuple[SigningKey, ...]:
        return tuple(SigningKey.from_secret(self._box.open(secret, endpoint_id.bytes)) for secret in sealed)

    def _open_headers(self, endpoint_id: UUID, sealed: bytes) -> tuple[tuple[str, str], ...]:
        return tuple((name, value) for name, value in orjson.loads(self._box.open(sealed, endpoint_id.bytes)))


def bodies(claims: Sequence[ClaimedDelivery]) -> dict[UUID, bytes]:
    """One body per event, however many endpoints it goes to."""
    made: dict[UUID, bytes] = {}
    for claim in claims:
        if claim.event_id not in made:
            made[claim.event_id] = envelope(claim.event_id, claim.event_type, claim.created_at, claim.data)
    return made
