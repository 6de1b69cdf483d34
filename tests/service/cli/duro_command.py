"""Calling `duro` as a person or a script does, in this process or in one of its own."""

import asyncio
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from click.testing import CliRunner

from service.cli import main

REPOSITORY = Path(__file__).resolve().parents[3]
PATIENCE = 60.0  # how long a test waits for what must happen; far more than it takes


@dataclass(frozen=True)
class Outcome:
    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one line that --json promises."""
        assert self.stdout.count("\n") == 1, self.stdout
        return orjson.loads(self.stdout)

    @property
    def refusal(self) -> str:
        """The one sentence that bad input gets."""
        assert self.status in (1, 2), self
        assert self.stdout == "", self.stdout
        assert self.stderr.startswith("duro: "), self.stderr
        assert self.stderr.count("\n") == 1, self.stderr
        return self.stderr


@dataclass(frozen=True)
class Duro:
    """`settings` are the DURO_ variables; those of this machine do not count."""

    settings: Mapping[str, str] = field(repr=False)  # with passwords

    @classmethod
    def on(cls, url: str, key: bytes, **settings: str) -> "Duro":
        return cls({"DURO_DATABASE_URL": url, "DURO_SECRET_KEY": b64encode(key).decode(), **settings})

    def set(self, **settings: str) -> "Duro":
        return Duro({**self.settings, **settings})

    async def __call__(self, *arguments: str, stdin: str | bytes = "") -> Outcome:
        """In this process, which saves half a second of imports. A defect's exception is raised."""
        return await asyncio.to_thread(self._here, arguments, stdin)

    async def json(self, *arguments: str, stdin: str = "") -> Any:
        outcome = await self(*arguments, "--json", stdin=stdin)
        assert outcome.status == 0, outcome
        return outcome.json

    async def process(self, *arguments: str, stdin: str = "") -> Outcome:
        """In a process of its own, as installed."""
        return await asyncio.to_thread(self._apart, arguments, stdin)

    def popen(self, *arguments: str, prefix: Sequence[str] = (), **options: Any) -> "subprocess.Popen[str]":
        """`prefix` is a command that becomes it."""
        return subprocess.Popen(
            [*prefix, *command(*arguments)], env=self.environment, cwd=REPOSITORY, text=True, **options
        )

    @property
    def environment(self) -> dict[str, str]:
        others = {name: value for name, value in os.environ.items() if not name.startswith("DURO_")}
        return {**others, **self.settings}

    def _here(self, arguments: tuple[str, ...], stdin: str | bytes) -> Outcome:
        strangers = {name: None for name in os.environ if name.startswith("DURO_")}
        result = CliRunner().invoke(
            main, arguments, input=stdin, env={**strangers, **self.settings}, prog_name="duro"
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    def _apart(self, arguments: tuple[str, ...], stdin: str) -> Outcome:
        done = subprocess.run(
            command(*arguments),
            input=stdin,
            env=self.environment,
            cwd=REPOSITORY,
            text=True,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "service.cli", *arguments]
