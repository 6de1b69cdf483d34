"""The last check of a request: no header or target can start a new line."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.http.attempt_contract import Outcome
from delivery.http.attempt_failed import AttemptFailed
from delivery.http.request_bytes import request_head
from tests.delivery.http.raw_receiver import receiving, sending, to

BREAKS = ["\r", "\n", "\0", "\r\n", "\r\nX-Injected: y", "\n\nPOST / HTTP/1.1"]


@pytest.mark.parametrize("bad", BREAKS)
@pytest.mark.parametrize("where", ["name", "value", "target", "host"])
async def test_line_breaks_never_reach_the_wire(bad: str, where: str) -> None:
    async with receiving() as receiver, sending() as sender:
        request = to(f"http://127.0.0.1:{receiver.port}/", ("X-A", "1"))
        if where == "target":
            request = replace(request, url=replace(request.url, target=f"/a{bad}b"))
        elif where == "host":
            request = replace(request, url=replace(request.url, host=f"a{bad}b"))
        else:
            name, value = (f"X{bad}Y", "1") if where == "name" else ("X", f"1{bad}2")
            request = replace(request, headers=((name, value), *request.headers))
        result = await sender.send(request)
    assert (result.outcome, result.error) == (Outcome.PROTOCOL, "cannot build the request")
    assert receiver.connections == 0


texts = st.text(st.sampled_from("ab:; \r\n\0"), max_size=6)


@given(st.lists(st.tuples(texts, texts), max_size=4), texts)
def test_a_head_has_one_line_per_header_or_is_refused(headers: list[tuple[str, str]], target: str) -> None:
    request = to("http://127.0.0.1/")
    request = replace(request, headers=tuple(headers), url=replace(request.url, target=f"/{target}"))
    parts = [target, *(part for pair in headers for part in pair)]
    if any(character in part for part in parts for character in "\r\n\0"):
        with pytest.raises(AttemptFailed):
            request_head(request)
    else:
        lines = request_head(request).decode().split("\r\n")
        assert lines[0] == f"POST /{target} HTTP/1.1"
        assert lines[2:-3] == [f"{name}: {value}" for name, value in headers]
        assert lines[-2:] == ["", ""]
