"""Creates and changes endpoints for the CLI and the API. All input is checked before the first row is written."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import orjson

from consumers.event_type_matching import validate_patterns
from delivery.egress.endpoint_url import parse_endpoint_url
from delivery.egress.guard import EgressGuard, EgressPolicy
from delivery.egress.resolver import SystemResolver
from delivery.message.custom_headers import validate_custom_headers
from delivery.message.endpoint_secret import generate_secret, parse_secret
from schema.connections.database import Database
from schema.core import endpoints, tenants
from schema.core.endpoints import HIGHEST_RATE, NO_HEADERS, NO_LIMIT, Endpoint, EndpointChanges, NewEndpoint
from schema.deliveries import endpoint_health
from schema.deliveries.endpoint_health import NEVER_SENT_TO
from schema.errors import InvalidInput
from schema.event_log import events
from schema.ids import ENDPOINT, TENANT, format_id, new_id
from schema.modes import Mode
from schema.pages import After, Page
from schema.secret_box import SecretBox
from schema.secret_repr import HidesSecrets
from service.settings import Settings

_LONGEST_DESCRIPTION: Final = 500
_LONGEST_REASON: Final = 200


@dataclass(frozen=True, slots=True)
class EndpointInput(HidesSecrets):
    """Unchecked input for an endpoint. In an update, None leaves a field unchanged."""

    url: str | None = None
    description: str | None = None
    event_types: Sequence[str] | None = None
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    rate_limit: int | None = None
    """Deliveries per second. NO_LIMIT: no limit."""


class EndpointAdmin:
    def __init__(
        self,
        database: Database,
        guard: EgressGuard,
        header_prefix: str,
        disable_after: timedelta,
    ) -> None:
        self._database = database
        self._disable_after = disable_after
        self._guard = guard
        self._header_prefix = header_prefix
        self._box = SecretBox(database.key)

    async def create(
        self, tenant_id: UUID, mode: Mode, url: str, fields: EndpointInput, secret: str | None
    ) -> tuple[UUID, str]:
        """Returns the endpoint's id and its signing secret: `secret`, or a new one. Raises InvalidInput or NotFound."""
        endpoint_id = new_id()
        secret, sealed = self._seal_secret(endpoint_id, secret)
        await tenants.require(self._database.core, tenant_id)
        checked = await self._check(endpoint_id, mode, replace(fields, url=url))
        assert checked.url is not None
        new = NewEndpoint(
            endpoint_id,
            tenant_id,
            mode,
            checked.url,
            checked.description or "",
            checked.event_types or (),
            checked.sealed_headers or None,
            sealed,
            checked.rate_limit or None,
        )
        await endpoints.create(self._database.core, new)
        return endpoint_id, secret

    async def update(self, endpoint_id: UUID, fields: EndpointInput) -> Endpoint:
        """Takes effect with the next attempt, also of old deliveries. Raises InvalidInput or NotFound."""
        current = await self.show(endpoint_id)
        changes = await self._check(endpoint_id, current.mode, fields)
        await endpoints.update(self._database.core, endpoint_id, changes)
        if changes.url is not None and changes.url != current.url:
            await endpoint_health.reset_health(self._database.data(current.mode), endpoint_id)
        return await self.show(endpoint_id)

    async def show(self, endpoint_id: UUID) -> Endpoint:
        """Returns the endpoint with its health. Raises NotFound."""
        endpoint = await endpoints.show(self._database.core, endpoint_id)
        (shown,) = await self._with_health(endpoint.tenant_id, endpoint.mode, [endpoint])
        return shown

    async def list_page(self, tenant_id: UUID, mode: Mode, after: After, limit: int) -> Page[Endpoint]:
        """Newest first, with their health. Raises NotFound when there is no such tenant."""
        await tenants.require(self._database.core, tenant_id)
        found = await endpoints.list_endpoints(self._database.core, tenant_id, mode, after, limit)
        return replace(found, items=await self._with_health(tenant_id, mode, found.items))

    async def _with_health(
        self, tenant_id: UUID, mode: Mode, found: Sequence[Endpoint]
    ) -> Sequence[Endpoint]:
        data, ids = self._database.data(mode), [endpoint.id for endpoint in found]
        health = await endpoint_health.show(data, tenant_id, ids, self._disable_after)
        return [replace(endpoint, health=health.get(endpoint.id, NEVER_SENT_TO)) for endpoint in found]

    async def enable(self, endpoint_id: UUID) -> Endpoint:
        """Raises NotFound, and Conflict when it is already enabled."""
        endpoint = await self.show(endpoint_id)
        await endpoints.enable(self._database.data(endpoint.mode), endpoint)
        return await self.show(endpoint_id)

    async def disable(self, endpoint_id: UUID, reason: str) -> Endpoint:
        """Raises InvalidInput, NotFound, and Conflict when it is already disabled."""
        reason = reason.strip()
        if not 1 <= len(reason) <= _LONGEST_REASON or not reason.isprintable():
            raise InvalidInput(f"A reason has 1 to {_LONGEST_REASON} printable characters.")
        endpoint = await self.show(endpoint_id)
        await endpoints.disable(self._database.data(endpoint.mode), endpoint, reason)
        return await self.show(endpoint_id)

    async def pause(self, endpoint_id: UUID) -> Endpoint:
        """Makes its deliveries wait. Raises NotFound, and Conflict when it is already paused."""
        await endpoints.pause(self._database.core, await self.show(endpoint_id))
        return await self.show(endpoint_id)

    async def resume(self, endpoint_id: UUID) -> Endpoint:
        """Raises NotFound, and Conflict when it is not paused."""
        await endpoints.resume(self._database.core, await self.show(endpoint_id))
        return await self.show(endpoint_id)

    async def rotate_secret(
        self, endpoint_id: UUID, secret: str | None, grace: timedelta
    ) -> tuple[str, datetime]:
        """Returns the new secret, and until when the old one signs as well. Raises InvalidInput or NotFound."""
        secret, sealed = self._seal_secret(endpoint_id, secret)
        return secret, await endpoints.rotate_secret(self._database.core, endpoint_id, sealed, grace)

    async def _check(self, endpoint_id: UUID, mode: Mode, fields: EndpointInput) -> EndpointChanges:
        return EndpointChanges(
            description=_check_description(fields.description),
            sealed_headers=self._seal_headers(endpoint_id, fields.headers),
            event_types=await self._check_event_types(mode, fields.event_types),
            url=await self._check_url(fields.url),
            rate_limit=_check_rate_limit(fields.rate_limit),
        )

    async def _check_url(self, text: str | None) -> str | None:
        if text is None:
            return None
        url = parse_endpoint_url(text)
        await self._guard.check_at_save(url)
        return str(url)

    async def _check_event_types(self, mode: Mode, patterns: Sequence[str] | None) -> Sequence[str] | None:
        if not patterns:
            return patterns
        return validate_patterns(patterns, await events.type_names(self._database.data(mode)))

    def _seal_headers(self, endpoint_id: UUID, headers: Mapping[str, str] | None) -> bytes | None:
        if headers is None:
            return None
        pairs = validate_custom_headers(headers, header_prefix=f"{self._header_prefix}-")
        return self._box.seal(orjson.dumps(pairs).decode(), endpoint_id.bytes) if pairs else NO_HEADERS

    def _seal_secret(self, endpoint_id: UUID, secret: str | None) -> tuple[str, bytes]:
        secret = generate_secret() if secret is None else secret
        parse_secret(secret)
        return secret, self._box.seal(secret, endpoint_id.bytes)


