"""Whole runs in small: a scratch server, real workers, a table and JSON. No speed is asserted."""

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
from service.bench import report
from service.bench.catalog import ROWS, Row, chosen
from service.bench.finding import Finding
from service.bench.ground import Ground
from service.bench.keeping import keep
from service.bench.perform import Run, perform
from service.bench.scale import QUICK
from service.bench.scratch import Scratch, scratch_server
from tests.service.cli.duro_command import Duro
from tests.support.places import temporary_place

TINY = replace(QUICK, seconds=0.1, rounds=1, least=400, most_deliveries=2_000, history=3_000)
PATIENCE_S = 60


@pytest.fixture
def own_tmp() -> Iterator[Path]:
    with temporary_place() as place:
        yield place


@pytest.fixture
def scratch(own_tmp: Path) -> Iterator[Scratch]:
    with scratch_server(own_tmp, lambda _line: None) as started:
        yield started
    assert not list(own_tmp.iterdir())


async def broken(_ground: Ground) -> list[Finding]:
    raise Unavailable("The receiver fell off the table.")


@pytest.mark.drill
async def test_a_run_measures_real_deliveries_and_rows_that_fail_do_not_stop_the_others(
    scratch: Scratch,
) -> None:
    """With a past too: the worker goes on behind it, and delivers each new event once. A row that takes too long fails."""
    said: list[str] = []
    pipeline, history = chosen(["pipeline", "history"], quick=True)
    hurried = replace(pipeline, name="hurried", within_s=0.3)
    rows = [Row("broken", "", broken, 60), hurried, pipeline, history]
    kept: list[tuple[int, list[str]]] = []
    nowhere = scratch.directory / "none" / "x"
    run = await perform(
        scratch,
        rows,
        TINY,
        said.append,
        profile=nowhere,
        keep=lambda so_far: kept.append((len(so_far.findings), [*so_far.to_do])),
    )
    assert run.failed == {
        "broken": "The receiver fell off the table.",
        "hurried": "It was given up after 0.3 s.",
        "profile": f"The profile could not be kept in {nowhere}: No such file or directory.",
    }
    assert kept == [
        (0, ["hurried", "pipeline", "history", "profile"]),
        (0, ["pipeline", "history", "profile"]),
        (2, ["history", "profile"]),
        (3, ["profile"]),
        (3, []),
    ]
    told = orjson.loads(orjson.dumps(report.as_json(run)))
    found = {row["row"]: row for row in told["rows"]}
    assert set(found) == {"pipeline", "pipeline-cpu", "history"}
    figures = found["pipeline"]["figures"]
    assert figures["repeated"] == 0
    assert found["pipeline"]["value"] == pytest.approx(figures["duroPerS"][0] / figures["barePerS"][0])
    assert figures["duroPerS"][0] == min(figures["duroArrivingPerS"][0], figures["duroSettledPerS"][0])
    # The same bytes, but for ids in paths.
    assert abs(figures["duroWireBytes"] - figures["bareWireBytes"]) < 40
    assert found["history"]["figures"]["pastDeliveries"] == TINY.history
    cpu = found["pipeline-cpu"]["figures"]
    assert min(cpu["workerUs"], cpu["postgresUs"], cpu["bareClientUs"]) > 0
    assert told["machine"]["postgres"]["fsync"] == told["machine"]["postgres"]["synchronousCommit"] == "on"
    assert not [key for key in _keys(told) if "_" in key]
    assert any("pipeline" in line for line in said)
    assert any(re.search(r"3,000 of 3,000 delivered deliveries, [0-9,]+/s", line) for line in said)


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _keys(each)


@pytest.mark.drill
async def test_a_profile_s_top_lines_are_in_the_json(scratch: Scratch) -> None:
    kept = scratch.directory / "kept"
    run = await perform(scratch, [], TINY, lambda _line: None, profile=kept)
    assert run.failed == {}
    assert kept.exists()
    assert any("tottime" in line for line in report.as_json(run)["profile"])


