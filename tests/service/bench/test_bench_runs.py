"""Short complete runs: a scratch server, real workers, a table and JSON. No speed is asserted."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import orjson
import pytest
from rich.console import Console

from schema.errors import InvalidInput, Unavailable
from service.bench.bench_run import Run, run_rows
from service.bench.bench_setup import BenchSetup
from service.bench.processes.scratch_server import ScratchServer, scratch_server
from service.bench.report import bench_report
from service.bench.report.measurement import Measurement
from service.bench.report.result_file import write_results
from service.bench.row_table import ROWS, Row, select_rows
from service.bench.scale import QUICK
from tests.service.cli.duro_command import Duro
from tests.support.servers.directories import temporary_directory

TINY = replace(QUICK, seconds=0.1, rounds=1, least=400, most_deliveries=2_000, history=3_000)
PATIENCE_S = 60


@pytest.fixture
def own_tmp() -> Iterator[Path]:
    with temporary_directory() as place:
        yield place


@pytest.fixture
def scratch(own_tmp: Path) -> Iterator[ScratchServer]:
    with scratch_server(own_tmp, lambda _line: None) as started:
        yield started
    assert not list(own_tmp.iterdir())


async def broken(_setup: BenchSetup) -> list[Measurement]:
    raise Unavailable("The receiver fell off the table.")


@pytest.mark.drill
async def test_failing_rows_do_not_stop_the_others(
    scratch: ScratchServer,
) -> None:
    """Rows measure real deliveries, with a history too, each once. A row that exceeds its limit fails."""
    lines: list[str] = []
    pipeline, history = select_rows(["pipeline", "history"], quick=True)
    hurried = replace(pipeline, name="hurried", within_s=0.3)
    rows = [Row("broken", "", broken, 60), hurried, pipeline, history]
    results: list[tuple[int, list[str]]] = []
    nowhere = scratch.directory / "none" / "x"
    run = await run_rows(
        scratch,
        rows,
        TINY,
        lines.append,
        profile=nowhere,
        save=lambda so_far: results.append((len(so_far.measurements), [*so_far.remaining])),
    )
    assert run.failed == {
        "broken": "The receiver fell off the table.",
        "hurried": "It exceeded its limit of 0.3 s.",
        "profile": f"The profile could not be written to {nowhere}: No such file or directory.",
    }
    assert results == [
        (0, ["hurried", "pipeline", "history", "profile"]),
        (0, ["pipeline", "history", "profile"]),
        (2, ["history", "profile"]),
        (3, ["profile"]),
        (3, []),
    ]
    report_json = orjson.loads(orjson.dumps(bench_report.as_json(run)))
    found = {row["row"]: row for row in report_json["rows"]}
    assert set(found) == {"pipeline", "pipeline-cpu", "history"}
    figures = found["pipeline"]["figures"]
    assert figures["repeated"] == 0
    assert found["pipeline"]["value"] == pytest.approx(figures["duroPerS"][0] / figures["barePerS"][0])
    assert figures["duroPerS"][0] == min(figures["duroArrivingPerS"][0], figures["duroSettledPerS"][0])
    # The same bytes except for ids in paths.
    assert abs(figures["duroWireBytes"] - figures["bareWireBytes"]) < 40
    assert found["history"]["figures"]["pastDeliveries"] == TINY.history
    cpu = found["pipeline-cpu"]["figures"]
    assert min(cpu["workerUs"], cpu["postgresUs"], cpu["bareClientUs"]) > 0
    assert (
        report_json["machine"]["postgres"]["fsync"]
        == report_json["machine"]["postgres"]["synchronousCommit"]
        == "on"
    )
    assert not [key for key in _keys(report_json) if "_" in key]
    assert any("pipeline" in line for line in lines)
    assert any(re.search(r"3,000 of 3,000 delivered deliveries, [0-9,]+/s", line) for line in lines)


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _keys(each)


@pytest.mark.drill
async def test_the_json_has_the_top_lines_of_the_profile(scratch: ScratchServer) -> None:
    profile = scratch.directory / "profile.out"
    run = await run_rows(scratch, [], TINY, lambda _line: None, profile=profile)
    assert run.failed == {}
    assert profile.exists()
    assert any("tottime" in line for line in bench_report.as_json(run)["profile"])


def test_the_table_shows_values_and_failed_rows() -> None:
    postgres = {"server_version": "16.9", "fsync": "on", "synchronous_commit": "on"}
    machine = {
        "cores": 2, "cpu": "C", "memory": "1 kB", "load_average": 0.1, "system": "Linux", "kernel": "6", "python": "3",
        "aiohttp": "3", "duro": "0", "date": "today", "postgres": postgres,
    }  # fmt: skip
    measurements = [
        Measurement("fast", "what", "the loop", 1.5, rounds=(1.4, 1.6)),
        Measurement("late", "what", "", 0.25, unit="ms"),
        Measurement("many", "what", "", 76_769.0, unit="/s"),
    ]
    out = StringIO()
    bench_report.print_table(
        Run(machine, True, measurements, {"slow": "It took too long."}), Console(file=out, width=300)
    )
    for text in (
        "1.50 (1.40 to 1.60)",
        "0.2 ms",
        "76,769/s",
        "slow could not be measured. It took too long.",
        "16.9",
    ):
        assert text in out.getvalue()


def test_rows_are_selected_by_name_or_pattern() -> None:
    assert [row.name for row in select_rows(["pages", "latency-*"], quick=False)] == [
        "latency-50", "latency-200", "latency-1000", "pages",
    ]  # fmt: skip
    assert len(select_rows([], quick=False)) == len(ROWS)
    assert 0 < len(select_rows([], quick=True)) < len(ROWS)


def test_an_unknown_row_gets_the_closest_name() -> None:
    with pytest.raises(InvalidInput, match=r"There is no row 'pipline'\. Did you mean pipeline\?"):
        select_rows(["pages", "pipline"], quick=False)


async def test_bad_arguments_fail_before_anything_starts(tmp_path: Path) -> None:
    duro = Duro({})
    for arguments, sentence in (
        (["wxyz"], "There is no row 'wxyz'. duro bench --list shows all rows."),
        (["pages", "--out", str(tmp_path / "none" / "x.json")], "Choose another file with --out"),
        (["pages", "--profile", str(tmp_path / "none" / "x")], "Choose another file with --profile"),
    ):
        outcome = await duro("bench", *arguments)
        assert outcome.status != 0
        assert sentence in outcome.stderr
        assert outcome.stderr.count("\n") == 1


async def test_the_list_describes_each_row() -> None:
    outcome = await Duro({})("bench", "--list")
    assert outcome.status == 0
    assert all(row.name in outcome.stdout and row.description in outcome.stdout for row in ROWS)


def test_the_results_file_is_replaced_atomically(own_tmp: Path) -> None:
    results = own_tmp / "bench.json"
    write_results(results, {"run": 1})
    with results.open() as reading:
        write_results(results, {"run": 2})
        assert orjson.loads(reading.read()) == {"run": 1}
    assert orjson.loads(results.read_bytes()) == {"run": 2}
    assert list(own_tmp.iterdir()) == [results]
    with pytest.raises(Unavailable, match="could not be written"):
        write_results(own_tmp / "none" / "x.json", {})


def test_a_device_is_written_to_and_not_replaced(own_tmp: Path) -> None:
    link = own_tmp / "figures"
    link.symlink_to(os.devnull)
    write_results(link, {"run": 1})
    assert link.is_symlink()
    assert Path(os.devnull).is_char_device()


@contextmanager
def running(place: Path, *rows: str) -> Iterator["subprocess.Popen[str]"]:
    """Starts it as a script does with `&` and nohup: SIGINT and SIGHUP are ignored."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DURO_")}
    command = [sys.executable, "-P", "-m", "service.cli", "bench", "--quick", *rows]
    process = subprocess.Popen(
        ["/bin/sh", "-c", 'trap "" INT HUP; exec "$@"', "sh", *command],
        env={**clean, "TMPDIR": str(place)},
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.drill
def test_an_interrupted_run_leaves_only_its_results(own_tmp: Path) -> None:
    """SIGTERM ends it like Ctrl-C, even as a background job.

    SIGHUP under nohup does not. No process remains.
    """
    with running(own_tmp, "receiver", "pipeline") as process:
        assert process.stderr
        assert any("duro" in line and "deliveries" in line for line in process.stderr)  # a worker is running
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert [file.name for file in own_tmp.iterdir()] == ["bench.json"]
    results = orjson.loads((own_tmp / "bench.json").read_bytes())
    assert [row["row"] for row in results["rows"]] == ["receiver"]
    assert results["remaining"] == ["pipeline"]
    listed = subprocess.run(["ps", "-eo", "args="], capture_output=True, text=True, check=True).stdout
    assert str(own_tmp) not in listed
