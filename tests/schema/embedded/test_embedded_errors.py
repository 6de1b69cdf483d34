"""An unusable data directory gives an error that says what to do, and nothing is changed."""

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
from schema.embedded.files.data_dir import DataDir, data_dir_errors
from schema.embedded.process.programs import environment, installed_root
from schema.embedded.process.waiting import wait_until
from schema.errors import Unavailable
from tests.schema.embedded.embedded_harness import (
    IS_ROOT,
    PATIENCE,
    AttachedProcess,
    everything_stopped,
    stopped_cluster,
)
from tests.support.servers.directories import temporary_directory


@pytest.fixture
def directory() -> Iterator[Path]:
    with temporary_directory() as directory:
        yield directory


@pytest.fixture
def data() -> Iterator[DataDir]:
    with stopped_cluster() as data:
        yield data
        assert everything_stopped(data)


def attach_error(data_dir: Path) -> str:
    with pytest.raises(Unavailable) as error:
        attach(data_dir).release()
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_another_major_version_is_rejected(data: DataDir) -> None:
    data.version_file.write_text("15\n")
    assert "was created by PostgreSQL 15, but duro includes PostgreSQL 16" in attach_error(data.root)


def test_a_damaged_cluster_is_rejected(data: DataDir) -> None:
    data.version_file.unlink()
    assert "is not a PostgreSQL cluster" in attach_error(data.root)
    assert (data.pgdata / "base").exists()


def test_a_file_instead_of_a_directory_is_rejected(directory: Path) -> None:
    (directory / "file").write_text("mine")
    assert "is a file" in attach_error(directory / "file")
    assert "is a file or below a file" in attach_error(directory / "file" / "below")
    assert (directory / "file").read_text() == "mine"


@pytest.mark.skipif(IS_ROOT, reason="root may write everywhere")
def test_an_unwritable_directory_is_rejected(directory: Path) -> None:
    directory.chmod(0o555)
    assert "is not writable" in attach_error(directory)
    assert "is not writable" in attach_error(directory / "below")
    directory.chmod(0o755)


@pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="needs a file system without writes even for root"
)
def test_a_file_system_that_is_read_only_even_for_root() -> None:
    assert "--data-dir" in attach_error(Path("/proc/duro"))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "is on a full disk"),
        (errno.EROFS, "read-only"),
        (errno.ENOLCK, "without file locks"),
        (errno.EIO, "cannot be used (Input/output error)"),
    ],
)
def test_file_system_errors_are_translated(code: int, reason: str) -> None:
    with (
        pytest.raises(Unavailable, match=r"The data directory /somewhere .*\. [A-Z].*\.$") as error,
        data_dir_errors(Path("/somewhere")),
    ):
        raise OSError(code, os.strerror(code))
    assert reason in str(error.value)


@pytest.mark.skipif(
    not IS_ROOT or not shutil.which("unshare"), reason="only root on Linux can mount a small disk"
)
def test_a_full_disk_is_reported(directory: Path) -> None:
    """Uses a file system of 8 MB, too small for a cluster, in a mount namespace of the attached process."""
    small = f'mount -t tmpfs -o size=8m,mode=755 tmpfs {directory} && exec "$@"'
    data = DataDir(directory / "data")
    with AttachedProcess(
        data.root, command=("unshare", "--mount", "sh", "-c", small, "sh", sys.executable)
    ) as attached:
        _, errors = attached.process.communicate(timeout=PATIENCE)
    if b"unshare" in errors or b"mount" in errors:
        pytest.skip("this root may not mount")
    assert b"the disk is full. Free some space" in errors
    assert everything_stopped(data)


def test_a_failed_start_shows_the_end_of_the_log(data: DataDir) -> None:
    (data.pgdata / "pg_hba.conf").write_text("nonsense\n")
    message = attach_error(data.root)
    assert "could not be started" in message
    assert "could not load" in message
    assert str(data.log) in message


@pytest.mark.parametrize("name", ["secret.key", "superuser.password"])
def test_a_missing_secret_is_not_replaced(data: DataDir, name: str) -> None:
    """A new key would make every stored secret unreadable."""
    (data.root / name).unlink()
    message = attach_error(data.root)
    assert name in message
    assert "backup" in message
    assert not (data.root / name).exists()


@pytest.mark.parametrize("content", ["", "short\n", "not base64 at all!\n", "AAAA\n"])
def test_a_damaged_key_is_rejected(data: DataDir, content: str) -> None:
    data.secret_key.write_text(content)
    with pytest.raises(Unavailable, match="does not contain 32 bytes in base64"):
        read_secret_key(data.root)


def test_a_missing_key_is_reported() -> None:
    with pytest.raises(Unavailable, match="Restore it from your backup"):
        read_secret_key(Path("/nowhere"))


def test_another_cluster_s_superuser_password_is_rejected(data: DataDir) -> None:
    data.superuser_password.write_text("of another\n")
    data.owner_password.unlink()
    assert "superuser.password does not contain the password" in attach_error(data.root)


@pytest.mark.skipif(not IS_ROOT, reason="only root can give files away")
def test_a_cluster_that_belongs_to_root_is_rejected(data: DataDir) -> None:
    shutil.chown(data.pgdata, 0, 0)
    message = attach_error(data.root)
    assert "belongs to root" in message
    assert "chown -R duro-postgres" in message


def test_a_foreign_server_on_the_directory_is_reported(data: DataDir) -> None:
    """Its lock file is not treated as stale."""
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
            assert "that duro did not start" in attach_error(data.root)
            assert foreign.poll() is None
        finally:
            foreign.terminate()