def test_the_table_shows_value_aim_and_what_could_not_be_measured() -> None:
    postgres = {"server_version": "16.9", "fsync": "on", "synchronous_commit": "on"}
    machine = {
        "cores": 2, "cpu": "C", "memory": "1 kB", "load_average": 0.1, "system": "Linux", "kernel": "6", "python": "3",
        "aiohttp": "3", "duro": "0", "date": "today", "postgres": postgres,
    }  # fmt: skip
    findings = [
        Finding("fast", "what", "the loop", 1.5, rounds=(1.4, 1.6)),
        Finding("late", "what", "", 0.25, unit="ms"),
        Finding("many", "what", "", 76_769.0, unit="/s"),
    ]
    out = StringIO()
    report.show(Run(machine, True, findings, {"slow": "It was given up."}), Console(file=out, width=300))
    for text in (
        "1.50 (1.40 to 1.60)",
        "0.2 ms",
        "76,769/s",
        "slow could not be measured. It was given up.",
        "16.9",
    ):
        assert text in out.getvalue()


def test_rows_are_chosen_by_name_by_pattern_or_all() -> None:
    assert [row.name for row in chosen(["pages", "latency-*"], quick=False)] == [
        "latency-50", "latency-200", "latency-1000", "pages",
    ]  # fmt: skip
    assert len(chosen([], quick=False)) == len(ROWS)
    assert 0 < len(chosen([], quick=True)) < len(ROWS)


def test_a_name_that_is_none_is_answered_with_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="There is no row 'pipline': did you mean pipeline"):
        chosen(["pages", "pipline"], quick=False)


async def test_the_command_refuses_what_cannot_work_before_it_starts_anything(tmp_path: Path) -> None:
    duro = Duro({})
    for arguments, sentence in (
        (["wxyz"], "There is no row 'wxyz': duro bench --list shows all rows."),
        (["pages", "--out", str(tmp_path / "none" / "x.json")], "choose another file with --out"),
        (["pages", "--profile", str(tmp_path / "none" / "x")], "choose another file with --profile"),
    ):
        outcome = await duro("bench", *arguments)
        assert outcome.status != 0
        assert sentence in outcome.stderr
        assert outcome.stderr.count("\n") == 1


async def test_the_list_tells_each_row() -> None:
    outcome = await Duro({})("bench", "--list")
    assert outcome.status == 0
    assert all(row.name in outcome.stdout and row.description in outcome.stdout for row in ROWS)


def test_a_file_of_figures_is_replaced_whole_and_one_that_cannot_be_written_is_left(own_tmp: Path) -> None:
    kept = own_tmp / "bench.json"
    keep(kept, {"run": 1})
    with kept.open() as reading:
        keep(kept, {"run": 2})
        assert orjson.loads(reading.read()) == {"run": 1}
    assert orjson.loads(kept.read_bytes()) == {"run": 2}
    assert list(own_tmp.iterdir()) == [kept]
    with pytest.raises(Unavailable, match="could not be written"):
        keep(own_tmp / "none" / "x.json", {})


def test_a_device_is_written_to_and_not_replaced(own_tmp: Path) -> None:
    link = own_tmp / "figures"
    link.symlink_to(os.devnull)
    keep(link, {"run": 1})
    assert link.is_symlink()
    assert Path(os.devnull).is_char_device()


@contextmanager
def running(place: Path, *rows: str) -> Iterator["subprocess.Popen[str]"]:
    """As a script starts it with `&` and nohup: both SIGINT and SIGHUP are ignored."""
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
def test_an_interruption_leaves_the_figures_so_far_and_no_process_and_nothing_else(own_tmp: Path) -> None:
    """SIGTERM, which ends it as Ctrl-C does, also in a script's background; SIGHUP under nohup does not."""
    with running(own_tmp, "receiver", "pipeline") as process:
        assert process.stderr
        assert any("duro" in line and "deliveries" in line for line in process.stderr)  # a worker is at work
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert [file.name for file in own_tmp.iterdir()] == ["bench.json"]
    kept = orjson.loads((own_tmp / "bench.json").read_bytes())
    assert [row["row"] for row in kept["rows"]] == ["receiver"]
    assert kept["toDo"] == ["pipeline"]
    listed = subprocess.run(["ps", "-eo", "args="], capture_output=True, text=True, check=True).stdout
    assert str(own_tmp) not in listed
