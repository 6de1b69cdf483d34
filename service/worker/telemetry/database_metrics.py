"""Metrics from the database's facts. Every worker reports the same values: take their maximum, not their sum."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from prometheus_client.core import Metric

from schema.billing.billing_cases import COUNTED_UP_TO, BillingStatus
from schema.deliveries.deliveries import Lane
from schema.event_log.log import ConsumerStatus
from schema.modes import Mode
from schema.read_models.metrics import COUNTED, OVERDUE_AFTER, VISITED, InactiveEndpoints
from service.worker.telemetry.database_facts import CoreFacts, DatabaseFacts, ModeFacts
from service.worker.telemetry.families import gauge

HELD = ("no", "breaker", "paused", "rate_limit", "retries_paused")
_NONE = InactiveEndpoints("", 0, 0)


def database_metrics(facts: DatabaseFacts, now: float) -> Iterator[Metric]:
    """`now` is on the monotonic clock. A schema that could not be read has only duro_database_up 0."""
    read = {"core": facts.core is not None, **{mode.schema: mode in facts.modes for mode in Mode}}
    yield gauge(
        "duro_database_up",
        "1 if this worker could read the metrics of this schema.",
        ["schema"],
        [([schema], ok) for schema, ok in read.items()],
    )
    yield gauge(
        "duro_database_facts_age_seconds",
        "Age of the metrics that were read from the database.",
        [],
        [([], max(0.0, now - facts.read_at))],
    )
    yield gauge("duro_database_facts_read_seconds", "How long reading them took.", [], [([], facts.took_s)])
    yield from _log(facts.modes)
    yield from _backlog(facts.modes)
    yield from _endpoints(facts)
    yield from _billing(facts.modes)
    if facts.core is not None:
        yield from _core(facts.core)


def _log(modes: Mapping[Mode, ModeFacts]) -> Iterator[Metric]:
    statuses = [
        ([mode.value, status.consumer], status) for mode, facts in modes.items() for status in facts.consumers
    ]
    labels = ["mode", "consumer"]
    yield gauge(
        "duro_consumer_lag_events",
        "Committed events that the consumer has not applied yet.",
        labels,
        [(of, status.lag) for of, status in statuses],
    )
    yield gauge(
        "duro_consumer_lag_seconds",
        "Age of the oldest event that the consumer has not applied; 0 if there is none.",
        labels,
        [(of, status.lag_seconds or 0) for of, status in statuses],
    )
    yield gauge(
        "duro_dead_events",
        "Dead-lettered events of the consumer.",
        labels,
        [(of, status.dead) for of, status in statuses],
    )
    yield gauge(
        "duro_events_unsequenced",
        f"Committed events without a position in the log. Counted up to {COUNTED}.",
        ["mode"],
        [([mode.value], _unsequenced(facts.consumers)) for mode, facts in modes.items()],
    )
    yield gauge(
        "duro_partitions_ahead_months",
        "Months ahead that have partitions. An event of a month without a partition cannot be recorded.",
        ["mode"],
        [([mode.value], facts.partitions_ahead) for mode, facts in modes.items()],
    )


def _unsequenced(statuses: Sequence[ConsumerStatus]) -> int:
    return max((status.unsequenced for status in statuses), default=0)


def _backlog(modes: Mapping[Mode, ModeFacts]) -> Iterator[Metric]:
    lanes = [(mode, lane, [mode.value, lane_name(lane)]) for mode in modes for lane in Lane]
    counted = f"Counted up to {COUNTED} per lane."
    for name, help_, attribute in (
        ("waiting", "Deliveries that wait in the table for an attempt, due or not.", "waiting"),
        ("due", "Deliveries that wait in the table and are due.", "due"),
        (
            "overdue",
            f"Deliveries that wait in the table and have been due for more than {OVERDUE_AFTER.seconds} s.",
            "overdue",
        ),
    ):
        yield gauge(
            f"duro_deliveries_{name}",
            f"{help_} {counted}",
            ["mode", "lane"],
            [(of, getattr(modes[mode].waiting[lane], attribute)) for mode, lane, of in lanes],
        )
    due = [
        ([*of, held], {found.held: found for found in modes[mode].endpoints_due[lane]}.get(held))
        for mode, lane, of in lanes
        for held in HELD
    ]
    labels = ["mode", "lane", "held"]
    yield gauge(
        "duro_endpoints_due",
        f"Endpoints with a due delivery, of the first {VISITED} with one waiting. held says why it is not sent; "
        "no means that it should be sent.",
        labels,
        [(of, found.endpoints if found else 0) for of, found in due],
    )
    yield gauge(
        "duro_oldest_due_seconds",
        "How long the oldest delivery of these endpoints has been due; 0 if there is none.",
        labels,
        [(of, found.oldest_due_seconds if found else 0) for of, found in due],
    )


def _endpoints(facts: DatabaseFacts) -> Iterator[Metric]:
    modes = facts.modes
    yield gauge(
        "duro_endpoints_failing",
        "Enabled endpoints whose last attempt failed.",
        ["mode"],
        [([mode.value], of.unhealthy_endpoints.failing) for mode, of in modes.items()],
    )
    yield gauge(
        "duro_breakers",
        "Enabled endpoints whose circuit breaker is open or half-open.",
        ["mode", "state"],
        [
            ([mode.value, state], number)
            for mode, of in modes.items()
            for state, number in (
                ("open", of.unhealthy_endpoints.open),
                ("half_open", of.unhealthy_endpoints.half_open),
            )
        ],
    )
    yield gauge(
        "duro_retries_paused",
        "1 if an operator has paused retries and replays.",
        ["mode"],
        [([mode.value], of.retries_paused) for mode, of in modes.items()],
    )
    if facts.core is not None:
        out = facts.core.inactive_endpoints
        yield gauge(
            "duro_endpoints_out_of_service",
            "Endpoints that are disabled (deliveries are skipped) or paused (deliveries wait).",
            ["mode", "state"],
            [
                ([mode.value, state], number)
                for mode in Mode
                for of in (out.get(mode.value, _NONE),)
                for state, number in (("disabled", of.disabled), ("paused", of.paused))
            ],
        )


def _billing(modes: Mapping[Mode, ModeFacts]) -> Iterator[Metric]:
    for name, help_, attribute in (
        ("renewals_due", "Subscriptions that are due for renewal.", "renewals_due"),
        ("recovering", "Invoices whose failed charge is being recovered.", "recovering"),
        (
            "unanswered",
            "Charges and refunds in flight for more than ten minutes.",
            "unanswered",
        ),
        ("held", "Subscriptions that are held because of a defect.", "held"),
    ):
        yield gauge(
            f"duro_billing_{name}",
            f"{help_} Counted up to {COUNTED_UP_TO}.",
            ["mode"],
            [([mode.value], getattr(of.billing, attribute)) for mode, of in modes.items()],
        )
    yield gauge(
        "duro_billing_late_seconds",
        "How long the oldest due renewal has been due; 0 if there is none.",
        ["mode"],
        [([mode.value], _late_seconds(of.billing)) for mode, of in modes.items()],
    )


def _late_seconds(billing: BillingStatus) -> float:
    return max(0.0, billing.renewals_late_by.total_seconds()) if billing.renewals_late_by else 0.0


def _core(core: CoreFacts) -> Iterator[Metric]:
    yield gauge(
        "duro_workers", "Registered workers, including those that died seconds ago.", [], [([], core.workers)]
    )
    oldest = core.oldest_transaction
    yield gauge(
        "duro_oldest_transaction_seconds",
        "Age of the oldest open transaction in this database; 0 if there is none, or none is visible.",
        [],
        [([], oldest.seconds or 0)],
    )
    yield gauge(
        "duro_oldest_transaction_pid",
        "Process id of its session, for pg_terminate_backend(); 0 for a prepared transaction, or if there is none.",
        [],
        [([], oldest.pid or 0)],
    )
    yield gauge(
        "duro_transactions_hidden",
        "Sessions whose transaction age the database's owner may not see. GRANT pg_read_all_stats shows them.",
        [],
        [([], oldest.hidden)],
    )


_LANES: Final = {Lane.FIRST: "first", Lane.RETRY: "retry"}


def lane_name(lane: Lane) -> str:
    return _LANES[lane]
