"""Declares all of duro's objects and the rights of each role on them.

The database's owner owns all objects, and PUBLIC has no rights. Grants come only from here: migrations create
objects and grant nothing. Only objects named here, and partitions of tables named here, are changed, because
the schemas may contain other tables. Partitions have no grants, because access goes through their parent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from schema.installation.roles import CORE_ROLE, analyst_of, producer_of
from schema.modes import Mode

Grants: TypeAlias = Mapping[str, str]
"""{role: privileges}."""

READ: Final = "SELECT"
APPEND: Final = "SELECT, INSERT"
LOCK: Final = "SELECT, UPDATE"  # locking a row requires UPDATE
WRITE: Final = "SELECT, INSERT, UPDATE"
ADD_AND_DELETE: Final = "SELECT, INSERT, DELETE"  # rows are added and deleted, never changed
EVERYTHING: Final = "SELECT, INSERT, UPDATE, DELETE"
CALL: Final = "EXECUTE"
NO_ACCESS: Final[Grants] = {}

TRIGGERS: Final = {
    "append_only": "A",
    "check_event": "A",
    "set_disabled_at": "O",
    "refuse_lossy_rebuild": "O",
}
"""The pg_trigger.tgenabled of each trigger. "A" fires even if session_replication_role is set. A data-only
restore with --disable-triggers changes "A" to "O".
"""


@dataclass(frozen=True)
class DeclaredSchema:
    """One schema's objects. Function names include the argument types, as in "parse_id(text, text)"."""

    schema: str
    usage: tuple[str, ...]
    tables: Mapping[str, Grants]
    """Tables and views."""
    functions: Mapping[str, Grants]
    types: tuple[str, ...] = ()


CORE: Final = DeclaredSchema(
    schema="core",
    usage=(CORE_ROLE,),
    tables={
        "api_keys": {CORE_ROLE: WRITE},
        "audit_logs": {CORE_ROLE: APPEND},
        "customer_identities": {CORE_ROLE: WRITE},
        "email_templates": {CORE_ROLE: WRITE},
        "event_types": {CORE_ROLE: READ},
        "installation": NO_ACCESS,
        "kyc_documents": {CORE_ROLE: WRITE},
        "members": {CORE_ROLE: WRITE},
        "notifications": {CORE_ROLE: WRITE},
        "otp_challenges": {CORE_ROLE: WRITE},
        "saved_payment_methods": {CORE_ROLE: WRITE},
        "schema_migrations": {CORE_ROLE: READ},
        "sessions": {CORE_ROLE: EVERYTHING},
        "store_configs": {CORE_ROLE: WRITE},
        "tenants": {CORE_ROLE: WRITE},
        "webhook_endpoint_secrets": {CORE_ROLE: EVERYTHING},
        "webhook_endpoints": {CORE_ROLE: WRITE},
        "workers": {CORE_ROLE: EVERYTHING},
    },
    functions={
        "oldest_transaction()": {CORE_ROLE: CALL},
        "refuse_change()": NO_ACCESS,
        "set_disabled_at()": NO_ACCESS,
        "stop_runaway_queries()": {CORE_ROLE: CALL},
    },
)


