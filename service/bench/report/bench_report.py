"""Reports a run as a table for people and as JSON for programs.

JSON keys are camelCase, as everywhere in duro.
"""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from service.bench.bench_run import Run
from service.bench.report.measurement import Measurement
from service.bench.report.other_load import REPORTED_ABOVE


def as_json(run: Run) -> dict[str, Any]:
    return {
        "machine": _camel(run.machine),
        "quick": run.quick,
        "rows": [_row(measurement) for measurement in run.measurements],
        "failed": run.failed,
        "remaining": run.remaining,
        "otherLoad": {name: round(share, 3) for name, share in run.other_load.items()},
        "seconds": {name: round(seconds, 1) for name, seconds in run.seconds.items()},
        "profile": None if run.profile is None else run.profile.splitlines(),
    }


def print_table(run: Run, out: Console) -> None:
    table = Table(title="duro bench", title_justify="left", show_lines=False)
    for name in ("row", "what", "against", "value", "aim", "", "duro ; compared with"):
        table.add_column(name, justify="right" if name in {"value", "aim"} else "left", overflow="fold")
    for measurement in run.measurements:
        table.add_row(
            measurement.row,
            measurement.what,
            measurement.against,
            _value(measurement),
            "" if measurement.aim is None else str(measurement.aim),
            "" if measurement.aim is None else measurement.verdict.value,
            measurement.summary,
        )
    out.print(table)
    for name, why in run.failed.items():
        out.print(f"{name} could not be measured. {why}")
    out.print(_machine(run))
    if (most := max(run.other_load.values(), default=0.0)) > REPORTED_ABOVE:
        out.print(
            f"Other processes used up to {most:.0%} of this machine during the run. Measure again when it is idle."
        )
    if run.profile is not None:
        out.print(run.profile)


def _value(measurement: Measurement) -> str:
    if measurement.value is None:
        return "?"
    if measurement.against:
        spread = (
            f" ({min(measurement.rounds):.2f} to {max(measurement.rounds):.2f})"
            if len(measurement.rounds) > 1
            else ""
        )
        return f"{measurement.value:.2f}{spread}"
    figure = f"{measurement.value:,.0f}" if measurement.value >= 100 else f"{measurement.value:.1f}"
    return figure + (measurement.unit if measurement.unit.startswith("/") else f" {measurement.unit}")


def _machine(run: Run) -> str:
    host, postgres = run.machine, run.machine["postgres"]
    return (
        f"{host['cores']} cores of {host['cpu']}, {host['memory']}, {host['system']} {host['kernel']}, Python {host['python']}, "
        f"aiohttp {host['aiohttp']}, PostgreSQL {postgres['server_version']} with fsync {postgres['fsync']} and "
        f"synchronous_commit {postgres['synchronous_commit']}, duro {host['duro']}, {host['date']}"
        f"{', quick' if run.quick else ''}; load average before the run {host['load_average']:.1f}"
    )


def _row(measurement: Measurement) -> dict[str, Any]:
    return {
        "row": measurement.row,
        "what": measurement.what,
        "against": measurement.against or None,
        "value": measurement.value,
        "rounds": list(measurement.rounds),
        "unit": measurement.unit or None,
        "aim": None if measurement.aim is None else str(measurement.aim),
        "verdict": measurement.verdict.value,
        "figures": _camel(measurement.figures),
    }


def _camel(values: Mapping[str, Any]) -> dict[str, Any]:
    """Converts the keys at every level: load_average becomes loadAverage."""
    return {
        first + "".join(word.capitalize() for word in rest): _camel(value)
        if isinstance(value, Mapping)
        else value
        for (first, *rest), value in ((name.split("_"), value) for name, value in values.items())
    }
