"""The database: one declarative base, one way to open it, one way to start a transaction.

SQLite is opened in WAL mode and every writing transaction begins with BEGIN IMMEDIATE: a
transaction that reads first and writes later cannot be upgraded while another writes, and
the busy timeout does not help it (https://www.sqlite.org/lang_transaction.html).
"""

import asyncio
import functools
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, URL, DateTime, Dialect, Engine, MetaData, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, InvalidatePoolError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import ConnectionPoolEntry, NullPool
from sqlalchemy.types import TypeDecorator

_TRUSTED_S = 1.0
_REVISION = re.compile(r'^(revision|down_revision) = "(\w+)"', re.MULTILINE)


class DatabaseError(Exception):
    """The database cannot be used as it is; the message says what to do about it."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware moment in UTC on both databases; SQLite would hand back a naive one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time without a zone cannot be stored: {value!r}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Base of every table. References within a domain are foreign keys; across domains plain ids."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own protocol
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        list[str]: JSON,
        list[dict[str, Any]]: JSON,
    }


@dataclass(frozen=True)
class DatabaseOptions:
    """Where the data is. ``url`` as SQLAlchemy writes it, ``sqlite+aiosqlite:///…`` or
    ``postgresql+psycopg://…``."""

    url: str
    pool_size: int = 5
    """Connections that are kept open; 0: each transaction opens its own, as it must be where several event
    loops share one engine."""
    connect: timedelta = timedelta(seconds=5)
    """Longest time to a connection with PostgreSQL, for each address that its name has. At least two seconds,
    in whole ones (https://www.postgresql.org/docs/current/libpq-connect.html). ``connect_timeout`` in the
    address wins."""


class Database:
    """An opened database. ``work()`` writes, ``look()`` reads; both are one transaction."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._write = async_sessionmaker(engine, expire_on_commit=False)
        self._read = async_sessionmaker(
            engine.execution_options(trunkline_read_only=True), expire_on_commit=False
        )

    @asynccontextmanager
    async def work(self) -> AsyncIterator[AsyncSession]:
        """One unit of work: committed when the block ends, undone when it raises."""
        async with self._write() as session, session.begin():
            yield session

    @asynccontextmanager
    async def look(self) -> AsyncIterator[AsyncSession]:
        """A consistent read that takes no write lock."""
        async with self._read() as session, session.begin():
            yield session

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self.engine.dialect.name

    async def close(self) -> None:
        """Give all connections back."""
        await self.engine.dispose()


def open_database(options: DatabaseOptions) -> Database:
    """Make the engine; nothing is connected yet.

    Raises DatabaseError when the address is none, its driver is not installed or its folder is missing.
    """
    try:
        url = make_url(options.url)
    except ArgumentError as error:
        raise DatabaseError(
            f"{options.url!r} is no database address; write sqlite+aiosqlite:///path/to/file.db "
            "or postgresql+psycopg://user:password@host/name"
        ) from error
    pool: dict[str, Any] = {"pool_size": options.pool_size, "max_overflow": 5}
    if options.pool_size == 0:
        pool = {"poolclass": NullPool}
    if url.get_backend_name() == "sqlite":
        if url.database and not Path(url.database).parent.is_dir():
            raise DatabaseError(
                f"the folder of the database does not exist: {Path(url.database).parent}; "
                "create it, or run: trunkline db upgrade"
            )
        engine = create_async_engine(url, connect_args={"timeout": 10}, **pool)
        prepare_sqlite(engine.sync_engine)
    else:
        try:
            engine = create_async_engine(
                url, connect_args=postgres_arguments(url, options.connect), **pool
            )
            check_after_rest(engine.sync_engine)
        except ImportError as error:
            raise DatabaseError(
                "the PostgreSQL driver is not installed; install trunkline[postgres]"
            ) from error
    return Database(engine)


def postgres_arguments(
    url: URL, connect: timedelta = DatabaseOptions.connect
) -> dict[str, int | str]:
    """What psycopg is told besides *url*, so that a server that cannot be reached is an error and no wait.

    Without it a server whose machine has gone is waited for as long as TCP tries again, which is minutes, and
    for ever by those who listen for notifications.
    """
    limits: dict[str, int | str] = {
        "connect_timeout": round(connect.total_seconds()),
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 2,
        "tcp_user_timeout": 15_000,
    }
    return {name: value for name, value in limits.items() if name not in url.query}


def check_after_rest(engine: Engine) -> None:
    """Ask a connection whether it still lives when it has lain in the pool for a second or more.

    ``pool_pre_ping`` asks at every use, which is a trip to the server and back for each transaction. A
    connection that breaks within that second fails the one transaction that meets it; the pool then throws
    away all of its age.
    """

    @event.listens_for(engine, "checkin")
    def on_checkin(connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
        record.info["rests_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def on_checkout(connection: DBAPIConnection, record: ConnectionPoolEntry, proxy: Any) -> None:
        since = record.info.get("rests_since")
        if since is None or time.monotonic() - since < _TRUSTED_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            # The pool then opens another one.
            raise InvalidatePoolError("the connection was lost while it rested") from error


def prepare_sqlite(engine: Engine) -> None:
    """Set the pragmas and the way transactions begin on a SQLite engine."""

    @event.listens_for(engine, "connect")
    def on_connect(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # we emit BEGIN ourselves
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        # In WAL mode NORMAL may lose the last commits to a power cut, never to a killed process.
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA busy_timeout=10000")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Any) -> None:
        read_only = connection.get_execution_options().get("trunkline_read_only")
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def insert_for(session: AsyncSession, table: Any) -> Any:
    """An INSERT that knows ON CONFLICT in the session's own dialect."""
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def is_of_the_models(name: str | None, kind: str, parents: Any) -> bool:
    """Whether alembic compares a table or index with the models: not those of full-text search, which
    migrations make by hand."""
    return name is None or kind not in ("table", "index") or "_fts" not in name


