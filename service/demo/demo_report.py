"""Reports the outcome as a table and a sentence for people, or as one JSON object for programs."""

from dataclasses import asdict
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from service.demo.demo_run import Outcome
from service.demo.demo_verdict import Figures, Problem

_SHOW_EVENT: Final = "duro event show evt_…"


def as_json(outcome: Outcome, command_prefix: str) -> dict[str, Any]:
    """`command_prefix` makes a duro command use the demo's database."""
    figures = asdict(outcome.verdict.figures)
    result: dict[str, Any] = {
        "ok": outcome.verdict.passed,
        **{name: round(value, 1) if isinstance(value, float) else value for name, value in figures.items()},
        "seconds": round(outcome.seconds, 3),
        "events_per_second": _rate(outcome),
        "problems": [asdict(problem) for problem in outcome.verdict.problems],
    }
    if not outcome.verdict.passed:
        result |= {"logs": outcome.logs, "inspect": f"{command_prefix}{_SHOW_EVENT}"}
    return result


def print_report(outcome: Outcome, command_prefix: str, out: Console) -> None:
    out.print(_table(outcome))
    if outcome.verdict.passed:
        out.print(_success_message(outcome.verdict.figures))
        return
    for problem in outcome.verdict.problems:
        _show_problem(problem, out)
    for name, lines in outcome.logs.items():
        if lines:
            out.print(
                f"\nLast lines of the {name}:", *(f"  {line}" for line in lines), sep="\n", markup=False
            )
    out.print("\nTo inspect one of them:", f"  {command_prefix}{_SHOW_EVENT}", sep="\n", markup=False)


def _table(outcome: Outcome) -> Table:
    table = Table(show_header=False, title="duro demo", title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    for name, value in _rows(outcome):
        table.add_row(name, value)
    return table


def _rows(outcome: Outcome) -> list[tuple[str, str]]:
    f = outcome.verdict.figures
    return [
        ("events committed", f"{f.committed:,}"),
        ("events rolled back", f"{f.rolled_back:,}"),
        ("deliveries expected", f"{f.expected:,}"),
        ("delivered", f"{f.delivered:,}"),
        ("verified", f"{f.verified:,}"),
        ("retried", f"{f.retried:,}"),
        ("duplicates", f"{f.duplicates:,}"),
        ("lost", f"{f.lost:,}"),
        ("wrong", f"{f.wrong:,}"),
        ("unverified requests", f"{f.unverified:,}"),
        ("commit to receipt, p50", _ms(f.p50_ms)),
        ("commit to receipt, p99", _ms(f.p99_ms)),
        ("seconds", f"{outcome.seconds:.1f}"),
        ("events per second", f"{_rate(outcome):,.0f}"),
    ]


def _success_message(f: Figures) -> str:
    return (
        f"All {f.committed:,} committed events arrived and were verified at every subscribed endpoint.\n"
        f"None of the {f.rolled_back:,} rolled-back events was sent. The transaction that stayed open delayed nothing."
    )


def _show_problem(problem: Problem, out: Console) -> None:
    out.print(problem.what, style="bold red", markup=False)
    for example in problem.examples:
        out.print(f"  {example}", markup=False)


def _rate(outcome: Outcome) -> float:
    return round(outcome.verdict.figures.committed / outcome.seconds, 1) if outcome.seconds else 0.0


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"
