"""A data directory that cannot serve is refused in one sentence that says what to do, and nothing is changed."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from schema.embedded import attach, read_secret_key
from schema.embedded.files.account import server_account
from schema.embedded.files.data_dir import DataDir, usable
from schema.embedded.process.programs import environment, installed_root
from schema.embedded.process.waiting import wait_until
from schema.errors import Unavailable
from tests.schema.embedded.embedded_harness import IS_ROOT, PATIENCE, User, all_gone, stopped_cluster
from tests.support.servers.places import temporary_place


@pytest.fixture
def place() -> Iterator[Path]:
    with temporary_place() as place:
        yield place


@pytest.fixture
def data() -> Iterator[DataDir]:
    with stopped_cluster() as data:
        yield data
        assert all_gone(data)


def refusal(data_dir: Path) -> str:
    with pytest.raises(Unavailable) as refused:
        attach(data_dir).release()
    message = str(refused.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_another_major_version(data: DataDir) -> None:
    data.version_file.write_text("15\n")
    assert "was made by PostgreSQL 15 and duro brings PostgreSQL 16" in refusal(data.root)


def test_something_that_is_not_a_cluster(data: DataDir) -> None:
    data.version_file.unlink()
    assert "is not a PostgreSQL cluster" in refusal(data.root)
    assert (data.pgdata / "base").exists()


def test_a_file_in_its_place(place: Path) -> None:
    (place / "file").write_text("mine")
    assert "is a file" in refusal(place / "file")
    assert "is a file or lies below one" in refusal(place / "file" / "below")
    assert (place / "file").read_text() == "mine"


@pytest.mark.skipif(IS_ROOT, reason="root may write everywhere")
def test_an_unwritable_directory(place: Path) -> None:
    place.chmod(0o555)
    assert "is not writable" in refusal(place)
    assert "is not writable" in refusal(place / "below")
    place.chmod(0o755)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that refuses even root")
def test_a_file_system_that_refuses_even_root() -> None:
    assert "--data-dir" in refusal(Path("/proc/duro"))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "disk that is full"),
        (errno.EROFS, "read-only"),
        (errno.ENOLCK, "without file locks"),
        (errno.EIO, "cannot be used (Input/output error)"),
    ],
)
def test_errors_of_the_file_system(code: int, reason: str) -> None:
    with (
        pytest.raises(Unavailable, match=r"The data directory /somewhere .*; .*\.$") as refused,
        usable(Path("/somewhere")),
    ):
        raise OSError(code, os.strerror(code))
    assert reason in str(refused.value)


@pytest.mark.skipif(
    not IS_ROOT or not shutil.which("unshare"), reason="only root on Linux can mount a small disk"
)
def test_a_full_disk(place: Path) -> None:
    """On a file system of 8 MB, too small for a cluster, which the user alone sees and which goes with it."""
    small = f'mount -t tmpfs -o size=8m,mode=755 tmpfs {place} && exec "$@"'
    data = DataDir(place / "data")
    with User(data.root, command=("unshare", "--mount", "sh", "-c", small, "sh", sys.executable)) as user:
        _, errors = user.process.communicate(timeout=PATIENCE)
    if b"unshare" in errors or b"mount" in errors:
        pytest.skip("this root may not mount")
    assert b"the disk is full; free some space" in errors
    assert all_gone(data)


def test_a_server_that_does_not_start_shows_the_end_of_its_log(data: DataDir) -> None:
    (data.pgdata / "pg_hba.conf").write_text("nonsense\n")
    message = refusal(data.root)
    assert "could not be started" in message
    assert "could not load" in message
    assert str(data.log) in message


@pytest.mark.parametrize("name", ["secret.key", "superuser.password"])
def test_a_missing_secret_is_not_replaced(data: DataDir, name: str) -> None:
    """A new key would make every stored secret unreadable."""
    (data.root / name).unlink()
    message = refusal(data.root)
    assert name in message
    assert "backup" in message
    assert not (data.root / name).exists()


@pytest.mark.parametrize("content", ["", "short\n", "not base64 at all!\n", "AAAA\n"])
def test_a_damaged_key(data: DataDir, content: str) -> None:
    data.secret_key.write_text(content)
    with pytest.raises(Unavailable, match="does not hold the base64 of 32 bytes"):
        read_secret_key(data.root)


def test_no_key() -> None:
    with pytest.raises(Unavailable, match="put it back"):
        read_secret_key(Path("/nowhere"))


def test_a_superuser_password_of_another_cluster(data: DataDir) -> None:
    data.superuser_password.write_text("of another\n")
    data.owner_password.unlink()
    assert "superuser.password does not hold the password" in refusal(data.root)


@pytest.mark.skipif(not IS_ROOT, reason="only root can give files away")
def test_a_cluster_that_belongs_to_root(data: DataDir) -> None:
    shutil.chown(data.pgdata, 0, 0)
    message = refusal(data.root)
    assert "belongs to root" in message
    assert "chown -R duro-postgres" in message


def test_a_server_that_somebody_else_runs_on_it(data: DataDir) -> None:
    """Its lock file is not taken for a stale one."""
    command = [
        installed_root() / "bin" / "postgres",
        "-D",
        data.pgdata,
        "-k",
        data.pgdata,
        "-c",
        "listen_addresses=",
    ]
    options = server_account(data.pgdata).for_subprocess()
    log = subprocess.DEVNULL
    with subprocess.Popen(command, cwd="/", env=environment(), stdout=log, stderr=log, **options) as foreign:
        try:
            assert wait_until(
                lambda: data.pid_file.exists() and "ready" in data.pid_file.read_text(), PATIENCE
            )
            assert "that duro did not start" in refusal(data.root)
            assert foreign.poll() is None
        finally:
            foreign.terminate()
