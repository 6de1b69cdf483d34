"""The pure parts: permission bits, back-off, ports, quoting and failure messages."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.embedded.files.account import Account
from schema.embedded.files.address import PORTS, choose_port, socket_fits
from schema.embedded.files.configuration import quote
from schema.embedded.files.permissions import missing_bits
from schema.embedded.process.keeper import restart_delay
from schema.embedded.process.server_failures import failure_message, port_in_use
from schema.errors import Unavailable

ACCOUNT = Account(uid=500, gid=50)


def status(mode: int, uid: int = 0, gid: int = 0) -> os.stat_result:
    return os.stat_result((0o040000 | mode, 0, 0, 1, uid, gid, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("directory", "missing"),
    [
        (status(0o700), 0o001),
        (status(0o750), 0o001),
        (status(0o755), 0),
        (status(0o711), 0),
        (status(0o705, gid=50), 0o010),
        (status(0o710, gid=50), 0),
        (status(0o677, uid=500), 0o100),
        (status(0o700, uid=500), 0),
    ],
)
def test_only_the_missing_search_bit_is_added(directory: os.stat_result, missing: int) -> None:
    assert missing_bits(directory, ACCOUNT, 0o1) == missing


@given(st.integers(0, 0o777), st.sampled_from([0, 500]), st.sampled_from([0, 50]), st.integers(0, 7))
def test_added_bits_are_sufficient_and_for_one_class(mode: int, uid: int, gid: int, wanted: int) -> None:
    missing = missing_bits(status(mode, uid, gid), ACCOUNT, wanted)
    assert missing & mode == 0
    assert missing_bits(status(mode | missing, uid, gid), ACCOUNT, wanted) == 0
    assert [bool(missing & bits) for bits in (0o700, 0o070, 0o007)].count(True) <= 1


def test_restart_delays_grow_up_to_a_limit() -> None:
    assert [restart_delay(failures) for failures in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert restart_delay(10_000) == 30


def test_ports_in_use_are_skipped() -> None:
    draws = iter([20_001, 20_002, 20_003])
    assert choose_port(lambda port: port == 20_003, lambda _ports: next(draws)) == 20_003


def test_no_free_port_raises() -> None:
    with pytest.raises(Unavailable, match="No free port"):
        choose_port(lambda _port: False)


def test_ports_are_below_the_ephemeral_range() -> None:
    assert PORTS.stop <= 32_768


@given(st.text(st.characters(exclude_characters="\n\0")))
def test_a_quoted_value_is_read_back_unchanged(value: str) -> None:
    """Unquotes as guc-file.l does: a doubled quote is a quote, a backslash escapes."""
    quoted = quote(value)
    inside = quoted[1:-1]
    assert quoted[0] == quoted[-1] == "'"
    assert "'" not in inside.replace("''", "")
    assert inside.replace("''", "'").replace("\\\\", "\\") == value


def test_a_socket_path_must_fit_with_its_lock_file() -> None:
    longest = next(n for n in range(200, 0, -1) if socket_fits(Path("/" + "x" * n)))
    assert len(os.fsencode(f"/{'x' * longest}/.s.PGSQL.30000.lock")) == 103


def test_a_failure_message_has_the_last_lines() -> None:
    output = "LOG: one\n\nLOG: two\nFATAL: three\n  FATAL: four.\n"
    assert failure_message("could not be started", output, Path("/d/postgres.log")) == (
        "The embedded PostgreSQL could not be started (LOG: two / FATAL: three / FATAL: four). "
        "See /d/postgres.log, fix the cause and try again."
    )
    assert "the disk is full" in failure_message("could not be started", "FATAL: x: No space left on device")
    assert "no output" in failure_message("could not be started", "")


def test_a_port_in_use_is_recognised() -> None:
    assert port_in_use("FATAL:  could not create any TCP/IP sockets")
    assert not port_in_use("FATAL:  could not load pg_hba.conf")