def data_schema(mode: Mode) -> DeclaredSchema:
    """Returns the declaration of one mode's schema."""
    data, analyst, producer = mode.role, analyst_of(mode), producer_of(mode)
    return DeclaredSchema(
        schema=mode.schema,
        usage=(data, analyst, producer),
        tables={
            "activity": {data: APPEND},
            "activity_feed": {data: READ},
            "attempt_folds": NO_ACCESS,
            "attempt_folds_lock": NO_ACCESS,
            "checkout_sessions": {data: WRITE},
            "consumers": {data: LOCK},
            "cursors": {data: ADD_AND_DELETE},
            "customers": {data: WRITE},
            "daily_payments": {data: READ, analyst: READ},
            "daily_revenue": {data: READ, analyst: READ},
            "dead_events": {data: ADD_AND_DELETE},
            "delivery_health": {data: READ, analyst: READ},
            "delivery_hours": NO_ACCESS,
            "delivery_switches": {data: LOCK},
            "dunning_schedules": {data: WRITE},
            "endpoint_health": {data: WRITE},
            "endpoint_rate_limits": {data: EVERYTHING},
            "event_hours": {data: WRITE},
            "event_log": {data: READ},
            "event_types": {data: READ},
            "events": {data: READ},
            "hourly_delivery_health": {data: READ, analyst: READ},
            "hourly_events": {data: READ, analyst: READ},
            "hourly_payments": {data: READ, analyst: READ},
            "idempotency_keys": {data: EVERYTHING},
            "invoices": {data: WRITE},
            "movement_hours": {data: WRITE},
            "mrr": {data: READ, analyst: READ},
            "partitions_lock": NO_ACCESS,
            "payment_attempts": {data: WRITE},
            "payment_links": {data: EVERYTHING},
            "plans": {data: EVERYTHING},
            "projections": {data: READ},
            "promo_codes": {data: WRITE},
            "published_tenants": NO_ACCESS,
            "recovery": {data: READ, analyst: READ},
            "recovery_hours": {data: WRITE},
            "retention_lock": NO_ACCESS,
            "retired_months": {data: READ},
            "sequencer": {data: READ},
            "sequencer_lock": NO_ACCESS,
            "store_settings": {data: WRITE},
            "subscription_movements": {data: READ, analyst: READ},
            "subscription_states": {data: WRITE},
            "subscriptions": {data: WRITE},
            "tenants": {data: READ},
            "webhook_attempts": {data: APPEND},
            "webhook_deliveries": {data: WRITE},
            "webhook_endpoints": {data: READ},
            "webhook_replays": {data: WRITE},
        },
        # The data role appends events only through record_event(), and positions only through
        # sequence_events(). A product's own role becomes a member of the producer role. A view uses its
        # owner's rights on tables, but the reader's rights on functions.
        functions={
            "abandon_rebuild(text)": {data: CALL},
            "activity_type_key(uuid, text)": {data: CALL},
            "add_histogram(bigint[], integer[])": NO_ACCESS,
            "add_projection(text, text[])": NO_ACCESS,
            "add_to_histogram(integer[], integer[], bigint[])": NO_ACCESS,
            "as_of(text)": {data: CALL, analyst: CALL},
            "attempts_as_of()": {data: CALL, analyst: CALL},
            "begin_rebuild(text)": {data: CALL},
            "check_event()": NO_ACCESS,
            "disable_endpoint(uuid, text, text)": {data: CALL},
            "drop_generations(text)": {data: CALL},
            "enable_endpoint(uuid)": {data: CALL},
            "ensure_partitions(integer)": {data: CALL},
            "ensure_past_partitions(timestamp with time zone)": {data: CALL},
            "finish_rebuild(text)": {data: CALL},
            "first_month()": NO_ACCESS,
            "fold_attempts(integer)": {data: CALL},
            "fold_attempts(integer, boolean)": NO_ACCESS,
            "format_id(text, uuid)": {data: CALL, analyst: CALL, producer: CALL},
            "histogram_sum(integer[])": {data: CALL, analyst: CALL},
            "latency_bucket(real)": NO_ACCESS,
            "latency_quantile(bigint[], double precision)": {data: CALL, analyst: CALL},
            "make_append_only(regclass)": NO_ACCESS,
            "make_generation(text, integer)": NO_ACCESS,
            "make_partitions(timestamp with time zone, timestamp with time zone)": NO_ACCESS,
            "monthly_tables()": {data: CALL},
            "new_ulid()": {data: CALL},
            "new_ulid(timestamp with time zone)": NO_ACCESS,
            "parse_id(text, text)": {data: CALL, producer: CALL},
            "partitions_ahead()": {data: CALL},
            "record_event(text, text, json)": {data: CALL, producer: CALL},
            "record_event(text, text, jsonb)": {data: CALL, producer: CALL},
            "record_event(text, text, text)": {data: CALL, producer: CALL},
            "record_event(uuid, text, json)": {data: CALL, producer: CALL},
            "record_event(uuid, text, jsonb)": {data: CALL, producer: CALL},
            "record_event(uuid, text, jsonb, timestamp with time zone)": {data: CALL},
            "record_event(uuid, text, text)": {data: CALL, producer: CALL},
            "refuse_change()": NO_ACCESS,
            "refuse_lossy_rebuild()": NO_ACCESS,
            "refuse_retiring_month()": NO_ACCESS,
            "retention_consumers()": NO_ACCESS,
            "revoke_default_privileges(regclass)": NO_ACCESS,
            "seal_partition(regclass)": NO_ACCESS,
            "sealed_leftovers()": NO_ACCESS,
            "sequence_events(integer)": {data: CALL},
            "sequence_restored_events()": NO_ACCESS,
            "snapshot_after(pg_snapshot, pg_snapshot, xid8, xid8)": NO_ACCESS,
            "storage_parameters(text)": NO_ACCESS,
            "take_cursor(text)": {data: CALL},
            "this_mode()": {data: CALL},
            "time_zone_or_lagos(text)": {data: CALL, analyst: CALL},
            "to_bigint(numeric)": {data: CALL, analyst: CALL},
            "truncate_partition(regclass)": NO_ACCESS,
            "unseal_leftovers()": {data: CALL},
            "unseal_partition(regclass)": NO_ACCESS,
        },
        types=("currency", "id_range", "minor_units"),
    )


DECLARED: Final = (CORE, *(data_schema(mode) for mode in Mode))
