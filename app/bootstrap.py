"""The one place where real parts are chosen and joined."""

from typing import Any

from sqlalchemy import URL, Engine, create_engine, make_url

from app import tracing
from app.broker import CeleryDispatcher, NoBroker, make_celery
from app.core.dispatch import Dispatcher
from app.core.fleet import Fleet, Limits, prepare_engine
from app.core.foreign import ForeignTable, Source
from app.core.live import LiveStore
from app.live import NoLive, RedisLive
from app.settings import Settings
from app.storage import FolderStore
from app.vault import FernetVault

PATIENCE: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""How long a PostgreSQL that is silent is waited for (seconds; the last one milliseconds); left to itself, for ever, or
until TCP gives up after a quarter of an hour. Any of them may stand in DATABASE_URL, and counts then.

Source: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
"""


def make_fleet(settings: Settings) -> Fleet:
    """Join database, broker, live store and image store as the settings say."""
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and url.database:
        (settings.data_dir / "db").mkdir(parents=True, exist_ok=True)
    return Fleet(
        engine=prepare_engine(make_engine(url)),
        dispatcher=make_dispatcher(settings),
        images=FolderStore(settings.data_dir / "images"),
        live=make_live(settings),
        limits=Limits(
            max_attempts=settings.max_attempts,
            reject_unserved=settings.reject_unserved,
            max_size=settings.max_size,
            safety_check=settings.safety_check,
            safety_model=settings.safety_model,
            background_model=settings.background_model,
            max_queued=settings.max_queued_per_token,
            webhook_retry_seconds=settings.webhook_retry_seconds,
            idle_check_ins_per_second=settings.idle_check_ins_per_second,
        ),
        vault=FernetVault(settings.secret_key, settings.data_dir / "db" / "secret.key"),
        foreign=make_foreign(settings),
        traceparent=tracing.traceparent,
    )


def make_engine(url: URL, **more: Any) -> Engine:
    """Make what connects to a database; a connection is looked at before use, and not waited for long."""
    patience = PATIENCE if url.get_backend_name() == "postgresql" else {}
    known = {name: value for name, value in patience.items() if name not in url.query}
    return create_engine(url, pool_pre_ping=True, hide_parameters=True, connect_args=known, **more)


def make_foreign(settings: Settings) -> ForeignTable | None:
    """Find the table that the catalogue is read from; None: it is our own."""
    if not settings.catalog_table:
        return None
    engine = make_engine(make_url(settings.catalog_database_url or settings.database_url), pool_size=2)
    source = Source(
        table=settings.catalog_table, columns=dict(settings.catalog_columns), size_unit=settings.catalog_size_unit
    )
    return ForeignTable(engine, source)


def make_dispatcher(settings: Settings) -> Dispatcher:
    """Choose how bells are rung."""
    return CeleryDispatcher(make_celery(settings)) if settings.broker_url else NoBroker()


def make_live(settings: Settings) -> LiveStore:
    """Choose where progress is kept; without Redis nothing is seen moving, and everything else works."""
    return RedisLive(settings.live_url) if settings.live_url.startswith(("redis", "unix")) else NoLive()
