"""A valid row of each core table, which tests change until the database rejects it."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias
from uuid import UUID

import asyncpg

from schema.ids import new_id

Row: TypeAlias = dict[str, Any]
"""Values by column. In changes, a callable computes the value from the world."""
NOW: Final = datetime(2026, 6, 28, 9, tzinfo=UTC)
MINUTE: Final = timedelta(minutes=1)


@dataclass(frozen=True)
class World:
    """Two tenants with a member each. The first has one row in every table."""

    ours: UUID = field(default_factory=new_id)
    theirs: UUID = field(default_factory=new_id)
    member: UUID = field(default_factory=new_id)
    their_member: UUID = field(default_factory=new_id)
    identity: UUID = field(default_factory=new_id)
    there: dict[str, Row] = field(default_factory=dict)
    """By table."""


# A valid row of each table, different from the existing one. Referenced tables come first.
ROWS: Mapping[str, Callable[[World], Row]] = {
    "members": lambda w: {
        "tenant_id": w.ours,
        "id": new_id(),
        "email": "grace@gym.example",
        "name": "Grace",
        "role": "admin",
    },
    "sessions": lambda w: {
        "token_hash": secrets.token_bytes(32),
        "tenant_id": w.ours,
        "member_id": w.member,
        "created_at": NOW,
        "last_seen_at": NOW,
        "expires_at": NOW + MINUTE,
    },
    "kyc_documents": lambda w: {
        "tenant_id": w.ours,
        "id": new_id(),
        "kind": "director_id",
        "storage_key": "kyc/1",
        "sha256": bytes(32),
        "status": "pending",
        "rejection_reason": None,
        "submitted_by": w.member,
        "reviewed_at": None,
    },
    "audit_logs": lambda w: {
        "tenant_id": w.ours,
        "id": new_id(),
        "member_id": w.member,
        "action": "member.invite",
        "subject_id": None,
        "detail": "{}",
    },
    "store_configs": lambda w: {"tenant_id": w.theirs, "display_name": "Gym", "time_zone": "Africa/Lagos"},
    "email_templates": lambda w: {
        "tenant_id": w.ours,
        "kind": "cancelled",
        "subject": "Goodbye",
        "body": "…",
    },
    "notifications": lambda w: {
        "tenant_id": w.ours,
        "id": new_id(),
        "member_id": w.member,
        "kind": "payout",
        "title": "Paid",
        "body": "",
    },
    "customer_identities": lambda _: {"id": new_id(), "phone": "+2348000000002"},
    "otp_challenges": lambda _: {
        "id": new_id(),
        "phone": "+2348000000002",
        "channel": "whatsapp",
        "code_hash": bytes(32),
        "attempts": 0,
        "created_at": NOW,
        "expires_at": NOW + MINUTE,
    },
    "saved_payment_methods": lambda w: {
        "id": new_id(),
        "identity_id": w.identity,
        "rail": "card",
        "sealed_token": b"sealed",
        "is_default": False,
        "removed_at": None,
    },
}
# Changes that make the existing row from it.
FIRST: Mapping[str, Row] = {
    "members": {"id": lambda w: w.member, "email": "ada@gym.example", "role": "owner"},
    "kyc_documents": {"kind": "registration"},
    "store_configs": {"tenant_id": lambda w: w.ours},
    "email_templates": {"kind": "receipt"},
    "customer_identities": {"id": lambda w: w.identity, "phone": "+2348000000001"},
    "otp_challenges": {"phone": "+2348000000001"},
    "saved_payment_methods": {"is_default": True},
}


async def new_world(core: asyncpg.Connection) -> World:
    world = World()
    for tenant, name in ((world.ours, "Gym"), (world.theirs, "Bakery")):
        await core.execute("INSERT INTO tenants (id, name) VALUES ($1, $2)", tenant, name)
    for table in ROWS:
        world.there[table] = changed(table, world, FIRST.get(table, {}))
        await insert(core, table, world.there[table])
    theirs = {"tenant_id": world.theirs, "id": world.their_member, "email": "ben@bakery.example"}
    await insert(core, "members", changed("members", world, theirs))
    return world


def changed(table: str, world: World, changes: Row) -> Row:
    """Returns a valid row with these changes."""
    return ROWS[table](world) | {
        column: value(world) if callable(value) else value for column, value in changes.items()
    }


async def insert(core: asyncpg.Connection, table: str, row: Row) -> None:
    parameters = ", ".join(f"${n}" for n in range(1, len(row) + 1))
    await core.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({parameters})", *row.values())
