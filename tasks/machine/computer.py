"""The computer that a machine is: its processors and its memory, whatever draws on it."""

import os
import socket
from typing import Any


def about() -> dict[str, Any]:
    """Describe it: {"name", "cpus", "load", "memory_total", "memory_free"}, bytes.

    `load` is how many processes wanted a processor in the last minute. Several machines on one computer tell the same.
    Nothing is told where psutil is not installed: who only asks another server to draw needs no more than a broker.
    """
    try:
        import psutil  # noqa: PLC0415  # for drawing workers only
    except ImportError:
        return {}
    memory = psutil.virtual_memory()
    return {
        "name": socket.gethostname(),
        "cpus": os.cpu_count() or 1,
        "load": round(os.getloadavg()[0], 2),
        "memory_total": int(memory.total),
        "memory_free": int(memory.available),
    }
