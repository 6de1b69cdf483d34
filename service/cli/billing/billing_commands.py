"""`duro billing`: the engine that renews, recovers, and writes real events; and its simulation."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import click
import uvloop
from rich.console import Console

from schema.billing import billing_cases
from schema.billing.billing_cases import BillingStatus, Held, Unanswered
from schema.billing.subscription_repositories import Payments
from schema.connections.database import Database
from schema.durations import format_duration
from schema.errors import InvalidInput
from schema.ids import PAYMENT, SUBSCRIPTION, TENANT, format_id
from schema.modes import Mode
from schema.timestamps import iso_millis
from service.billing.charges import settle_by_hand
from service.billing.clock import DatabaseClock
from service.billing.decisions.failure_codes import FailureCode
from service.billing.engine import engine
from service.billing.gateway.gateway import Outcome
from service.billing.gateway.scenario_gateway import ScenarioGateway
from service.billing.ledger import Ledger
from service.cli import options
from service.cli.app import App, command, database_errors
from service.cli.billing import billing_simulate
from service.cli.billing.billing_group import billing
from service.cli.views import fields, table
from service.database_access import open_database
from service.simulation.simulation_setup import RUNNING, refuse_beside_a_simulation
from service.supervisor import Supervisor
from service.worker.signals import stop_on_signals

__all__ = ["billing", "billing_simulate"]

_MOST_SHOWN: Final = 100

_modes = click.option(
    "--mode",
    "modes",
    type=options.ModeChoice(),
    multiple=True,
    help="Only this mode.  [default: both]",
)


@dataclass(frozen=True, slots=True)
class Found:
    """Of one mode."""

    status: BillingStatus
    held: Sequence[Held]
    unanswered: Sequence[Unanswered]


@command(billing, "run")
@_modes
@click.option("--once", is_flag=True, help="Process what is due now, then exit.")
def run(app: App, modes: Sequence[Mode], once: bool) -> None:
    """Run the scanners: renewals, trials, incomplete subscriptions, dunning, and charges without an answer.

    No money moves, in live mode either: a scenario gateway answers charges. Subscriptions of a simulation are billed
    like all others.

    Any number of these processes can run, on any number of hosts: what is due is charged once. Ctrl-C or SIGTERM
    finishes the charges in flight and stops. A subscription that fails because of a defect is held for an hour and
    shown by duro billing status; the others continue.

    \b
    Example:
      duro billing run --mode test
    """
    with open_database(app.settings, app.progress) as base, database_errors():

        async def work() -> Counter[str]:
            if base.embedded:
                await base.migrate(app.progress)
            async with Database.open(base.url, base.key, name=RUNNING) as database:
                return await _run(app, database, list(dict.fromkeys(modes)) or list(Mode), once=once)

        settled = uvloop.run(work())
    app.result(
        {"settled": dict(settled)},
        lambda out: out.print("Settled: " + _counted(settled) + "."),
    )


async def _run(app: App, database: Database, modes: Sequence[Mode], *, once: bool) -> Counter[str]:
    stop = stop_on_signals()
    await refuse_beside_a_simulation(database)
    settled: Counter[str] = Counter()
    supervisors = []
    for mode in modes:
        made = engine(database, mode, ScenarioGateway())
        made.charges.on_settled = lambda count, mode=mode: settled.update({mode.value: count})  # type: ignore[misc]  # mypy cannot infer a lambda's default
        if once:
            async with made.settling():
                await made.scan(stop)
        else:
            supervisors.append(Supervisor(made.stages()))
    if supervisors:
        app.progress(f"Billing in mode {' and '.join(modes)}; Ctrl-C stops")
        await asyncio.gather(*(each.run(stop) for each in supervisors))
    return settled


@command(billing, "status")
@_modes
def status(app: App, modes: Sequence[Mode]) -> None:
    """Show what is due, in flight, in recovery, and held because of a defect.

    \b
    Example:
      duro billing status
    """

    async def look(database: Database) -> dict[Mode, Found]:
        now = await billing_cases.clock(database.core)
        return {
            mode: Found(
                await billing_cases.status(database.data(mode), now),
                await billing_cases.held(database.data(mode), now, _MOST_SHOWN),
                await billing_cases.unanswered(database.data(mode), now, _MOST_SHOWN),
            )
            for mode in list(dict.fromkeys(modes)) or list(Mode)
        }

    found = app.with_database(look)
    app.result(
        {"items": [_status_shape(mode, each) for mode, each in found.items()]},
        lambda out: _show_status(out, found),
    )


@command(billing, "release")
@options.mode
def release(app: App, mode: Mode) -> None:
    """Release the held subscriptions of a mode, once the defect is fixed.

    \b
    Example:
      duro billing release --mode live
    """
    released = app.with_database(lambda database: billing_cases.release(database.data(mode)))
    app.result(
        {"released": released},
        lambda out: out.print(f"Released {released} subscription{'' if released == 1 else 's'}."),
    )


@command(billing, "settle")
@click.argument("payment_id", type=options.Id(PAYMENT))
@options.tenant
@options.mode
@click.option("--succeeded", is_flag=True, help="The charge succeeded.")
@click.option(
    "--failed",
    type=click.Choice([code.value for code in FailureCode]),
    help="The charge failed, for this reason.",
)
def settle(app: App, payment_id: UUID, tenant: UUID, mode: Mode, succeeded: bool, failed: str | None) -> None:
    """Settle a charge or refund that the gateway never answers, by the gateway's records.

    The effect is that of an answer: the invoice is paid and the period moves, or recovery begins. Until then nothing
    else can be done to the subscription.

    \b
    Example:
      duro billing settle pay_… --tenant ten_… --mode live --failed do_not_honor
    """
    if succeeded == (failed is not None):
        raise InvalidInput("Give either --succeeded or --failed CODE, as the gateway's records say.")

    async def run(database: Database) -> None:
        pool = database.data(mode)
        attempt = await Payments(pool, tenant).get(payment_id)
        await settle_by_hand(Ledger(pool, DatabaseClock()), attempt, Outcome(failed))

    app.with_database(run)
    state = "failed" if failed else "succeeded"
    shown = format_id(PAYMENT, payment_id)
    app.result({"id": shown, "state": state}, lambda out: out.print(f"{shown} has {state}."))


def _status_shape(mode: Mode, found: Found) -> dict[str, Any]:
    status, late = found.status, found.status.renewals_late_by
    return {
        "mode": mode.value,
        "renewalsDue": status.renewals_due,
        "renewalsLateBySeconds": None if late is None else round(max(0.0, late.total_seconds()), 3),
        "recoveriesDue": status.recoveries_due,
        "recovering": status.recovering,
        "awaitingCard": status.awaiting_card,
        "inFlight": status.in_flight,
        "unansweredCount": status.unanswered,
        "unanswered": [
            {
                "id": format_id(PAYMENT, each.id),
                "tenant": format_id(TENANT, each.tenant_id),
                "subscription": format_id(SUBSCRIPTION, each.subscription_id),
                "kind": each.kind,
                "amount": each.amount,
                "currency": each.currency,
                "since": iso_millis(each.created_at),
            }
            for each in found.unanswered
        ],
        "heldCount": status.held,
        "held": [
            {
                "id": format_id(SUBSCRIPTION, each.id),
                "tenant": format_id(TENANT, each.tenant_id),
                "until": iso_millis(each.held_until),
                "fault": each.fault,
            }
            for each in found.held
        ],
    }


def _show_status(out: Console, found: dict[Mode, Found]) -> None:
    for mode, each in found.items():
        status, late = each.status, each.status.renewals_late_by
        fields(
            out,
            {
                "Mode": mode.value,
                "Renewals due": f"{status.renewals_due:,}",
                "Late by": "-" if late is None or late.total_seconds() <= 0 else _seconds(late),
                "Recoveries due": f"{status.recoveries_due:,}",
                "In recovery": f"{status.recovering:,}, of which {status.awaiting_card:,} wait for another card",
                "In flight": f"{status.in_flight:,}, of which {status.unanswered:,} without an answer for long",
                "Held": f"{status.held:,}",
            },
        )
        if each.unanswered:
            rows = [
                (format_id(PAYMENT, u.id), u.kind, format_id(TENANT, u.tenant_id), u.created_at)
                for u in each.unanswered
            ]
            table(out, ("Without an answer", "Kind", "Tenant", "Since"), rows, none="")
        if each.held:
            rows_held = [
                (format_id(SUBSCRIPTION, h.id), format_id(TENANT, h.tenant_id), h.held_until, h.fault)
                for h in each.held
            ]
            table(out, ("Held", "Tenant", "Until", "Why"), rows_held, none="")
        out.print()


def _seconds(value: timedelta) -> str:
    return format_duration(timedelta(seconds=round(value.total_seconds())))


def _counted(settled: Counter[str]) -> str:
    return ", ".join(f"{count:,} in {mode} mode" for mode, count in settled.items()) or "nothing"
