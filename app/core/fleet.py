"""The fleet as the server holds it: sessions, the dispatcher, the image store, the live store and the clock."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sqlalchemy import Engine, event
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from app.core.dispatch import Dispatcher, Message
from app.core.errors import Unreadable
from app.core.live import LiveStore
from app.core.measures import Measure, Part, Tally, parts_of
from app.core.names import NameBook
from app.core.turnstile import Turnstile

if TYPE_CHECKING:
    from app.core.foreign import ForeignModel

log = logging.getLogger(__name__)

SQLITE_BUSY_MS = 10_000
"""How long a writer of SQLite waits for another one whose turn it is; only a stuck process holds its lock this long."""

TURN_SECONDS = 30.0
"""How long a writer of SQLite waits for its turn behind all others, before it tries its luck."""


HAS_TURN = "imagefleet.has_turn"


class ImageStore(Protocol):
    """Where the bytes of pictures lie."""

    def put(self, key: str, data: bytes) -> None:
        """Keep `data` under `key`, whole or not at all."""

    def get(self, key: str) -> bytes:
        """Read what was kept; raises KeyError when it is gone."""

    def delete(self, key: str) -> None:
        """Drop what was kept; nothing happens when it is gone already. Raises OSError when it could not be dropped."""

    def within(self, folder: str, before: datetime) -> Iterable[str]:
        """Name what lies in a folder and was written before a moment, unfinished files too."""


class OtherCatalogue(Protocol):
    """A catalogue that is kept by somebody else, and only read."""

    @property
    def name(self) -> str:
        """Return what it is called, for people."""

    def check(self) -> None:
        """Raise WrongTable where it is not as it was said to be."""

    def find(self, ids: Iterable[str]) -> Mapping[str, "ForeignModel"]:
        """Look many models up at once, by id."""

    def everything(self) -> Sequence["ForeignModel"]:
        """Return all models."""

    def close(self) -> None:
        """Let go of its connections."""


class Vault(Protocol):
    """What encrypts the secrets that must not lie in the database as they are."""

    def seal(self, text: str) -> str:
        """Encrypt."""

    def unseal(self, sealed: str) -> str:
        """Decrypt; raises Unreadable for what was encrypted with a key that is not here."""


class NoVault:
    """For a fleet that was given no key: it keeps no secret rather than an open one."""

    def seal(self, text: str) -> str:  # noqa: ARG002  # the port's signature
        """Refuse."""
        raise Unreadable("this program has no key to encrypt secrets with")

    def unseal(self, sealed: str) -> str:  # noqa: ARG002  # the port's signature
        """Refuse."""
        raise Unreadable("this program has no key to decrypt secrets with")


@dataclass(frozen=True, slots=True)
class Limits:
    """The numbers by which the fleet judges jobs and machines."""

    max_attempts: int = 3
    silent_after: float = 10.0
    """Seconds without a check-in after which a machine's jobs go back to the queue."""
    claim_grace: float = 5.0
    """Seconds for which a fresh claim may be missing from its machine's check-in: the two may cross."""
    ring_again_after: float = 5.0
    """Seconds after which the sweeper may ring for a job a second time."""
    reject_unserved: bool = False
    webhook_retry_seconds: float = 5.0
    """Seconds from a webhook's first failure to its second try, at most; later waits follow from it."""
    max_size: int = 2048
    """Most pixels of a picture's side; a larger picture to begin with is drawn smaller where the order says no size."""
    safety_check: bool = False
    """Every picture is checked, whatever its order says."""
    safety_model: str = ""
    """Id of the safety checker; empty: the only one in the catalogue."""
    background_model: str = ""
    """Id of what cuts out where an order names nothing; empty: the only one in the catalogue that may be taken."""
    max_queued: int = 0
    """How many jobs of one owner may wait at a time; 0: as many as come."""
    idle_check_ins_per_second: float = 33.0
    """Machines that have nothing to do check in so often in all, or, where there are few, each every 3 seconds."""


