"""The metrics that the database's facts make. Every worker tells the same: take their maximum, not their sum."""

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import Metric

from schema.billing.books import COUNTED_UP_TO, BillingStatus
from schema.deliveries import Lane
from schema.log import ConsumerStatus
from schema.metrics import COUNTED, OVERDUE_AFTER, VISITED, OutOfService
from schema.modes import Mode
from service.telemetry.facts import CoreFacts, DatabaseFacts, ModeFacts
from service.telemetry.families import gauge

HELD = ("no", "breaker", "paused", "rate_limit", "retries_paused")
_NONE = OutOfService("", 0, 0)


def database_metrics(facts: DatabaseFacts, now: float) -> Iterator[Metric]:
    """`now` is on the monotonic clock. A schema that could not be read has duro_database_up 0, and nothing else."""
    read = {"core": facts.core is not None, **{mode.schema: mode in facts.modes for mode in Mode}}
    yield gauge(
        "duro_database_up",
        "1: this worker could read the schema's facts.",
        ["schema"],
        [([schema], ok) for schema, ok in read.items()],
    )
    yield gauge(
        "duro_database_facts_age_seconds",
        "How long ago the facts of the database told here were read.",
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
        "Events committed and not yet applied by the consumer.",
        labels,
        [(of, status.lag) for of, status in statuses],
    )
    yield gauge(
        "duro_consumer_lag_seconds",
        "Age of the oldest event not yet applied; 0: there is none.",
        labels,
        [(of, status.lag_seconds or 0) for of, status in statuses],
    )
    yield gauge(
        "duro_dead_events",
        "Events that the consumer could not apply: dead-lettered, for a person to look at.",
        labels,
        [(of, status.dead) for of, status in statuses],
    )
    yield gauge(
        "duro_events_unsequenced",
        f"Events committed that have no position in the log yet; {COUNTED} stands for as many and more.",
        ["mode"],
        [([mode.value], _unsequenced(facts.consumers)) for mode, facts in modes.items()],
    )
    yield gauge(
        "duro_partitions_ahead_months",
        "Months for which partitions are ready; without one for its month an append fails.",
        ["mode"],
        [([mode.value], facts.partitions_ahead) for mode, facts in modes.items()],
    )


def _unsequenced(statuses: Sequence[ConsumerStatus]) -> int:
    return max((status.unsequenced for status in statuses), default=0)


def _backlog(modes: Mapping[Mode, ModeFacts]) -> Iterator[Metric]:
    lanes = [(mode, lane, [mode.value, lane_name(lane)]) for mode in modes for lane in Lane]
    counted = f"Counted up to {COUNTED} a lane."
    for name, help_, attribute in (
        ("waiting", "Deliveries that wait in the table for an attempt, due or not.", "waiting"),
        ("due", "Deliveries that wait in the table and whose time has come.", "due"),
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
        f"Endpoints with a delivery due, of the first {VISITED} that have one waiting. held: why it is not sent; "
        "no: it should be.",
        labels,
        [(of, found.endpoints if found else 0) for of, found in due],
    )
    yield gauge(
        "duro_oldest_due_seconds",
        "For how long the oldest delivery of these endpoints has been due; 0: none is.",
        labels,
        [(of, found.oldest_due_seconds if found else 0) for of, found in due],
    )


def _endpoints(facts: DatabaseFacts) -> Iterator[Metric]:
    modes = facts.modes
    yield gauge(
        "duro_endpoints_failing",
        "Endpoints in service whose last answer was not a success.",
        ["mode"],
        [([mode.value], of.troubled.failing) for mode, of in modes.items()],
    )
    yield gauge(
        "duro_breakers",
        "Endpoints in service whose breaker is not closed. half_open: single probes may be sent.",
        ["mode", "state"],
        [
            ([mode.value, state], number)
            for mode, of in modes.items()
            for state, number in (("open", of.troubled.open), ("half_open", of.troubled.half_open))
        ],
    )
    yield gauge(
        "duro_retries_paused",
        "1: an operator has paused all that is not a first attempt.",
        ["mode"],
        [([mode.value], of.retries_paused) for mode, of in modes.items()],
    )
    if facts.core is not None:
        out = facts.core.out_of_service
        yield gauge(
            "duro_endpoints_out_of_service",
            "Endpoints that are disabled (what comes for them is skipped) or paused (it waits).",
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
        ("renewals_due", "Subscriptions whose period is over and not paid on.", "renewals_due"),
        ("recovering", "Invoices whose failed charge is being recovered.", "recovering"),
        (
            "unanswered",
            "Charges and refunds in flight for more than ten minutes.",
            "unanswered",
        ),
        ("held", "Subscriptions that the scanners leave alone because of a defect.", "held"),
    ):
        yield gauge(
            f"duro_billing_{name}",
            f"{help_} Counted up to {COUNTED_UP_TO}.",
            ["mode"],
            [([mode.value], getattr(of.billing, attribute)) for mode, of in modes.items()],
        )
    yield gauge(
        "duro_billing_late_seconds",
        "For how long the renewal that is due longest has been due; 0: none is.",
        ["mode"],
        [([mode.value], _late_seconds(of.billing)) for mode, of in modes.items()],
    )


def _late_seconds(billing: BillingStatus) -> float:
    return max(0.0, billing.renewals_late_by.total_seconds()) if billing.renewals_late_by else 0.0


def _core(core: CoreFacts) -> Iterator[Metric]:
    yield gauge(
        "duro_workers", "Workers registered, the dead of the last seconds included.", [], [([], core.workers)]
    )
    oldest = core.oldest_transaction
    yield gauge(
        "duro_oldest_transaction_seconds",
        "Age of the transaction open for longest in this database; 0: none is, or none can be seen.",
        [],
        [([], oldest.seconds or 0)],
    )
    yield gauge(
        "duro_oldest_transaction_pid",
        "Process id of its session, for pg_terminate_backend(); 0: it is a prepared transaction, or there is none.",
        [],
        [([], oldest.pid or 0)],
    )
    yield gauge(
        "duro_transactions_hidden",
        "Sessions with a transaction whose age the database's owner may not see; GRANT pg_read_all_stats to it.",
        [],
        [([], oldest.hidden)],
    )


def lane_name(lane: Lane) -> str:
    return lane.name.lower()
