"""Runs one more worker as a child process and restarts it until stopped. The child ends with this process, however that ends: its
standard input is a pipe from here, and it stops when the pipe closes. It serves HTTP on a socket that this process bound.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Mapping

from schema.polling import sleep_unless

_STOP_WITHIN_S = 24.0


class ChildWorker:
    def __init__(self, environment: Mapping[str, str], listener: socket.socket | None = None) -> None:
        """`environment` is added to this process's own. `listener` is a bound socket, or None to serve no HTTP."""
        self._environment = {**os.environ, **environment}
        self._listener = listener

    async def run(self, stop: asyncio.Event) -> None:
        """Raises when the process ends on its own, so that the supervisor starts another."""
        handed = () if self._listener is None else (self._listener.fileno(),)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # a folder named service in the working directory must not shadow ours
            "-m",
            "service.cli",
            "work",
            "--until-stdin-closes",
            *(f"--http-fd={descriptor}" for descriptor in handed),
            stdin=asyncio.subprocess.PIPE,
            pass_fds=handed,
            env=self._environment,
        )
        stopping = asyncio.ensure_future(stop.wait())
        ended = asyncio.ensure_future(process.wait())
        try:
            await asyncio.wait((stopping, ended), return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                await sleep_unless(stop, 0.1)  # a signal to the whole group reaches the child first
            if not stop.is_set():
                raise RuntimeError(f"a worker process ended unexpectedly with status {process.returncode}")
            assert process.stdin is not None
            process.stdin.close()
            await asyncio.wait((ended,), timeout=_STOP_WITHIN_S)
        finally:
            stopping.cancel()
            if process.returncode is None:
                process.kill()
                await process.wait()