@asynccontextmanager
async def endpoint_admin(settings: Settings, database: Database) -> AsyncIterator[EndpointAdmin]:
    resolver = SystemResolver()
    guard = EgressGuard(EgressPolicy(settings.egress_allow, settings.egress_ports), resolver)
    try:
        yield EndpointAdmin(database, guard, settings.header_prefix, settings.disable_after)
    finally:
        await resolver.close()


async def require_endpoint(database: Database, endpoint_id: UUID, tenant_id: UUID, mode: Mode) -> Endpoint:
    """Raises NotFound, and InvalidInput when the endpoint has another tenant or mode."""
    endpoint = await endpoints.show(database.core, endpoint_id)
    if (endpoint.tenant_id, endpoint.mode) != (tenant_id, mode):
        raise InvalidInput(
            f"Endpoint {format_id(ENDPOINT, endpoint_id)} belongs to {format_id(TENANT, endpoint.tenant_id)} "
            f"in mode {endpoint.mode}: ask with that tenant and mode."
        )
    return endpoint


def _check_description(description: str | None) -> str | None:
    if description is not None and (len(description) > _LONGEST_DESCRIPTION or not description.isprintable()):
        raise InvalidInput(f"A description has at most {_LONGEST_DESCRIPTION} printable characters.")
    return description


def _check_rate_limit(limit: int | None) -> int | None:
    if limit is None or limit == NO_LIMIT or 1 <= limit <= HIGHEST_RATE:
        return limit
    raise InvalidInput(f"A rate limit is from 1 to {HIGHEST_RATE} deliveries per second, or none.")
