"""Describes the machine of the run: CPU, memory, kernel and versions."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp


def machine() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _field("/proc/cpuinfo", "model name"),
        "memory": _field("/proc/meminfo", "MemTotal"),
        "load_average": os.getloadavg()[0],
        "kernel": platform.release(),
        "system": platform.system(),
        "python": platform.python_version(),
        "aiohttp": aiohttp.__version__,
        "duro": version("duro-webhooks"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _field(file: str, name: str) -> str:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "unknown")
