"""Every promise about the wire is kept by both senders, on asyncio's own loop and on uvloop, which production runs on."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import trustme
import uvloop

from delivery.aiohttp_sender import AiohttpSender
from delivery.fast_sender import FastSender
from tests.delivery.wire.receiver import AnySender, Sending, sending_with


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=[AiohttpSender, FastSender], ids=["aiohttp", "fast"])
def kind(request: pytest.FixtureRequest) -> type[AnySender]:
    chosen: type[AnySender] = request.param
    return chosen


@pytest.fixture
def sending(kind: type[AnySender]) -> Sending:
    return sending_with(kind)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()
