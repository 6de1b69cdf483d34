"""People, branding and the wallet in core: what the tables refuse, whoever writes to them.

One database serves the whole file, with a row in each table; each test changes it in a transaction that is rolled back.
"""

from collections.abc import AsyncIterator, Callable
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from schema.ids import new_id
from schema.installation.roles import CORE_ROLE
from tests.support.append_only import assert_unchangeable
from tests.support.core_rows import MINUTE, NOW, ROWS, Row, World, changed, insert, new_world
from tests.support.servers.connections import LIVE, SANDBOX, SUPERUSER, Connect, connections
from tests.support.servers.databases import OWNER, Cluster

pytestmark = pytest.mark.asyncio(loop_scope="module")


def there(table: str, column: str) -> Callable[[World], Any]:
    """What the table's first row has in that column."""
    return lambda w: w.there[table][column]


def nobody(_: World) -> UUID:
    return new_id()


def their_member(w: World) -> UUID:
    return w.their_member


# What is changed in a valid row, and the constraint that refuses it.
REFUSED: tuple[tuple[str, Row, str], ...] = (
    ("members", {"tenant_id": nobody}, "members_tenant_id_fkey"),
    ("members", {"id": there("members", "id")}, "members_pkey"),
    ("members", {"email": there("members", "email")}, "members_by_email"),
    ("members", {"email": "grace"}, "members_email_check"),
    ("members", {"email": "grace@gym@example"}, "members_email_check"),
    ("members", {"email": "grace @gym.example"}, "members_email_check"),
    ("members", {"email": "Grace@gym.example"}, "members_email_check"),
    ("members", {"email": f"{'g' * 243}@gym.example"}, "members_email_check"),
    ("members", {"name": ""}, "members_name_check"),
    ("members", {"name": "g" * 201}, "members_name_check"),
    ("members", {"role": "superuser"}, "members_role_check"),
    ("members", {"status": "asleep"}, "members_status_check"),
    ("sessions", {"token_hash": there("sessions", "token_hash")}, "sessions_pkey"),
    ("sessions", {"token_hash": b"short"}, "sessions_token_hash_check"),
    ("sessions", {"member_id": their_member}, "sessions_tenant_id_member_id_fkey"),
    ("sessions", {"member_id": nobody}, "sessions_tenant_id_member_id_fkey"),
    ("sessions", {"expires_at": NOW}, "sessions_check"),
    ("sessions", {"last_seen_at": NOW + MINUTE}, "sessions_check"),
    ("sessions", {"last_seen_at": NOW - MINUTE}, "sessions_check"),
    ("kyc_documents", {"tenant_id": nobody}, "kyc_documents_tenant_id_fkey"),
    ("kyc_documents", {"id": there("kyc_documents", "id")}, "kyc_documents_pkey"),
    ("kyc_documents", {"kind": there("kyc_documents", "kind")}, "kyc_documents_current"),
    ("kyc_documents", {"kind": "selfie"}, "kyc_documents_kind_check"),
    ("kyc_documents", {"storage_key": ""}, "kyc_documents_storage_key_check"),
    ("kyc_documents", {"storage_key": "k" * 1025}, "kyc_documents_storage_key_check"),
    ("kyc_documents", {"sha256": bytes(31)}, "kyc_documents_sha256_check"),
    ("kyc_documents", {"status": "lost", "reviewed_at": NOW}, "kyc_documents_status_check"),
    ("kyc_documents", {"status": "rejected", "reviewed_at": NOW}, "kyc_documents_check"),
    ("kyc_documents", {"rejection_reason": "blurred"}, "kyc_documents_check"),
    (
        "kyc_documents",
        {"status": "approved", "reviewed_at": NOW, "rejection_reason": "blurred"},
        "kyc_documents_check",
    ),
    (
        "kyc_documents",
        {"status": "rejected", "reviewed_at": NOW, "rejection_reason": ""},
        "kyc_documents_rejection_reason_check",
    ),
    (
        "kyc_documents",
        {"status": "rejected", "reviewed_at": NOW, "rejection_reason": "r" * 1001},
        "kyc_documents_rejection_reason_check",
    ),
    ("kyc_documents", {"status": "approved"}, "kyc_documents_check1"),
    ("kyc_documents", {"reviewed_at": NOW}, "kyc_documents_check1"),
    ("kyc_documents", {"submitted_by": their_member}, "kyc_documents_tenant_id_submitted_by_fkey"),
    ("audit_logs", {"tenant_id": nobody, "member_id": None}, "audit_logs_tenant_id_fkey"),
    ("audit_logs", {"id": there("audit_logs", "id")}, "audit_logs_pkey"),
    ("audit_logs", {"member_id": their_member}, "audit_logs_tenant_id_member_id_fkey"),
    ("audit_logs", {"action": "invite"}, "audit_logs_action_check"),
    ("audit_logs", {"action": "Member.invite"}, "audit_logs_action_check"),
    ("audit_logs", {"action": "member." + "i" * 94}, "audit_logs_action_check"),
    ("audit_logs", {"subject_id": "s" * 101}, "audit_logs_subject_id_check"),
    ("audit_logs", {"detail": "[]"}, "audit_logs_detail_check"),
    ("store_configs", {"tenant_id": nobody}, "store_configs_tenant_id_fkey"),
    ("store_configs", {"tenant_id": there("store_configs", "tenant_id")}, "store_configs_pkey"),
    ("store_configs", {"display_name": ""}, "store_configs_display_name_check"),
    ("store_configs", {"display_name": "g" * 201}, "store_configs_display_name_check"),
    ("store_configs", {"logo_url": "http://gym.example"}, "store_configs_logo_url_check"),
    ("store_configs", {"logo_url": "https://" + "g" * 2041}, "store_configs_logo_url_check"),
    ("store_configs", {"brand_color": "red"}, "store_configs_brand_color_check"),
    ("store_configs", {"brand_color": "#FFF000"}, "store_configs_brand_color_check"),
    ("store_configs", {"support_email": "help"}, "store_configs_support_email_check"),
    ("store_configs", {"support_email": f"{'h' * 243}@gym.example"}, "store_configs_support_email_check"),
    ("store_configs", {"support_phone": "08031234567"}, "store_configs_support_phone_check"),
    ("store_configs", {"time_zone": ""}, "store_configs_time_zone_check"),
    ("store_configs", {"time_zone": "t" * 65}, "store_configs_time_zone_check"),
    ("email_templates", {"tenant_id": nobody}, "email_templates_tenant_id_fkey"),
    ("email_templates", {"kind": there("email_templates", "kind")}, "email_templates_pkey"),
    ("email_templates", {"kind": "newsletter"}, "email_templates_kind_check"),
    ("email_templates", {"subject": ""}, "email_templates_subject_check"),
    ("email_templates", {"subject": "s" * 301}, "email_templates_subject_check"),
    ("email_templates", {"body": ""}, "email_templates_body_check"),
    ("email_templates", {"body": "b" * 100_001}, "email_templates_body_check"),
    ("notifications", {"tenant_id": nobody, "member_id": None}, "notifications_tenant_id_fkey"),
    ("notifications", {"id": there("notifications", "id")}, "notifications_pkey"),
    ("notifications", {"member_id": their_member}, "notifications_tenant_id_member_id_fkey"),
    ("notifications", {"kind": "Payout"}, "notifications_kind_check"),
    ("notifications", {"kind": "k" * 101}, "notifications_kind_check"),
    ("notifications", {"title": ""}, "notifications_title_check"),
    ("notifications", {"title": "t" * 301}, "notifications_title_check"),
    ("notifications", {"body": "b" * 10_001}, "notifications_body_check"),
    ("customer_identities", {"id": there("customer_identities", "id")}, "customer_identities_pkey"),
    (
        "customer_identities",
        {"phone": there("customer_identities", "phone")},
        "customer_identities_phone_key",
    ),
    ("customer_identities", {"phone": "08031234567"}, "customer_identities_phone_check"),
    ("customer_identities", {"phone": "+1234567"}, "customer_identities_phone_check"),
    ("customer_identities", {"phone": "+1234567890123456"}, "customer_identities_phone_check"),
    ("otp_challenges", {"id": there("otp_challenges", "id")}, "otp_challenges_pkey"),
    ("otp_challenges", {"phone": there("otp_challenges", "phone")}, "otp_challenges_open"),
    ("otp_challenges", {"phone": "08031234567"}, "otp_challenges_phone_check"),
    ("otp_challenges", {"channel": "pigeon"}, "otp_challenges_channel_check"),
    ("otp_challenges", {"code_hash": b"123456"}, "otp_challenges_code_hash_check"),
    ("otp_challenges", {"attempts": 6}, "otp_challenges_attempts_check"),
    ("otp_challenges", {"attempts": -1}, "otp_challenges_attempts_check"),
    ("otp_challenges", {"expires_at": NOW}, "otp_challenges_check"),
    ("saved_payment_methods", {"id": there("saved_payment_methods", "id")}, "saved_payment_methods_pkey"),
    ("saved_payment_methods", {"identity_id": nobody}, "saved_payment_methods_identity_id_fkey"),
    ("saved_payment_methods", {"is_default": True}, "saved_payment_methods_default"),
    ("saved_payment_methods", {"is_default": True, "removed_at": NOW}, "saved_payment_methods_check"),
    ("saved_payment_methods", {"rail": "cash"}, "saved_payment_methods_rail_check"),
    ("saved_payment_methods", {"brand": ""}, "saved_payment_methods_brand_check"),
    ("saved_payment_methods", {"brand": "b" * 41}, "saved_payment_methods_brand_check"),
    ("saved_payment_methods", {"last4": "4084084084084081"}, "saved_payment_methods_last4_check"),
)

