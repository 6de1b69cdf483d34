"""A run as a table for people and as JSON for machines, whose keys are camelCase as in all of duro's JSON."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from service.bench.company import WORTH_TELLING
from service.bench.finding import Finding
from service.bench.perform import Run


def as_json(run: Run) -> dict[str, Any]:
    return {
        "machine": _camel(run.machine),
        "quick": run.quick,
        "rows": [_row(finding) for finding in run.findings],
        "failed": run.failed,
        "toDo": run.to_do,
        "others": {name: round(share, 3) for name, share in run.others.items()},
        "seconds": {name: round(seconds, 1) for name, seconds in run.seconds.items()},
        "profile": None if run.profile is None else run.profile.splitlines(),
    }


def show(run: Run, out: Console) -> None:
    table = Table(title="duro bench", title_justify="left", show_lines=False)
    for name in ("row", "what", "against", "value", "aim", "", "ours ; theirs"):
        table.add_column(name, justify="right" if name in {"value", "aim"} else "left", overflow="fold")
    for finding in run.findings:
        table.add_row(
            finding.row,
            finding.what,
            finding.against,
            _value(finding),
            "" if finding.aim is None else str(finding.aim),
            "" if finding.aim is None else finding.verdict.value,
            finding.shown,
        )
    out.print(table)
    for name, why in run.failed.items():
        out.print(f"{name} could not be measured. {why}")
    out.print(_machine(run))
    if (most := max(run.others.values(), default=0.0)) > WORTH_TELLING:
        out.print(
            f"Other processes took up to {most:.0%} of this machine meanwhile: measure again when it is quiet."
        )
    if run.profile is not None:
        out.print(run.profile)


def _value(finding: Finding) -> str:
    if finding.value is None:
        return "?"
    if finding.against:
        spread = (
            f" ({min(finding.rounds):.2f} to {max(finding.rounds):.2f})" if len(finding.rounds) > 1 else ""
        )
        return f"{finding.value:.2f}{spread}"
    figure = f"{finding.value:,.0f}" if finding.value >= 100 else f"{finding.value:.1f}"
    return figure + (finding.unit if finding.unit.startswith("/") else f" {finding.unit}")


def _machine(run: Run) -> str:
    of, postgres = run.machine, run.machine["postgres"]
    return (
        f"{of['cores']} cores of {of['cpu']}, {of['memory']}, {of['system']} {of['kernel']}, Python {of['python']}, "
        f"aiohttp {of['aiohttp']}, PostgreSQL {postgres['server_version']} with fsync {postgres['fsync']} and "
        f"synchronous_commit {postgres['synchronous_commit']}, duro {of['duro']}, {of['date']}"
        f"{', quick' if run.quick else ''}; load average before the run {of['load_average']:.1f}"
    )


def _row(finding: Finding) -> dict[str, Any]:
    return {
        "row": finding.row,
        "what": finding.what,
        "against": finding.against or None,
        "value": finding.value,
        "rounds": list(finding.rounds),
        "unit": finding.unit or None,
        "aim": None if finding.aim is None else str(finding.aim),
        "verdict": finding.verdict.value,
        "figures": _camel(finding.figures),
    }


def _camel(values: Mapping[str, Any]) -> dict[str, Any]:
    """Its names, and those within it: load_average becomes loadAverage."""
    return {
        first + "".join(word.capitalize() for word in others): _camel(value)
        if isinstance(value, Mapping)
        else value
        for (first, *others), value in ((name.split("_"), value) for name, value in values.items())
    }
