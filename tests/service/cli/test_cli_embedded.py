"""`duro` with only a directory: the first command starts the embedded database."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.service.cli.duro_command import PATIENCE, Duro
from tests.support.servers.directories import temporary_directory


@pytest.fixture
def place() -> Iterator[Path]:
    with temporary_directory() as place:
        yield place


@pytest.mark.drill
async def test_two_commands_at_once_on_a_fresh_directory_both_work(place: Path) -> None:
    fresh = Duro({"DURO_DATA_DIR": str(place / "data")})
    first, second = await asyncio.gather(
        fresh.process("tenant", "create", "Lagos Gym", "--json"),
        fresh.process("tenant", "create", "Abuja Gym"),
    )
    assert (first.status, second.status) == (0, 0), (first, second)
    assert first.stderr == ""
    assert second.stderr.endswith(
        "…\n"
    )  # it starts PostgreSQL, or waits for the other that does, or for its migrations
    listed = await Duro({}).process("tenant", "list", "--data-dir", str(place / "data"), "--json")
    assert {tenant["name"] for tenant in listed.json["items"]} == {"Lagos Gym", "Abuja Gym"}


@pytest.mark.drill
async def test_a_recorded_event_is_received_and_verified_after_a_retry(place: Path) -> None:
    """duro work, duro listen and duro event record, each a process of its own."""
    duro = Duro(
        {
            "DURO_DATA_DIR": str(place / "data"),
            "DURO_EGRESS_ALLOW": "127.0.0.0/8",
            "DURO_RETRY_SCHEDULE": "100ms,100ms",
        }
    )
    secret = place / "secret"
    secret.write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=\n")
    ten = (await duro.json("tenant", "create", "Lagos Gym"))["id"]
    with ExitStack() as stack:
        listening = _start(
            stack, duro, "listen", "--port", "0", "--fail-first", "1", "--secret-file", str(secret)
        )
        working = _start(stack, duro, "work")
        await _said(working)
        url = (await _said(listening))["url"]
        of_tenant = ("--tenant", ten, "--mode", "live")
        await duro.json(
            "endpoint", "create", *of_tenant, "--url", url, "--secret-stdin", stdin=secret.read_text()
        )
        recorded = ("--type", "invoice_created", "--data", '{"amount": 500000}')
        event = (await duro.json("event", "record", *of_tenant, *recorded))["id"]

        failed, accepted = await _said(listening), await _said(listening)
        assert (failed["status"], accepted["status"]) == (503, 200)
        assert (failed["id"], accepted["id"]) == (event, event)
        assert failed["verified"] is accepted["verified"] is True
        assert accepted["body"]["data"] == {"amount": 500000}

        [delivery] = await _until(
            lambda: duro.json("event", "show", event),
            lambda shown: [d for d in shown["deliveries"] if d["status"] == "delivered"],
        )
        shown = await duro.json("delivery", "show", delivery["id"])
        assert [attempt["statusCode"] for attempt in shown["attempts"]] == [503, 200]

        listening.send_signal(signal.SIGINT)
        assert await _said(listening) == {"received": 2, "verified": 2}
        assert await asyncio.to_thread(listening.wait, PATIENCE) == 0


def other_major(path: Path) -> None:
    (path / "postgres").mkdir(parents=True)
    (path / "postgres" / "PG_VERSION").write_text("14\n")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda path: path.write_text(""), "is a file"),
        (other_major, "14"),
    ],
    ids=["a file", "another major version"],
)
async def test_a_data_directory_that_cannot_be_used_is_named(
    spoil: Callable[[Path], None], sentence: str, place: Path
) -> None:
    spoil(place / "data")
    outcome = await Duro({})("tenant", "list", "--data-dir", str(place / "data"))
    assert sentence in outcome.refusal
    assert outcome.status == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_a_data_directory_without_permission_is_named(place: Path) -> None:
    (place / "data").mkdir(mode=0o500)
    assert "not writable" in (await Duro({})("tenant", "list", "--data-dir", str(place / "data"))).refusal


def _start(stack: ExitStack, duro: Duro, *arguments: str) -> "subprocess.Popen[str]":
    process = stack.enter_context(duro.popen(*arguments, "--json", stdout=subprocess.PIPE))
    stack.callback(process.terminate)
    return process


async def _said(process: "subprocess.Popen[str]") -> Any:
    """Its next line."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        return json.loads(await asyncio.to_thread(process.stdout.readline))


async def _until(ask: Callable[[], Any], find: Callable[[Any], Any]) -> Any:
    async with asyncio.timeout(PATIENCE):
        while not (found := find(await ask())):
            pass
    return found