@dataclass(slots=True)
class Transaction:
    """One unit of change: a session, the moment it began, and the bells to ring once it is safe."""

    session: Session
    now: datetime
    limits: Limits
    messages: list[Message] = field(default_factory=list)
    wishes: list[Callable[[], None]] = field(default_factory=list)
    vault: Vault = field(default_factory=NoVault)
    measured: list[Mapping[Part, float]] = field(default_factory=list)
    traceparent: str = ""
    """The trace that this change is part of."""
    names: NameBook = field(default_factory=NameBook)
    """What prompts may call models."""

    def count(self, measure: Measure, *labels: str, more: float = 1) -> None:
        """Let a counter grow when the change is committed."""
        self.measured.append(parts_of(measure, more, labels))

    def observe(self, measure: Measure, seconds: float, *labels: str) -> None:
        """Note how long something took, when the change is committed."""
        self.measured.append(parts_of(measure, seconds, labels))

    def after_commit(self, message: Message) -> None:
        """Ring this bell when the change is committed, and not at all when it is not."""
        self.messages.append(message)

    def and_then(self, wish: Callable[[], None]) -> None:
        """Do this when the change is committed; it must not raise, and must not matter if it never happens."""
        self.wishes.append(wish)


@dataclass(frozen=True, slots=True)
class Fleet:
    """Everything a door needs, made once at an entrance and handed down."""

    engine: Engine
    dispatcher: Dispatcher
    images: ImageStore
    live: LiveStore
    limits: Limits = field(default_factory=Limits)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    vault: Vault = field(default_factory=NoVault)
    foreign: OtherCatalogue | None = None
    """Where the catalogue is read from, if that is not our own tables."""
    tally: Tally = field(default_factory=Tally)
    """What this process has measured; `counters.write` writes it down."""
    traceparent: Callable[[], str] = str
    """Tells which trace this thread is part of; empty: none."""
    names: NameBook = field(default_factory=NameBook)
    """What this process knows of the names of models."""

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Change something: commit on leaving, then ring the bells; an exception takes everything back."""
        with sessionmaker(self.engine)() as session:
            session.connection(execution_options={"writes": True})
            tx = Transaction(
                session,
                self.clock(),
                self.limits,
                vault=self.vault,
                traceparent=self.traceparent(),
                names=self.names,
            )
            yield tx
            session.commit()
        for grown in tx.measured:
            self.tally.add(grown)
        if tx.messages:
            sent = self.dispatcher.send(tx.messages)
            if sent < len(tx.messages):
                log.warning("%d bells could not be rung; the sweeper will ring them", len(tx.messages) - sent)
        for wish in tx.wishes:
            wish()

    def close(self) -> None:
        """Let go of the databases' connections."""
        self.engine.dispose()
        if self.foreign is not None:
            self.foreign.close()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Look at things without changing them."""
        with sessionmaker(self.engine)() as session:
            yield session


def prepare_engine(engine: Engine) -> Engine:
    """Make SQLite behave as the rest of the code expects of a database: WAL, foreign keys, one writer at a time.

    A transaction that writes takes SQLite's lock at its start (`BEGIN IMMEDIATE`): a lock upgrade in the middle fails
    at once with "database is locked" when another writer was faster, whatever the busy timeout. It also stands for
    `SELECT ... FOR UPDATE`, which SQLite does not have.
    They come in the order in which they ask: left to itself SQLite lets some wait until they give up.
    Source: https://www.sqlite.org/lang_transaction.html and SQLAlchemy's page on the SQLite dialect.
    """
    if engine.dialect.name != "sqlite":
        return engine
    database = engine.url.database
    turnstile = Turnstile(Path(f"{database}-turn")) if database and database != ":memory:" else None

    @event.listens_for(engine, "connect")
    def on_connect(connection: object, _record: object) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]  # the driver must not begin by itself
        cursor = connection.cursor()  # type: ignore[attr-defined]  # a DB-API connection
        cursor.execute(f"PRAGMA busy_timeout={SQLITE_BUSY_MS}")  # first: the others may have to wait already
        cursor.execute("PRAGMA journal_mode=WAL")
        # FULL, not NORMAL: an accepted job must survive a power cut. It costs a third of the inserts per second.
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        if writes and turnstile is not None and not connection.info.get(HAS_TURN):
            connection.info[HAS_TURN] = turnstile.enter(TURN_SECONDS)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    @event.listens_for(engine, "checkin")  # not at the commit: it tells of itself before it is done
    def on_checkin(_connection: object, record: ConnectionPoolEntry) -> None:
        if turnstile is not None and record.info.pop(HAS_TURN, False):
            turnstile.leave()

    return engine