OPTIONAL = {
    "sessions": {"revoked_at"},
    "kyc_documents": {"rejection_reason", "reviewed_at"},
    "audit_logs": {"member_id", "subject_id"},
    "store_configs": {"logo_url", "brand_color", "support_email", "support_phone"},
    "notifications": {"member_id", "read_at"},
    "customer_identities": {"verified_at"},
    "otp_challenges": {"ended_at"},
    "saved_payment_methods": {"brand", "last4", "expires_on", "removed_at"},
}

# The widest of what is taken: the other side of the same borders.
TAKEN: tuple[tuple[str, Row], ...] = (
    ("members", {"email": f"{'g' * 242}@gym.example", "name": "g" * 200}),
    *(("members", {"status": status}) for status in ("invited", "active", "removed")),
    ("sessions", {"last_seen_at": NOW + MINUTE / 2, "revoked_at": NOW}),
    *(
        ("kyc_documents", {"kind": kind})
        for kind in ("director_id", "proof_of_address", "bank_statement", "tax_certificate")
    ),
    ("kyc_documents", {"status": "approved", "reviewed_at": NOW, "storage_key": "k" * 1024}),
    ("kyc_documents", {"status": "rejected", "reviewed_at": NOW, "rejection_reason": "r" * 1000}),
    ("audit_logs", {"member_id": None, "action": "a1.b_2.c", "subject_id": "s" * 100, "detail": '{"a": 1}'}),
    ("audit_logs", {"action": "member." + "i" * 93}),
    (
        "store_configs",
        {
            "logo_url": "https://" + "g" * 2040,
            "brand_color": "#00ff9a",
            "support_email": "Help@gym.example",
            "support_phone": "+2348031234567",
        },
    ),
    *(
        ("email_templates", {"kind": kind, "subject": "s" * 300, "body": "b" * 100_000})
        for kind in ("payment_failed", "update_card", "trial_ending", "cancelled", "recovered")
    ),
    ("notifications", {"member_id": None, "title": "t" * 300, "body": "b" * 10_000, "read_at": NOW}),
    *(("customer_identities", {"phone": phone}) for phone in ("+12345678", "+123456789012345")),
    ("otp_challenges", {"attempts": 5}),
    *(
        ("saved_payment_methods", {"rail": rail})
        for rail in ("card", "ussd", "transfer", "virtual_account", "direct_debit")
    ),
    (
        "saved_payment_methods",
        {"brand": "b" * 40, "last4": "0000", "expires_on": date(2030, 1, 31), "removed_at": NOW},
    ),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def connect(cluster: Cluster, shared: str) -> AsyncIterator[Connect]:
    async with connections(cluster, shared) as connect:
        yield connect


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(connect: Connect) -> World:
    return await new_world(await connect(CORE_ROLE))


@pytest_asyncio.fixture(loop_scope="module")
async def core(connect: Connect, world: World) -> AsyncIterator[asyncpg.Connection]:
    """As the role that sends every statement to core."""
    connection = await connect(CORE_ROLE)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()


async def refused_by(core: asyncpg.Connection, table: str, row: Row) -> str | None:
    """The constraint's name, or the column's that may not be null; None: the row would be taken."""
    savepoint = core.transaction()
    await savepoint.start()
    try:
        await insert(core, table, row)
    except asyncpg.NotNullViolationError as error:
        return error.column_name
    except asyncpg.IntegrityConstraintViolationError as error:
        return error.constraint_name
    finally:
        await savepoint.rollback()
    return None


async def test_every_constraint_refuses_what_it_is_there_for(core: asyncpg.Connection, world: World) -> None:
    for table, changes, constraint in REFUSED:
        assert await refused_by(core, table, changed(table, world, changes)) == constraint, (table, changes)
    stated = await core.fetch(
        "SELECT conname AS name FROM pg_constraint WHERE conrelid = ANY($1::text[]::regclass[])"
        " UNION SELECT relname FROM pg_index JOIN pg_class ON oid = indexrelid"
        "  WHERE indisunique AND indrelid = ANY($1::text[]::regclass[])",
        list(ROWS),
    )
    assert {constraint for _, _, constraint in REFUSED} == {row["name"] for row in stated}


async def test_what_a_row_needs_cannot_be_left_out(core: asyncpg.Connection, world: World) -> None:
    columns = await core.fetch(
        "SELECT attrelid::regclass::text, attname FROM pg_attribute"
        " WHERE attrelid = ANY($1::text[]::regclass[]) AND attnum > 0 AND NOT attisdropped",
        list(ROWS),
    )
    left_out: dict[str, set[str]] = {}
    for table, column in columns:
        refused = await refused_by(core, table, changed(table, world, {column: None}))
        assert refused in {column, None}, (table, column)
        if refused is None:
            left_out.setdefault(table, set()).add(column)
    assert left_out == OPTIONAL


async def test_what_lies_within_the_borders_is_taken(core: asyncpg.Connection, world: World) -> None:
    for table, changes in TAKEN + tuple((table, {}) for table in ROWS):
        assert await refused_by(core, table, changed(table, world, changes)) is None, (table, changes)


async def test_nothing_of_a_tenant_refers_to_another_tenants_member(
    core: asyncpg.Connection, world: World
) -> None:
    """Neither when it is made nor later, and no member moves to another tenant with what is its own."""
    for table, column in (
        ("sessions", "member_id"),
        ("kyc_documents", "submitted_by"),
        ("audit_logs", "member_id"),
        ("notifications", "member_id"),
    ):
        refused = f"{table}_tenant_id_{column}_fkey"
        assert await refused_by(core, table, changed(table, world, {column: their_member})) == refused
        if table != "audit_logs":
            for changes in (f"{column} = '{world.their_member}'", f"tenant_id = '{world.theirs}'"):
                with pytest.raises(asyncpg.ForeignKeyViolationError, match=refused):
                    async with core.transaction():
                        await core.execute(f"UPDATE {table} SET {changes} WHERE tenant_id = $1", world.ours)
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await core.execute("UPDATE members SET tenant_id = $1 WHERE id = $2", world.theirs, world.member)


async def test_roles_are_those_of_the_contract(core: asyncpg.Connection, world: World) -> None:
    for role in ("owner", "admin", "developer", "finance", "read_only"):
        assert await refused_by(core, "members", changed("members", world, {"role": role})) is None
    for role in ("", "Owner", "viewer", "read-only"):
        refused = await refused_by(core, "members", changed("members", world, {"role": role}))
        assert refused == "members_role_check"


async def test_an_email_is_unique_within_a_tenant(core: asyncpg.Connection, world: World) -> None:
    """And free again when its member was removed."""
    twin = changed("members", world, {"email": there("members", "email")})
    assert await refused_by(core, "members", twin) == "members_by_email"
    assert await refused_by(core, "members", twin | {"tenant_id": world.theirs}) is None
    await core.execute("UPDATE members SET status = 'removed' WHERE id = $1", world.member)
    await insert(core, "members", twin)
    with pytest.raises(asyncpg.UniqueViolationError, match="members_by_email"):
        await core.execute("UPDATE members SET status = 'active' WHERE id = $1", world.member)


async def test_a_session_ends_after_ten_idle_minutes(core: asyncpg.Connection, world: World) -> None:
    """Unless it is seen again; it never ends before, nor was it seen before it began."""
    row = ROWS["sessions"](world)
    del row["created_at"], row["last_seen_at"], row["expires_at"]
    await insert(core, "sessions", row)
    idle = await core.fetchval(
        "SELECT expires_at - last_seen_at FROM sessions WHERE token_hash = $1", row["token_hash"]
    )
    assert idle == timedelta(minutes=10)
    slide = "UPDATE sessions SET last_seen_at = last_seen_at + $2::interval WHERE token_hash = $1"
    with pytest.raises(asyncpg.CheckViolationError, match="sessions_check"):
        async with core.transaction():
            await core.execute(slide, row["token_hash"], timedelta(minutes=10))
    await core.execute(
        slide.replace(" WHERE", ", expires_at = expires_at + $2::interval WHERE"),
        row["token_hash"],
        timedelta(minutes=10),
    )
    assert await core.execute("DELETE FROM sessions WHERE token_hash = $1", row["token_hash"]) == "DELETE 1"


async def test_only_a_rejected_document_has_a_reason(core: asyncpg.Connection, world: World) -> None:
    for status in ("pending", "approved", "rejected"):
        for reason in (None, "blurred"):
            changes = {
                "status": status,
                "rejection_reason": reason,
                "reviewed_at": None if status == "pending" else NOW,
            }
            refused = await refused_by(core, "kyc_documents", changed("kyc_documents", world, changes))
            fits = (status == "rejected") == (reason is not None)
            assert refused == (None if fits else "kyc_documents_check"), changes


async def test_one_document_of_a_kind_is_current(core: asyncpg.Connection, world: World) -> None:
    """Pending or approved; another may follow once it was rejected, as often as that happens."""
    of_the_kind = {"kind": there("kyc_documents", "kind")}
    for _ in range(2):
        pending = changed("kyc_documents", world, of_the_kind)
        approved = pending | {"status": "approved", "reviewed_at": NOW}
        for row in (pending, approved):
            assert await refused_by(core, "kyc_documents", row) == "kyc_documents_current"
        await core.execute(
            "UPDATE kyc_documents SET status = 'rejected', rejection_reason = 'blurred', reviewed_at = now()"
            " WHERE tenant_id = $1 AND kind = $2 AND status IN ('pending', 'approved')",
            world.ours,
            pending["kind"],
        )
        await insert(core, "kyc_documents", approved)


@pytest.mark.parametrize("role", [CORE_ROLE, OWNER, SUPERUSER])
async def test_the_audit_log_is_append_only(connect: Connect, world: World, role: str) -> None:
    connection = await connect(role)
    if role == SUPERUSER:  # as replication does, which silences other triggers
        await connection.execute("SET session_replication_role = replica")
    await assert_unchangeable(connection, "core.audit_logs")
    row = changed("audit_logs", world, {})
    transaction = connection.transaction()
    await transaction.start()
    await insert(connection, "core.audit_logs", row)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(
            "INSERT INTO core.audit_logs (tenant_id, id, action) VALUES ($1, $2, 'member.invite')"
            " ON CONFLICT (tenant_id, id) DO UPDATE SET action = 'member.forget'",
            row["tenant_id"],
            row["id"],
        )
    await transaction.rollback()


async def test_what_core_may_change_in_these_tables(core: asyncpg.Connection) -> None:
    """Nothing is deleted but a session that is over."""
    rows = await core.fetch(
        "SELECT table_name, string_agg(privilege_type, ' ' ORDER BY privilege_type) AS may"
        "  FROM information_schema.table_privileges"
        " WHERE grantee = $1 AND privilege_type <> 'SELECT' AND table_name = ANY($2) GROUP BY 1",
        CORE_ROLE,
        list(ROWS),
    )
    others = dict.fromkeys(ROWS, "INSERT UPDATE")
    assert {row["table_name"]: row["may"] for row in rows} == others | {
        "audit_logs": "INSERT",
        "sessions": "DELETE INSERT UPDATE",
    }


async def test_a_tenant_is_one_row_for_both_modes(
    connect: Connect, core: asyncpg.Connection, world: World
) -> None:
    """Both modes know it by one id and one name; its people, documents and looks are there once, and know no mode."""
    for role in (SANDBOX, LIVE):
        known = await (await connect(role)).fetch("SELECT id, name FROM tenants ORDER BY name DESC")
        assert [tuple(row) for row in known] == [(world.ours, "Gym"), (world.theirs, "Bakery")]
    with_a_mode = await core.fetch(
        "SELECT table_name FROM information_schema.columns WHERE column_name = 'mode' AND table_name = ANY($1)",
        ["tenants", *ROWS],
    )
    assert with_a_mode == []
