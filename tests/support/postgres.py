"""A real PostgreSQL for the tests: a cluster of its own in a temporary folder, on a free port of loopback."""

import atexit
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL, make_url

from tests.support.processes import WAIT_SECONDS, Process, free_port

ROLE = "fleet"
UNPRIVILEGED = ("postgres", "nobody")
"""Who runs the server where the tests run as root: PostgreSQL refuses to."""

FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_connections": "200"}
"""The tests' data need not survive a power cut."""

SAFE = FAST | {"synchronous_commit": "on"}
"""What was committed survives the server's own death, if not the computer's."""


class PostgresServer:
    """A server that can be taken away and brought back."""

    def __init__(self, port: int, start: Callable[[], Process]) -> None:
        self._port = port
        self._start = start
        self.process: Process | None = None

    def start(self) -> None:
        """Start it, or bring it back with what it had kept."""
        self.process = self._start()
        self.process.wait_until(self.answers, "PostgreSQL starts")

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Take it away: SIGINT cuts its clients off, SIGTERM would wait until every one has gone."""
        if self.process is not None:
            self.process.stop(number, WAIT_SECONDS)
            self.process = None

    def url(self, database: str) -> URL:
        """Return the address of a database of this server."""
        return make_url(f"postgresql+psycopg://{ROLE}@127.0.0.1:{self._port}/{database}")

    def answers(self) -> bool:
        """Say whether it takes connections."""
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def create(self, database: str) -> URL:
        """Make an empty database."""
        with self._connect() as connection:
            connection.execute(f'CREATE DATABASE "{database}"')
        return self.url(database)

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(host="127.0.0.1", port=self._port, user=ROLE, dbname="postgres", autocommit=True)


@contextmanager
def running_postgres(options: Mapping[str, str] = FAST, *, dies_with_us: bool = False) -> Iterator[PostgresServer]:
    """Run a server as long as the block lasts."""
    binaries, user = find_binaries(), _user()
    blank, folder = _blank(), _folder()
    try:
        subprocess.run(["cp", "-a", blank, folder / "data"], check=True, user=user, cwd=folder)
        port = free_port()
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        command = [binaries / "postgres", "-D", folder / "data", "-h", "127.0.0.1", "-p", port, "-k", folder, *words]

        def start() -> Process:
            words = [str(word) for word in command]
            return Process(words, folder / "log", user=user, cwd=folder, dies_with_us=dies_with_us)

        server = PostgresServer(port, start)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def _blank() -> Path:
    """Make an empty cluster once for a process that runs several: `initdb` takes two seconds of a processor."""
    folder = _folder()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    words: list[str | Path] = ["-D", folder / "data", "-U", ROLE, "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
    subprocess.run([find_binaries() / "initdb", *words], check=True, capture_output=True, user=_user(), cwd=folder)
    return folder / "data"


def _folder() -> Path:
    """Make a folder for whom the server runs as."""
    folder = Path(tempfile.mkdtemp(prefix="imagefleet-postgres-"))
    if user := _user():
        shutil.chown(folder, user)
    return folder


def find_binaries() -> Path:
    """Find the folder of `postgres` and `initdb`; a missing server ends the whole run, it skips nothing."""
    if found := shutil.which("postgres"):
        return Path(found).resolve().parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not debian:
        pytest.exit("the tests need PostgreSQL: apt-get install postgresql", returncode=1)
    return debian[-1].parent


def _user() -> str | None:
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in UNPRIVILEGED if name in known)
