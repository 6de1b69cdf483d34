"""Simulated hosts: network namespaces, each with a cable to a switch in one more namespace, the middle.

      host 1 ──eth0──┐                         10.99.0.2
                     ├── switch (the middle)   10.99.0.1: reachable by all
      host 2 ──eth0──┘                         10.99.0.3

The machine's own network is not changed. Names contain the test's process id, so runs do not interfere. A run removes
the namespaces that a killed run left behind.
"""

import ctypes
import os
import secrets
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import pytest

T = TypeVar("T")
NETWORK: Final = "10.99.0.0/24"
MIDDLE: Final = "10.99.0.1"
_PREFIX: Final = "durotest"
_MOUNTED: Final = Path("/run/netns")
_CLONE_NEWNET: Final = 0x40000000


@dataclass(frozen=True)
class Host:
    middle: str
    name: str
    number: int

    @property
    def prefix(self) -> tuple[str, ...]:
        """The prefix that runs a command on this host."""
        return ("ip", "netns", "exec", self.name)

    def disconnect(self) -> None:
        _ip("-n", self.middle, "link", "set", f"port{self.number}", "down")

    def reconnect(self) -> None:
        _ip("-n", self.middle, "link", "set", f"port{self.number}", "up")


@dataclass(frozen=True)
class Network:
    middle: str
    hosts: tuple[Host, ...]

    def run_in_middle(self, work: Callable[[], T]) -> T:
        """Runs `work` in the middle's namespace, in a separate thread.

        Sockets and processes it opens stay there.
        """
        results: list[T] = []

        def run() -> None:
            with (_MOUNTED / self.middle).open() as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"cannot enter {self.middle}")
            results.append(work())

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return results[0]


@contextmanager
def network(hosts: int) -> Iterator[Network]:
    """Skips the test with a reason if this user or machine cannot create namespaces."""
    if os.geteuid() != 0:
        pytest.skip("only root can create network namespaces")
    if shutil.which("ip") is None:
        pytest.skip("the ip command (iproute2) is not installed")
    _remove_left_behind()
    with ExitStack() as stack:
        try:
            made = _build(stack, f"{_PREFIX}-{os.getpid()}-{secrets.token_hex(2)}", hosts)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be created: {error.stderr.strip()}")
        yield made


def _build(stack: ExitStack, name: str, hosts: int) -> Network:
    middle = _namespace(stack, f"{name}-m")
    _ip("-n", middle, "link", "add", "switch", "type", "bridge")
    _ip("-n", middle, "addr", "add", f"{MIDDLE}/24", "dev", "switch")
    _ip("-n", middle, "link", "set", "switch", "up")
    made = []
    for number in range(1, hosts + 1):
        host = _namespace(stack, f"{name}-{number}")
        port = f"port{number}"
        _ip("-n", middle, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host)
        _ip("-n", middle, "link", "set", port, "master", "switch", "up")
        _ip("-n", host, "addr", "add", f"10.99.0.{number + 1}/24", "dev", "eth0")
        _ip("-n", host, "link", "set", "eth0", "up")
        made.append(Host(middle, host, number))
    return Network(middle, tuple(made))


def _namespace(stack: ExitStack, name: str) -> str:
    _ip("netns", "add", name)
    stack.callback(_ip, "netns", "del", name)
    _ip("-n", name, "link", "set", "lo", "up")
    return name


def _remove_left_behind() -> None:
    for left in _MOUNTED.glob(f"{_PREFIX}-*"):
        if not Path("/proc", left.name.split("-")[1]).exists():
            with suppress(subprocess.CalledProcessError):  # another run may be removing it
                _ip("netns", "del", left.name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=30)
