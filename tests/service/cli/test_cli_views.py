from datetime import UTC, datetime
from io import StringIO

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from service.cli.receiving.listen_command import _body_shape, _show
from service.cli.views import table, visible
from service.receiver.local_receiver import Received

NOW = datetime(2026, 6, 28, 9, tzinfo=UTC)


def console() -> Console:
    return Console(file=StringIO(), width=50, markup=False, highlight=False, emoji=False)


def written(out: Console) -> str:
    assert isinstance(out.file, StringIO)
    return out.file.getvalue()


@given(st.text())
def test_untrusted_text_reaches_the_terminal_without_controls(text: str) -> None:
    shown = visible(text)
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert shown == text or not (text.isprintable() and text)


@given(st.binary(max_size=200), st.text(max_size=50))
def test_a_received_body_cannot_act_on_the_terminal(body: bytes, header: str) -> None:
    out = console()
    _show(out, Received(header, header, "", 1, None, 200, header, body), NOW)
    assert all(character.isprintable() or character == "\n" for character in written(out))


@pytest.mark.parametrize("body", [b'{\n "a":\r\n 1.10}', b"not\njson", b"\xff\n", b"[" * 5000])
def test_a_received_body_is_one_json_line(body: bytes) -> None:
    line = orjson.dumps({"body": _body_shape(body)})
    assert b"\n" not in line
    assert b"\r" not in line


def test_a_narrow_terminal_folds_ids_and_leaves_the_first_whole() -> None:
    out, id_ = console(), "dlv_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6"
    table(out, ("-", "-"), [(id_, id_)], none="")
    lines = written(out).splitlines()[1:]
    assert lines[0].startswith(f"{id_}  ")
    assert "".join(line[len(id_) :].strip() for line in lines) == id_
