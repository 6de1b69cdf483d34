import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from service.cli import main
from service.cli.root import SECTIONS
from tests.service.cli.duro_command import REPOSITORY, Duro

NOWHERE = Duro({})


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from commands(found, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
async def test_each_command_has_an_example_and_takes_json(path: tuple[str, ...]) -> None:
    outcome = await NOWHERE(*path, "--help")
    assert outcome.status == 0
    assert "Example:" in outcome.stdout
    assert f"duro {' '.join(path)}" in outcome.stdout.partition("Example:")[2]
    assert "--json" in outcome.stdout
    assert "--data-dir" in outcome.stdout


async def test_the_table_of_commands_is_what_help_shows() -> None:
    outcome = await NOWHERE("--help")
    for section, listed in SECTIONS.items():
        assert f"{section}:" in outcome.stdout
        assert all(line in outcome.stdout for line in listed.values())


def test_help_loads_nothing_heavy() -> None:
    """It answers at once: no driver, no HTTP, no tables."""
    script = (
        "import sys; from service.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(sorted({'asyncpg', 'aiohttp', 'rich', 'asyncio', 'orjson'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, text=True, capture_output=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


async def test_version() -> None:
    outcome = await NOWHERE("--version")
    assert outcome.stdout.startswith("duro, version ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tenat"], "There is no command 'tenat': did you mean tenant?"),
        (["wxyz"], "duro --help lists the commands"),
        (["tenant", "crate"], "crate"),
        (["tenant", "create"], "Missing argument"),
        (["event", "list", "--tenant", "x", "--bogus"], "--bogus"),
        (["event", "list", "--mode", "prod"], "'prod' is not one of 'test', 'live'"),
        (["event", "list", "--mode", "test"], "Missing option '--tenant'"),
        (["delivery", "replay"], "Give a delivery's id, or --tenant, --mode and --since"),
        (
            ["delivery", "replay", "--mode", "test", "--resume", "rpl_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6"],
            "takes no other options",
        ),
        (["endpoint", "backfill", "we_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6"], "--since or --since-pos"),
        (["retries", "pause"], "Missing option '--mode'"),
        (["consumers", "retry-dead", "--pos", "3"], "add --mode"),
        (["endpoint", "update", "we_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6"], "Nothing to change"),
    ],
)
async def test_wrong_use_is_one_line_and_status_2(arguments: list[str], sentence: str) -> None:
    outcome = await NOWHERE(*arguments)
    assert sentence in outcome.refusal
    assert outcome.status == 2


@pytest.mark.parametrize("arguments", [[], ["tenant"]])
async def test_a_group_alone_shows_its_help_and_fails(arguments: list[str]) -> None:
    outcome = await NOWHERE(*arguments)
    assert outcome.status == 2
    assert outcome.stdout == ""
    assert "create" in outcome.stderr or "tenant" in outcome.stderr
