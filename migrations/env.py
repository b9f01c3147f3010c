"""Alembic's entry: which tables there are and how to reach the database."""

import asyncio

from alembic import context
from sqlalchemy import Connection, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

import trunkline.access.models
import trunkline.calls.models
import trunkline.crm.models
import trunkline.outbox.models
import trunkline.profiles.models
import trunkline.webhooks.models  # noqa: F401 - each import above adds its tables to the metadata
from trunkline.kit.db import Base, is_of_the_models, postgres_arguments, prepare_sqlite


def url() -> str:
    """What the caller handed over, or the settings' own when alembic is run by hand."""
    given = context.config.attributes.get("url")
    if given:
        return str(given)
    from trunkline.settings import Settings

    return Settings.load().database_url


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        include_name=is_of_the_models,
    )
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL lock_timeout = '5s'")
        context.run_migrations()


def keep_children(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    """Changing a column of SQLite's makes the table anew, and dropping the old one would delete, with foreign
    keys on, the rows that refer to it (https://www.sqlite.org/lang_altertable.html, section 7)."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=OFF")
    cursor.close()


async def main() -> None:
    address = make_url(url())
    limits = {} if address.get_backend_name() == "sqlite" else postgres_arguments(address)
    engine = create_async_engine(address, poolclass=NullPool, connect_args=limits)
    if engine.dialect.name == "sqlite":
        prepare_sqlite(engine.sync_engine)
        event.listen(engine.sync_engine, "connect", keep_children)
    async with engine.connect() as connection:
        await connection.run_sync(run)
        await connection.commit()
    await engine.dispose()


asyncio.run(main())
