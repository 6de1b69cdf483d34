"""Every object of ours and which role may do what with it. All belong to the database's owner; PUBLIC may do nothing.

This is the only place that grants: migrations create objects and grant nothing. Only objects named here, and the
partitions of tables named here, are ever touched: other tables may live in the same schemas. Partitions have no
grants of their own, because access goes through their parent.
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
LOCK: Final = "SELECT, UPDATE"  # to lock a row takes UPDATE
WRITE: Final = "SELECT, INSERT, UPDATE"
KEEP: Final = "SELECT, INSERT, DELETE"  # rows are added and deleted, never changed
EVERYTHING: Final = "SELECT, INSERT, UPDATE, DELETE"
CALL: Final = "EXECUTE"
NOBODY: Final[Grants] = {}

TRIGGERS: Final = {
    "append_only": "A",
    "check_event": "A",
    "set_disabled_at": "O",
    "refuse_lossy_rebuild": "O",
}
"""How each trigger of ours fires, as pg_trigger.tgenabled says it: a restore of data alone (--disable-triggers) turns
"A", which session_replication_role cannot switch off, into "O"."""


@dataclass(frozen=True)
class Declared:
    """One schema's objects. Functions are named with the types of their arguments, as in "parse_id(text, text)"."""

    schema: str
    usage: tuple[str, ...]
    tables: Mapping[str, Grants]
    """Views too."""
    functions: Mapping[str, Grants]
    types: tuple[str, ...] = ()


CORE: Final = Declared(
    schema="core",
    usage=(CORE_ROLE,),
    tables={
        "api_keys": {CORE_ROLE: WRITE},
        "audit_logs": {CORE_ROLE: APPEND},
        "customer_identities": {CORE_ROLE: WRITE},
        "email_templates": {CORE_ROLE: WRITE},
        "event_types": {CORE_ROLE: READ},
        "installation": NOBODY,
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
        "refuse_change()": NOBODY,
        "set_disabled_at()": NOBODY,
        "stop_runaway_queries()": {CORE_ROLE: CALL},
    },
)


def data_schema(mode: Mode) -> Declared:
    """What is declared for one mode's schema."""
    data, analyst, producer = mode.role, analyst_of(mode), producer_of(mode)
    return Declared(
        schema=mode.schema,
        usage=(data, analyst, producer),
        tables={
            "activity": {data: APPEND},
            "activity_feed": {data: READ},
            "attempt_folds": NOBODY,
            "attempt_folds_lock": NOBODY,
            "checkout_sessions": {data: WRITE},
            "consumers": {data: LOCK},
            "cursors": {data: KEEP},
            "customers": {data: WRITE},
            "daily_payments": {data: READ, analyst: READ},
            "daily_revenue": {data: READ, analyst: READ},
            "dead_events": {data: KEEP},
            "delivery_health": {data: READ, analyst: READ},
            "delivery_hours": NOBODY,
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
            "partitions_lock": NOBODY,
            "payment_attempts": {data: WRITE},
            "payment_links": {data: EVERYTHING},
            "plans": {data: EVERYTHING},
            "projections": {data: READ},
            "promo_codes": {data: WRITE},
            "published_tenants": NOBODY,
            "recovery": {data: READ, analyst: READ},
            "recovery_hours": {data: WRITE},
            "retention_lock": NOBODY,
            "retired_months": {data: READ},
            "sequencer": {data: READ},
            "sequencer_lock": NOBODY,
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
        # The data role appends events through record_event() and positions through sequence_events() alone. A
        # product's own role becomes a member of the producer role. Views run with their owner's rights on
        # tables, but with the reader's on functions.
        functions={
            "abandon_rebuild(text)": {data: CALL},
            "activity_type_key(uuid, text)": {data: CALL},
            "add_histogram(bigint[], integer[])": NOBODY,
            "add_projection(text, text[])": NOBODY,
            "add_to_histogram(integer[], integer[], bigint[])": NOBODY,
            "as_of(text)": {data: CALL, analyst: CALL},
            "attempts_as_of()": {data: CALL, analyst: CALL},
            "begin_rebuild(text)": {data: CALL},
            "check_event()": NOBODY,
            "disable_endpoint(uuid, text, text)": {data: CALL},
            "drop_generations(text)": {data: CALL},
            "enable_endpoint(uuid)": {data: CALL},
            "ensure_partitions(integer)": {data: CALL},
            "ensure_past_partitions(timestamp with time zone)": {data: CALL},
            "finish_rebuild(text)": {data: CALL},
            "first_month()": NOBODY,
            "fold_attempts(integer)": {data: CALL},
            "fold_attempts(integer, boolean)": NOBODY,
            "format_id(text, uuid)": {data: CALL, analyst: CALL, producer: CALL},
            "histogram_sum(integer[])": {data: CALL, analyst: CALL},
            "latency_bucket(real)": NOBODY,
            "latency_quantile(bigint[], double precision)": {data: CALL, analyst: CALL},
            "make_append_only(regclass)": NOBODY,
            "make_generation(text, integer)": NOBODY,
            "make_partitions(timestamp with time zone, timestamp with time zone)": NOBODY,
            "monthly_tables()": {data: CALL},
            "new_ulid()": {data: CALL},
            "new_ulid(timestamp with time zone)": NOBODY,
            "parse_id(text, text)": {data: CALL, producer: CALL},
            "partitions_ahead()": {data: CALL},
            "record_event(text, text, json)": {data: CALL, producer: CALL},
            "record_event(text, text, jsonb)": {data: CALL, producer: CALL},
            "record_event(text, text, text)": {data: CALL, producer: CALL},
            "record_event(uuid, text, json)": {data: CALL, producer: CALL},
            "record_event(uuid, text, jsonb)": {data: CALL, producer: CALL},
            "record_event(uuid, text, jsonb, timestamp with time zone)": {data: CALL},
            "record_event(uuid, text, text)": {data: CALL, producer: CALL},
            "refuse_change()": NOBODY,
            "refuse_lossy_rebuild()": NOBODY,
            "refuse_retiring_month()": NOBODY,
            "retention_consumers()": NOBODY,
            "revoke_default_privileges(regclass)": NOBODY,
            "seal_partition(regclass)": NOBODY,
            "sealed_leftovers()": NOBODY,
            "sequence_events(integer)": {data: CALL},
            "sequence_restored_events()": NOBODY,
            "snapshot_after(pg_snapshot, pg_snapshot, xid8, xid8)": NOBODY,
            "storage_parameters(text)": NOBODY,
            "take_cursor(text)": {data: CALL},
            "this_mode()": {data: CALL},
            "time_zone_or_lagos(text)": {data: CALL, analyst: CALL},
            "to_bigint(numeric)": {data: CALL, analyst: CALL},
            "truncate_partition(regclass)": NOBODY,
            "unseal_leftovers()": {data: CALL},
            "unseal_partition(regclass)": NOBODY,
        },
        types=("currency", "id_range", "kobo"),
    )


DECLARED: Final = (CORE, *(data_schema(mode) for mode in Mode))
