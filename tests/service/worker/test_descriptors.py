"""A worker raises its descriptor limit, and reserves some for other uses than idle connections."""

import resource
import subprocess
import sys

import pytest

from service.worker.descriptors import kept_open


@pytest.mark.parametrize(("soft", "hard"), [(64, 512), (300, 300)])
def test_the_soft_limit_is_raised_to_the_hard_one(soft: int, hard: int) -> None:
    """It needs a separate process, because a lowered hard limit is permanent."""
    program = (
        "import resource; from service.worker.descriptors import raise_limit;"
        "print(raise_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
        capture_output=True,
        check=True,
    )
    assert ended.stdout.split() == [str(hard).encode()] * 2


@pytest.mark.parametrize(("descriptors", "kept"), [(1024, 384), (65_536, 32_640), (100, 64)])
def test_idle_connections_get_half_of_the_rest(descriptors: int, kept: int) -> None:
    assert kept_open(descriptors) == kept