def migrations_folder() -> Path:
    """Where alembic's scripts lie: inside the installed package, or at the checkout's root."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "migrations"
    return packaged if packaged.is_dir() else package.parents[1] / "migrations"


def alembic_config(url: str) -> Any:
    """Alembic's configuration for the database at *url*, wherever the migrations lie."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes["url"] = url
    return config


@functools.cache
def head_revision() -> str | None:
    """The newest revision: the one that no other comes after.

    Alembic would run every migration's file to tell, which is a part of each process's start.
    """
    found, followed = set[str](), set[str]()
    for path in (migrations_folder() / "versions").glob("*.py"):
        said = dict(_REVISION.findall(path.read_text(encoding="utf-8")))
        found.add(said["revision"])
        if "down_revision" in said:
            followed.add(said["down_revision"])
    return max(found - followed, default=None)


async def revisions(database: Database) -> tuple[str | None, str | None]:
    """The revision the database is at (None when empty) and the one this program needs.

    Raises DatabaseError when the database cannot be opened.
    """
    head = await asyncio.to_thread(head_revision)
    try:
        async with database.look() as session:
            connection = await session.connection()
            has_table = await connection.run_sync(
                lambda sync: sync.dialect.has_table(sync, "alembic_version")
            )
            if not has_table:
                return None, head
            found = await connection.execute(text("SELECT version_num FROM alembic_version"))
            return found.scalar_one_or_none(), head
    except (DBAPIError, OSError) as error:
        raise DatabaseError(
            f"the database {shown(database.engine.url)} cannot be opened: {_first_line(error)}; "
            "check the address, that the server runs, and the permissions of the file"
        ) from error


async def check_revision(database: Database) -> None:
    """Raise DatabaseError, with the command to run, unless the database is at this program's revision."""
    current, head = await revisions(database)
    if current != head:
        raise DatabaseError(
            f"the database {shown(database.engine.url)} is at revision {current or 'none (empty)'}, "
            f"this program needs {head}; run: trunkline db upgrade"
        )


async def upgrade(url: str) -> None:
    """Bring the database at *url* to this program's revision. Raises DatabaseError."""
    from alembic import command
    from alembic.util.exc import CommandError

    try:
        await asyncio.to_thread(command.upgrade, alembic_config(url), "head")
    except CommandError as error:
        raise DatabaseError(
            f"the database {shown(make_url(url))} was made by another version of this program "
            f"({_first_line(error)}); use that version, or another database"
        ) from error
    except (DBAPIError, OSError) as error:
        raise DatabaseError(
            f"the database {shown(make_url(url))} cannot be upgraded: {_first_line(error)}"
        ) from error


def shown(url: Any) -> str:
    """The address as it may be printed, the password hidden."""
    return str(url.render_as_string(hide_password=True))


def _first_line(error: BaseException) -> str:
    original = getattr(error, "orig", None) or error
    return str(original).strip().splitlines()[0] if str(original).strip() else type(error).__name__
